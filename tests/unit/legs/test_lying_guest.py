"""A row on a guest that lies: it ends with a reason and a decision, its guest is ended, and nothing waits for ever."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.rows.spec import Order, RowSpec
from pytest_glasshouse.wire.canonical import canonical
from tests.limits import HANG_S
from tests.unit.channel.lying_agent import HELLO, LyingAgent, Trickle, event, exit_event, frame, refused
from tests.unit.legs.lying_row import EXIT, Grants, Spool, Told, granted, ran


def test_an_honest_guest_is_left_alone(host_attestation: HostAttestation) -> None:
    """The other tests of this file rely on this one: the guest sends no callback, and everything else correctly."""
    outcome, grants, agent = ran(host_attestation, {})
    assert outcome.ended is not None
    assert "callback never reported" in outcome.ended.reason
    assert not grants.ended
    assert set(agent.asked) == {"hello", "put", "start", "pull", "drop", "get"}


#: A raw-first row ends before its protected leg, and only interleaved rounds have a scheduler.
_NEVER_ASKED = {("enrol", "raw-first"), ("enrol", "interleaved"), ("conduct", "raw-first"), ("conduct", "protected-first")}


@pytest.mark.parametrize("order", ["raw-first", "protected-first", "interleaved"])
@pytest.mark.parametrize("op", ["hello", "enrol", "conduct", "put", "start", "pull", "drop"])
@pytest.mark.parametrize("lie", ["refused", "a foreign member"])
def test_every_malformed_answer_ends_the_row(op: str, order: Order, lie: str, host_attestation: HostAttestation) -> None:
    """An agent that breaks off anywhere: the row has the reason, and the guest is not used for the next one."""
    # Where nothing is answered wrong, the leg's time limit ends the row.
    limit_s = 0.2 if (op, order) in _NEVER_ASKED else HANG_S
    lies = {op: refused if lie == "refused" else {"overheadPct": 1}}
    outcome, grants, agent = ran(host_attestation, lies, order=order, leg_timeout_s=limit_s)
    assert outcome.ended is not None
    assert (op in agent.asked) is ((op, order) not in _NEVER_ASKED)
    if op not in agent.asked:
        return
    assert outcome.ended.outcome == "error"
    assert outcome.ended.reason.startswith("the guest broke the protocol: ")
    assert outcome.ended.reason.isprintable()
    assert "the guest was ended" in outcome.ended.decision
    assert len(grants.ended) == 1


LEG_LIES: dict[str, Any] = {
    "nested": lambda leg: event(leg, "started", {"initial": {"x": [[[[[[[[0]]]]]]]]}, "order_seed": 1, "device": "cpu"}),
    "a foreign member": lambda leg: event(leg, "callback", {"overheadPct": 1}),
    "a figure in a token": lambda leg: exit_event(leg, scan={"status": "unseen", "reason": "", "perSec": 1}),
    "a long text": lambda leg: event(leg, "failed", {"reason": "x", "detail": "/" * 120_000}),
}


@pytest.mark.parametrize("lie", LEG_LIES)
def test_an_unknown_event_ends_the_row_and_is_not_recorded(lie: str, host_attestation: HostAttestation) -> None:
    def pull(request: dict[str, Any]) -> dict[str, Any]:
        return {"events": [LEG_LIES[lie](agent_legs[-1])] if request["cursor"] == 0 and agent_legs else []}

    agent_legs: list[str] = []

    def start(request: dict[str, Any]) -> dict[str, Any]:
        agent_legs.append(request["leg"])
        return {"cursor": 0}

    outcome, grants, _ = ran(host_attestation, {"start": start, "pull": pull})
    assert outcome.ended is not None
    assert outcome.ended.outcome == "error"
    assert len(outcome.ended.reason) < 1000
    assert len(grants.ended) == 1
    assert b"Pct" not in canonical(outcome.observation["rounds"])
    assert b"perSec" not in canonical(outcome.observation["rounds"])


def test_an_endless_driver_name_is_not_recorded(host_attestation: HostAttestation) -> None:
    """Its rules would be held against it for minutes."""
    outcome, _, _ = ran(host_attestation, {"hello": {**HELLO, "driver": "5" * 120_000}})
    assert outcome.ended is not None
    assert outcome.ended.outcome == "error"
    assert len(canonical(outcome.observation)) < 20_000


def test_a_leg_whose_agent_speaks_a_byte_at_a_time_is_late(host_attestation: HostAttestation) -> None:
    """A leg's deadline is for all of it: a guest is not given thirty seconds for each of its bytes."""
    trickle = Trickle(frame({"x": "y" * 100_000}), every_s=0.01)
    outcome, grants, _ = ran(host_attestation, {"pull": trickle}, leg_timeout_s=0.2)
    assert outcome.ended is not None
    assert "did not end within 0.2 s" in outcome.ended.reason
    assert len(grants.ended) == 1
    assert trickle.sent < 1000


