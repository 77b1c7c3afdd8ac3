"""A base model reaches its guest by the first source that can, and a guest that lies about it gets nothing but the model's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.legs import base_model
from pytest_glasshouse.legs.base_model import _advice, bring
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.model_sources import ModelSources
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.wire import frames
from pytest_glasshouse.workloads.base import BaseModel
from tests.loopback.causal_models import write
from tests.loopback.hub import Hub
from tests.unit.agent.arriving_models import FILES, FIRST, MODEL, TOTAL, Guest, digests
from tests.unit.channel.lying_agent import LyingAgent
from tests.unit.legs.lying_row import vanish
from tests.unit.legs.model_row import COMMIT, REPO, ServedAgent, base_of, brought_to, first_round, state

TOKEN = "hf_" + "a" * 34
PUSH, THERE = ModelSources(only="pushed"), ModelSources(directory="/models", only="there")


@pytest.fixture(autouse=True)
def _ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "_ASK_S", 0.0)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "guest")
    yield made
    made.end()


# With an agent as it is.


@pytest.mark.parametrize("kept", ["memory", "directory"])
def test_a_model_is_pushed_as_it_is(kept: str, guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CHUNK", 40_000)
    base = base_of(FILES, directory=write(FILES, tmp_path / "model") if kept == "directory" else None)
    told: list[Progress] = []
    with ServedAgent(guest.agent) as served:
        arrival, ended = brought_to(served.address, base, PUSH, told)
    assert ended is None
    assert arrival is not None
    assert {**arrival, "ms": 0} == {"source": "pushed", "held": "files", "files": len(FILES), "bytes": TOTAL, "ms": 0}
    assert guest.below() == digests({f"{MODEL[:16]}/{name}": content for name, content in FILES.items()})
    pushed = [each.fraction for each in told if each.phase == "push" and each.fraction is not None]
    assert pushed == sorted(pushed)
    assert all(0 <= each <= 1 for each in pushed)


@pytest.mark.parametrize("when", ["before", "after"])
def test_connections_that_are_cut_lose_nothing(when: str, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third request of any kind is not carried out, or is and has no answer: each is carried out once all the same."""
    monkeypatch.setattr(frames, "CHUNK", 20_000)
    with ServedAgent(guest.agent, lambda op, number: when if number % 3 == (0 if op == "model" else 1) else "") as served:
        arrival, ended = brought_to(served.address, base_of(FILES), PUSH)
        assert served.counts["lay"] > TOTAL / 20_000
    assert ended is None
    assert arrival is not None
    assert guest.below() == digests({f"{MODEL[:16]}/{name}": content for name, content in FILES.items()})


def test_sources_follow_each_other_until_one_has_the_model(guest: Guest, tmp_path: Path) -> None:
    """Neither a directory without it nor a hub that does not know it is the end."""
    with Hub({"org/other": {COMMIT: FILES}}) as hub, ServedAgent(guest.agent) as served:
        sources = ModelSources(directory=str(tmp_path / "nowhere"))
        arrival, ended = brought_to(served.address, base_of(FILES, hub=hub.url), sources)
        assert hub.asked("resolve")
    assert ended is None
    assert arrival is not None
    assert arrival["source"] == "pushed"


