"""What the host makes of a hub's answers, whatever these are: a model, or one sentence that names the model, the hub and what to do.

Most of it is asked in this process, by the functions that the product runs in another; that there is another, and what it is given,
is tested at the end.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError, InfrastructureError
from pytest_glasshouse.workloads import hub_client, model_hub
from pytest_glasshouse.workloads.model_files import digest_of, listed_content
from tests.loopback.causal_models import causal_lm
from tests.loopback.hub import Hub
from tests.loopback.hub_faults import (
    Changed,
    Compressed,
    Cut,
    Endless,
    Flipped,
    Headers,
    HubFault,
    HubOperation,
    HungUp,
    Moved,
    RangeIgnored,
    Redirected,
    Refused,
    WrongSize,
)
from tests.loopback.hub_hostile import HOSTILE_HEADERS, HOSTILE_INFO, HOSTILE_NAMES, huge_json, many_siblings
from tests.unit.workloads.hub_model import (
    COMMIT,
    FILES,
    FIRST,
    INDEX,
    LATER,
    MIB,
    REPO,
    SECOND,
    described,
    hub_of,
    refused,
)


def changed(files: Mapping[str, bytes] = FILES, **content: bytes | None) -> dict[str, bytes]:
    """The files with others in their places; None takes one away. Underscores stand for dots."""
    named = {name.replace("__", "-").replace("_", "."): each for name, each in content.items()}
    return {name: each for name, each in {**files, **named}.items() if each is not None}


def test_a_model_is_described_without_a_byte_of_its_weights(hub: Hub) -> None:
    base = described(hub)
    assert (base.model_id, base.revision, base.on_host, base.stand_in) == (REPO, COMMIT, False, False)
    assert base.files == listed_content(FILES)
    assert base.sha256 == digest_of(listed_content(FILES))
    assert dict(base.content) == {each.name: FILES[each.name] for each in base.files if not each.name.endswith(".safetensors")}
    heads = {name: int.from_bytes(FILES[name][:8], "little") + 8 for name in (FIRST, SECOND)}
    asked = {name: sum(one.sent_bytes for one in hub.asked("large", method="GET", file=name)) for name in heads}
    assert asked == heads
    assert base.hub is not None
    assert (base.hub.endpoint, base.hub.repo, base.hub.commit) == (hub.url, REPO, COMMIT)


def test_the_commit_that_was_named_is_described_though_the_branch_moved() -> None:
    with Hub({REPO: {COMMIT: FILES, LATER: changed(README_md=b"later")}}) as hub:
        assert described(hub).revision == LATER
        assert described(hub, revision=COMMIT).revision == COMMIT


def test_a_branch_that_moves_while_it_is_described_is_described_at_one_commit() -> None:
    with Hub({REPO: {LATER: causal_lm("qwen2", shards=2, seed=12), COMMIT: FILES}}) as hub:
        hub.arm(Moved(commit=LATER), on="resolve")
        base = described(hub)
        assert hub.unmet() == ()
    assert (base.revision, base.files) == (COMMIT, listed_content(FILES))


def test_a_repository_that_was_renamed_is_found() -> None:
    with Hub({"Tests/New": {COMMIT: FILES}}, renamed={REPO: "Tests/New"}) as hub:
        assert described(hub).files == listed_content(FILES)


#: What passes, and where: each is met by as many requests as are tried.
PASSING: dict[str, tuple[HubFault, HubOperation, str | None]] = {
    "429": (Refused(status=429, retry_after_s=7), "info", None),
    "503": (Refused(status=503), "info", None),
    "500 of a file": (Refused(status=500), "resolve", "config.json"),
    "502 of the storage": (Refused(status=502), "large", FIRST),
    "a link that has expired": (Refused(status=403), "large", FIRST),
    "hung up": (HungUp(), "info", None),
    "hung up at the storage": (HungUp(), "large", SECOND),
    "cut": (Cut(after_bytes=20), "info", None),
    "cut at once": (Cut(after_bytes=0), "resolve", "tokenizer.json"),
    "cut in a head": (Cut(after_bytes=3), "large", FIRST),
    "reset": (Cut(after_bytes=100, reset=True), "small", "tokenizer.json"),
}


@pytest.mark.parametrize("what", PASSING)
def test_what_passes_is_asked_for_again(what: str, hub: Hub) -> None:
    fault, operation, file = PASSING[what]
    hub.arm(fault, on=operation, file=file, method="GET", times=2)
    pauses: list[float] = []
    assert described(hub, pause=pauses.append).files == listed_content(FILES)
    assert hub.unmet() == ()
    assert pauses == ([7, 7] if what == "429" else [0.5, 1.0])


@pytest.mark.parametrize("what", PASSING)
def test_what_does_not_pass_in_time_is_one_sentence(what: str, hub: Hub) -> None:
    fault, operation, file = PASSING[what]
    hub.arm(fault, on=operation, file=file, method="GET", times=None)
    refused(hub, kind=InfrastructureError)
    met = [one for one in hub.asked(operation, method="GET") if file in (None, one.file)]
    assert len(met) == 5


def test_a_hub_that_names_a_long_time_is_asked_again_after_a_minute(hub: Hub) -> None:
    hub.arm(Refused(status=429, retry_after_s=86_400), on="info", times=None)
    pauses: list[float] = []
    with pytest.raises(InfrastructureError, match="status 429"):
        described(hub, pause=pauses.append)
    assert pauses == [60.0] * 4


@pytest.mark.parametrize("says", ["-1", "nan", "Wed, 21 Oct 2065 07:28:00 GMT", "9" * 300, "1e9", ""])
def test_a_time_that_is_no_number_of_seconds_is_passed_over(says: str) -> None:
    assert hub_client._refused(503, {"Retry-After": says}, redirected=False).retry_after_s == 0.0


@pytest.mark.parametrize("says", ["bytes 900-907/10000", "bytes 80-87/10000", "", "8-15", "bytes */10000"])
def test_another_range_than_was_asked_for_is_no_answer(says: str) -> None:
    """Its bytes would be written where others belong."""
    with pytest.raises(hub_client.HubError, match="another range") as caught:
        hub_client._start(206, {"Content-Range": says}, 8, redirected=False)
    assert caught.value.passing
    assert hub_client._start(206, {"Content-Range": "bytes 8-15/16"}, 8, redirected=False) == 8
    assert hub_client._start(200, {}, 8, redirected=False) == 0


#: What does not pass, where, and a part of the sentence.
LASTING: dict[str, tuple[HubFault, HubOperation, str | None, str]] = {
    "404": (Refused(status=404), "info", None, "status 404"),
    "a code that is a command": (Refused(status=400, code="\x1b[31m"), "info", None, "status 400"),
    "a flipped byte of the config": (Flipped(at=3), "small", "config.json", "sent another config.json"),
    "a flipped byte of the tokenizer": (Flipped(at=900), "small", "tokenizer.json", "sent another tokenizer.json"),
    "a byte too few": (WrongSize(by=-1), "small", "config.json", "sent another config.json"),
    "a byte too many": (WrongSize(by=1), "small", "config.json", "sent another config.json"),
    "packed": (Compressed(), "small", "config.json", "sent packed"),
    "a bomb": (Compressed(bomb_mib=4000), "small", "config.json", "sent packed"),
    "endless": (Endless(), "small", "tokenizer.json", "at most"),
    "no ranges": (RangeIgnored(), "large", SECOND, "answers range requests"),
    "a redirect to nowhere": (Headers(changed={"Location": None}), "resolve", "config.json", "status 307"),
    "a redirect to a file": (Redirected(to="file:///etc/passwd"), "resolve", "config.json", "connection to the hub failed"),
    "a page instead": (Refused(status=200, body=b"<html>Sign in</html>"), "info", None, "does not describe the model"),
    "a flipped head": (Flipped(at=9), "large", FIRST, f"{FIRST}: expected a whole safetensors file"),
    "a head longer than the file": (Flipped(at=3), "large", FIRST, "heads of weight files"),
}


@pytest.mark.parametrize("what", LASTING)
def test_what_does_not_pass_is_one_sentence(what: str, hub: Hub) -> None:
    fault, operation, file, part = LASTING[what]
    hub.arm(fault, on=operation, file=file, times=None)
    assert part in refused(hub)
    assert hub.unmet() == ()


def test_redirects_without_an_end_are_one_sentence(hub: Hub) -> None:
    hub.arm(Redirected(to=f"{hub.url}/{REPO}/resolve/{COMMIT}/config.json"), on="resolve", file="config.json", times=None)
    assert "connection to the hub failed (TooManyRedirects)" in refused(hub, kind=InfrastructureError)


@pytest.mark.parametrize("what", HOSTILE_INFO)
def test_a_hostile_description_is_one_sentence_or_harmless(
    what: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the model is the one that the repository has, or nothing comes of it; no file appears, whatever names are told."""
    monkeypatch.chdir(tmp_path)
    hub.arm(HOSTILE_INFO[what], on="info", times=None)
    try:
        base = described(hub)
    except GlasshouseError:
        refused(hub)
    else:
        assert base.files == listed_content(FILES), what
    assert list(tmp_path.iterdir()) == []
    assert not Path("/tmp/escaped.json").exists()