@pytest.mark.parametrize("name", ["ak", "archiveSha256", "bootId", "driver", "python", "torch"])
def test_a_guest_that_omits_its_identity_is_refused(name: str, host_attestation: HostAttestation) -> None:
    """At its boot it may: nothing is decided by it yet."""
    hello = {key: value for key, value in HELLO.items() if key != name}
    outcome, grants, _ = ran(host_attestation, {"hello": hello})
    assert outcome.ended is not None
    assert f"expected {name}, saw none" in outcome.ended.reason
    assert len(grants.ended) == 1


def test_an_impossible_spool_cursor_is_refused(host_attestation: HostAttestation) -> None:
    """What is asked for next would be a number that cannot be sent."""
    outcome, grants, _ = ran(host_attestation, {"start": {"cursor": 2**53 - 1}})
    assert outcome.ended is not None
    assert outcome.ended.outcome == "error"
    assert len(grants.ended) == 1


def test_an_oversized_adapter_is_not_fetched(host_attestation: HostAttestation) -> None:
    outcome, grants, agent = ran(host_attestation, {"get": frame({"total": 1 << 40}, b"x" * 4 * 1024 * 1024)})
    assert outcome.ended is not None
    assert outcome.ended.outcome == "error"
    assert len(agent.asked["get"]) == 1
    assert len(grants.ended) == 1


def test_a_guest_that_floods_its_spool_is_ended(host_attestation: HostAttestation) -> None:
    def pull(request: dict[str, Any]) -> dict[str, Any]:
        begin = request["cursor"]
        return {"events": [event("x" * 100, "scan-loaded", {}, seq=begin + number) for number in range(1000)]}

    outcome, grants, agent = ran(host_attestation, {"pull": pull})
    assert outcome.ended is not None
    assert "events of a leg; saw more" in outcome.ended.reason
    assert len(agent.asked["pull"]) < 20
    assert len(grants.ended) == 1


def test_a_row_that_breaks_while_a_leg_runs_ends_its_guest(host_attestation: HostAttestation) -> None:
    """An interrupt, or a mistake of ours: the next row must not find the leg beside its own."""
    grants = Grants()

    class Interrupted(RawRunner):
        def begin(self, current: Any, role: Any = "raw") -> Any:
            super().begin(current, role)
            raise KeyboardInterrupt

    row = RowSpec(name="row", workload="mlp", gpu="anygpu", order="raw-first", target_s=1.0)
    with LyingAgent() as agent:
        allocation = Allocation(granted(agent), grants, RowSettings(declared=row, run_id="broken", seed=1), lambda _moment: None)
        with pytest.raises(KeyboardInterrupt):
            row.run(allocation, ProtectedRuntime(host_attestation), Interrupted())
    assert len(grants.ended) == 1


def _wanted(count: int) -> list[Told]:
    return [("mark-wanted", {"nonce": f"{number:032x}"}) for number in range(count)]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (_wanted(5), "expected no more than 4 borders of a round"),
        ([*_wanted(2), ("marks", {"marks": "a.b.c"})], "not a token"),
        ([("mark-wanted", {"nonce": "short"})], "expected"),
    ],
)
def test_guest_that_asks_for_marks_as_no_agent_does_ends_its_row(
    told: list[Told], reason: str, host_attestation: HostAttestation
) -> None:
    """Each mark is a signature of the server and a line of its ledger."""
    spool = Spool(lambda _role, _request: told)
    outcome, grants, agent = ran(host_attestation, spool.answers)
    assert outcome.ended is not None
    assert reason in outcome.ended.reason
    assert len(grants.ended) == 1
    assert len(agent.asked.get("answer", [])) <= 4


def test_mark_that_the_server_does_not_give_ends_the_row_and_the_wait_of_its_leg(host_attestation: HostAttestation) -> None:
    """The leg would wait for its border beside the next row's."""

    class Client:
        def __init__(self, real: Any) -> None:
            self._real, self.marks = real, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def mark(self, request: str) -> str:
            self.marks += 1
            if self.marks > 1:
                raise RefusedError("round")
            return str(self._real.mark(request))

    real = host_attestation.client
    host_attestation.client = Client(real)  # type: ignore[assignment]
    try:
        outcome, _, agent = ran(host_attestation, Spool(lambda _role, _request: [*_wanted(1), EXIT]).answers)
    finally:
        host_attestation.client = real
    assert outcome.ended is not None
    assert "refused to mark a round of this row: round" in outcome.ended.reason
    assert [each["kind"] for each in agent.asked["answer"]] == ["refusal"]