@pytest.mark.parametrize("kept", ["gated", "private"])
def test_a_token_is_handed_over_once_the_hub_asked_for_one(kept: str, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a private model a hub says that there is none: that is how it asks."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    options: dict[str, Any] = {kept: {REPO}}
    with Hub({REPO: {COMMIT: FILES}}, tokens={TOKEN: {REPO}}, **options) as hub, ServedAgent(guest.agent) as served:
        arrival, ended = brought_to(served.address, base_of(FILES, hub=hub.url), ModelSources(only="hub"))
        asked = [one.authorization for one in hub.requests if one.host == "hub"]
        assert hub.tokens_seen("storage") == {None}
    assert ended is None
    assert arrival is not None
    assert arrival["source"] == "hub"
    assert asked[0] is None, "it was asked without one first"
    assert asked[-1] == f"Bearer {TOKEN}"
    assert TOKEN not in repr(arrival)


def test_a_token_is_kept_where_the_hub_asks_for_none(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub({REPO: {COMMIT: FILES}}) as hub, ServedAgent(guest.agent) as served:
        arrival, _ = brought_to(served.address, base_of(FILES, hub=hub.url), ModelSources(only="hub"))
        assert hub.tokens_seen("hub") == {None}
    assert arrival is not None


# With one that lies.


def wants(name: str, offset: int = 0, **fields: Any) -> dict[str, Any]:
    return state("push", wants={"name": name, "offset": offset}, **fields)


def brought(
    arrival: Any, sources: ModelSources = PUSH, *, base: BaseModel | None = None, **answers: Any
) -> tuple[Any, Ended | None, LyingAgent, str]:
    """What comes of a guest that answers `arrival` so, and why it is not trusted any more."""
    with LyingAgent({"arrival": arrival, **answers}) as agent:
        current = first_round(agent.address, base or base_of(FILES))
        found, ended = bring(current, sources)
        current.channel.close()
    return found, ended, agent, current.untrusted_guest


#: What a guest may want that no guest wants, by its source.
WANTED: dict[str, tuple[ModelSources, dict[str, Any]]] = {
    "another file": (PUSH, wants("other.json")),
    "a path above": (PUSH, wants("../../../../etc/passwd")),
    "an absolute path": (PUSH, wants("/etc/passwd")),
    "a file of this directory": (PUSH, wants("secret.txt")),
    "no name": (PUSH, wants("")),
    "behind the end": (PUSH, wants(FIRST, len(FILES[FIRST]))),
    "far behind the end": (PUSH, wants(FIRST, 1 << 50)),
    "an empty file": (PUSH, wants("empty.txt")),
    "before the beginning": (PUSH, wants(FIRST, -1)),
    "a number": (PUSH, state("push", wants=7)),
    "a name that is none": (PUSH, state("push", wants={"name": None, "offset": 0})),
    "what it has itself": (THERE, {**wants(FIRST), "source": "there"}),
}


@pytest.mark.parametrize("what", WANTED)
def test_a_guest_that_wants_what_no_guest_wants_gets_nothing_and_is_ended(what: str, tmp_path: Path) -> None:
    sources, answer = WANTED[what]
    directory = write({**FILES, "secret.txt": b"secret"}, tmp_path / "model")
    found, ended, agent, untrusted = brought(answer, sources, base=base_of(FILES, directory=directory))
    assert found is None
    assert ended is not None
    assert ended.outcome == "error"
    assert ended.reason.startswith("the guest broke the protocol: ")
    assert ended.reason.isprintable()
    assert str(tmp_path) not in ended.reason
    assert agent.sent["lay"] == []
    assert untrusted


def test_a_guest_that_wants_a_file_for_ever_gets_each_twice_at_most() -> None:
    """Otherwise it is sent what costs by the byte until the time is over."""
    found, ended, agent, untrusted = brought(wants(FIRST))
    assert found is None
    assert ended is not None
    assert "expected to be asked for each file 2 times at most" in ended.reason
    assert untrusted
    assert sum(map(len, agent.sent["lay"])) <= 2 * TOTAL
    assert {request["name"] for request in agent.asked["lay"]} == {FIRST}
    assert set(digests({str(number): each for number, each in enumerate(agent.sent["lay"])}).values()) == set(
        digests({FIRST: FILES[FIRST]}).values()
    )


@pytest.mark.parametrize("offset", [0, 1, 100_000, len(FILES[FIRST]) - 1])
def test_a_guest_gets_the_rest_of_a_file_from_where_it_says(offset: int, tmp_path: Path) -> None:
    for directory in (None, write(FILES, tmp_path / "model")):
        _, ended, agent, _ = brought([wants(FIRST, offset), state("ready")], base=base_of(FILES, directory=directory))
        assert ended is None
        assert [request["offset"] for request in agent.asked["lay"]] == [offset]
        assert digests({"": b"".join(agent.sent["lay"])}) == digests({"": FILES[FIRST][offset:]})


def test_a_guest_that_is_never_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told so, and what it says then is its last word."""
    for name in ("_IDLE_S", "_AT_LEAST_S"):
        monkeypatch.setattr(base_model, name, 0)
    found, ended, agent, untrusted = brought(state("verify"))
    assert found is None
    assert ended is not None
    assert (ended.outcome, ended.decision) == ("infrastructure", "nothing was trained; run the row again")
    assert "pushed: it did not arrive within 0 s" in ended.reason
    assert not untrusted
    assert agent.asked["arrival"][-1]["stop"] is True
    assert all("stop" not in request or request["stop"] in (True, False) for request in agent.asked["arrival"])


@pytest.mark.parametrize("fields", [
    {"done": 1 << 52, "total": 1}, {"done": 5, "total": 0}, {"done": 0, "total": 0}, {"done": 1 << 52, "total": 1 << 52},
])  # fmt: skip
def test_counts_that_are_lies_move_a_line_of_progress_and_nothing_else(fields: dict[str, int]) -> None:
    told: list[Progress] = []
    with LyingAgent({"arrival": [state("verify", **fields), state("download", **fields), state("ready", **fields)]}) as agent:
        arrival, ended = brought_to(agent.address, base_of(FILES), PUSH, told)
    assert ended is None
    assert arrival is not None
    assert (arrival["files"], arrival["bytes"]) == (len(FILES), TOTAL), "these the host knows itself"
    assert len(told) == 2
    assert all(each.fraction is None or 0 <= each.fraction <= 1 for each in told)


#: Answers to `arrival` that no agent gives.
ANSWERS: dict[str, Any] = {
    "another phase": state("done"),
    "another source": {**state("ready"), "source": "elsewhere"},
    "a negative count": state("verify", done=-1),
    "a count that is text": state("verify", total="1"),
    "a reason that is no code": state("failed", reason="\x1b[31m", detail="x"),
    "a detail that is no line": state("failed", reason="slow", detail="\x1b[2J::error::\u202eabc"),
    "a detail without end": state("failed", reason="slow", detail="x" * 5000),
    "a member too many": {**state("ready"), "overheadPct": 1},
    "a member too few": {"phase": "ready"},
    "nothing": {},
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_no_agent_gives_ends_the_row_and_the_guest(what: str) -> None:
    found, ended, agent, untrusted = brought(ANSWERS[what])
    assert found is None
    assert ended is not None
    assert ended.outcome == "error"
    assert ended.reason.isprintable()
    assert len(ended.reason) < 2000
    assert untrusted
    assert agent.sent["lay"] == []


#: What a guest says of its failure, and what the user reads.
FAILURES: dict[str, tuple[str, str, str]] = {
    "gated": ("gated", "the model is gated: the hub asks for a token that may read it", "set HF_TOKEN"),
    "another hub's word for it": ("gated", "the hub asks for a token that may read the model", "set HF_TOKEN"),
    "no space": ("no-space", "the guest has 3 MiB of disk left; the model needs 9", "more disk"),
    "no space while it is written": ("no-space", "No space left on device", "more disk"),
    "slow": ("slow", "no byte arrived from the hub for 180 s, after 7 MiB", "/docs/models/"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_is_one_sentence_that_says_what_to_do(what: str) -> None:
    reason, detail, advice = FAILURES[what]
    answer = state("failed", reason=reason, detail=detail)
    found, ended, _, untrusted = brought(answer)
    assert (found, untrusted) == (None, "")
    assert ended is not None
    assert ended.outcome == "infrastructure"
    assert ended.reason.startswith("model org/model did not reach the guest (pushed: ")
    assert detail in ended.reason
    assert advice in ended.reason


def test_a_guest_that_refuses_or_is_gone_ends_the_row() -> None:
    refusal = {"error": "IntegrityError", "detail": "base-model: expected the list of files of this digest; saw another"}
    told: tuple[dict[str, Any], ...] = ({"model": refusal}, {"arrival": refusal}, {"arrival": wants(FIRST), "lay": refusal})
    for answers in told:
        _, ended, _, untrusted = brought(answers.pop("arrival", state("ready")), **answers)
        assert ended is not None
        assert (ended.outcome, untrusted) == ("infrastructure", "")
        assert "the guest refused" in ended.reason


def test_a_guest_that_is_gone_is_no_fault_of_the_model() -> None:
    with LyingAgent({"arrival": vanish}) as agent:
        current = first_round(agent.address, base_of(FILES), reconnect_s=0.0)
        found, ended = bring(current, PUSH)
        current.channel.close()
    assert found is None
    assert ended is not None
    assert (ended.outcome, current.untrusted_guest) == ("excluded", "")
    assert ended.reason.startswith("base model: ")


#: What becomes of a file of this machine while it is pushed.
CHANGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir())[0],  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_is_changed_here_while_it_is_pushed_ends_the_row(what: str, tmp_path: Path) -> None:
    """The guest wanted the rest for ever, and was asked without a pause."""
    directory = write(FILES, tmp_path / "model")
    CHANGES[what](directory / FIRST)
    found, ended, agent, untrusted = brought(wants(FIRST), base=base_of(FILES, directory=directory))
    assert (found, untrusted) == (None, "")
    assert ended is not None
    assert ended.outcome == "infrastructure"
    assert "this machine" in ended.reason
    assert str(tmp_path) not in ended.reason
    assert agent.sent["lay"] == []


def test_a_guest_that_is_ready_and_holds_the_model_nowhere_breaks_the_protocol() -> None:
    found, ended, _, untrusted = brought(state("ready", held=None))
    assert found is None
    assert ended is not None
    assert "where a model that is ready is held" in untrusted


def test_too_little_memory_has_advice_of_its_own() -> None:
    """No other disk would help."""
    assert "more memory" in _advice(["made: the guest's device has 3 MiB of memory left; the model needs 15000"])
    assert "more disk" in _advice(["made: the guest has 3 MiB of disk left; the model needs 15000"])