@pytest.mark.parametrize("what", HOSTILE_NAMES)
def test_a_file_with_a_hostile_name_is_never_asked_for(what: str, hub: Hub) -> None:
    """A hub that has such a file would be answered with its name in a path or a sentence."""
    name = HOSTILE_NAMES[what]
    hub.arm(HOSTILE_INFO[f"name: {what}"], on="info", times=None)
    # What is in a directory, or is no file of a model by its ending, is passed over.
    if "/" in name or name.startswith(".") or not name.endswith(".json"):
        assert described(hub).files == listed_content(FILES)
    else:
        assert "expected the name of a model's file" in refused(hub, kind=ConfigurationError)
    assert name not in {one.file for one in hub.requests}


#: Nothing but loopback is asked here. A redirect is followed without the token, and its bytes are compared.
_ELSEWHERE = "location: of a machine's own network"


@pytest.mark.parametrize("what", [each for each in HOSTILE_HEADERS if each != _ELSEWHERE])
def test_hostile_headers_of_a_file_change_nothing(what: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub.arm(HOSTILE_HEADERS[what], on="resolve", file=FIRST, times=None)
    if what.startswith("location"):
        refused(hub, kind=InfrastructureError)
    else:
        assert described(hub).files == listed_content(FILES)
    assert list(tmp_path.iterdir()) == []


def test_no_answer_takes_more_memory_than_it_may(hub: Hub) -> None:
    """In this process: what is kept of an answer is bounded before it is parsed."""
    described(hub)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for fault in (huge_json(), many_siblings()):
        hub.arm(fault, on="info")
        assert "expected at most" in refused(hub)
    hub.arm(Endless(), on="large", file=FIRST)
    described(hub)
    given_up = [one for one in hub.requests if one.given_up]
    assert len(given_up) == 3
    assert all(one.sent_bytes < 64 * MIB for one in given_up)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


#: Repositories that are no model that can be trained, and a part of the sentence.
UNFIT: dict[str, tuple[Mapping[str, bytes], str]] = {
    "no config": (changed(config_json=None), "expected config.json"),
    "no tokenizer": (changed(tokenizer_json=None), "expected tokenizer.json"),
    "an adapter": (changed(adapter_config_json=None) | {"adapter_config.json": b"{}"}, "saw an adapter"),
    "pickles": ({**{name: each for name, each in FILES.items() if "safetensors" not in name}, "pytorch_model.bin": b"x"}, "the repository has none: convert"),
    "no index": ({name: each for name, each in FILES.items() if name != INDEX}, "expected model.safetensors, or an index"),
    "a shard missing": ({name: each for name, each in FILES.items() if name != SECOND}, "expected model.safetensors, or an index"),
    "an index of nothing": ({**FILES, INDEX: b"[]"}, "expected model.safetensors, or an index"),
    "an index of lists": ({**FILES, INDEX: b'{"weight_map": {"a": [1]}}'}, "expected model.safetensors, or an index"),
    "an index of paths": ({**FILES, INDEX: b'{"weight_map": {"a": "../../etc/passwd"}}'}, "expected model.safetensors, or an index"),
    "an index that is deep": ({**FILES, INDEX: b"[" * 100_000}, "not JSON"),
    "empty weights": ({**FILES, FIRST: b""}, "heads of weight files"),
    "short weights": ({**FILES, FIRST: b"1234567"}, "heads of weight files"),
    "weights without a head": ({**FILES, FIRST: b"\0" * 64}, "heads of weight files"),
    "a head of any length": ({**FILES, FIRST: b"\xff" * 64}, "heads of weight files"),
    "a head of 40 MiB": ({**FILES, FIRST: (40 * MIB).to_bytes(8, "little") + bytes(41 * MIB)}, "heads of weight files"),
    "a head that is no JSON": ({**FILES, FIRST: (8).to_bytes(8, "little") + b"[[[[[[[[" + bytes(9)}, f"{FIRST}: expected a whole safetensors file; not JSON"),
    "bytes of no tensor": ({**FILES, FIRST: FILES[FIRST] + b"\0"}, "tensors end at byte"),
    "too many files": ({**FILES, **{f"f{number}.txt": b"" for number in range(2000)}}, "at most 2000 files"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNFIT)
def test_a_repository_that_is_no_model_is_one_sentence_that_says_so(what: str) -> None:
    files, part = UNFIT[what]
    with hub_of(files) as hub:
        text = refused(hub, kind=ConfigurationError)
    assert part in text
    assert text.endswith("use another model or another commit of it")


def test_heads_of_weights_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    head = int.from_bytes(FILES[FIRST][:8], "little") + 8
    monkeypatch.setattr(model_hub, "_MOST_HEADS", head + 10)
    with hub_of() as hub:
        assert "heads of weight files" in refused(hub, kind=ConfigurationError)
        assert hub.bodies_asked() == {FIRST, SECOND}


def test_a_file_that_is_listed_twice_is_refused_before_a_guest_refuses_it(hub: Hub) -> None:
    hub.arm(Changed(by=lambda info: {**info, "siblings": [*info["siblings"], info["siblings"][-1]]}), on="info")
    assert "lists a file twice" in refused(hub, kind=InfrastructureError)


def test_large_files_that_are_no_weights_are_compared_with_their_digest() -> None:
    with hub_of(large_bytes=5_000) as hub:
        assert hub.asked("large") == []
        base = described(hub)
        assert base.content["tokenizer.json"] == FILES["tokenizer.json"]
        assert "tokenizer.json" in hub.bodies_asked()
        hub.arm(Flipped(at=5), on="large", file="tokenizer.json")
        assert "sent another tokenizer.json" in refused(hub, kind=InfrastructureError)


def test_weights_that_loading_does_not_read_are_not_listed() -> None:
    """Nor is their head asked for."""
    more = {"consolidated.safetensors": b"\0" * 5000, "original-00001-of-00001.safetensors": b"\0" * 5000}
    with hub_of({**FILES, **more}) as hub:
        base = described(hub)
        assert base.files == listed_content(FILES)
        assert not [one for one in hub.requests if one.file in more]
