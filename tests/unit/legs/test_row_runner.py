"""What a row's runner does besides playing rounds: a second attempt, what is kept of an interrupted row, who plays faults."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.protected import plan_sha256
from pytest_glasshouse.legs.row_runner import Allocation, RowSettings
from pytest_glasshouse.observation.outcome import Ended, Outcome
from pytest_glasshouse.providers.base import Grant
from pytest_glasshouse.rows.spec import RowSpec
from tests.unit.legs.lying_row import EXIT, RESIDENT, Grants, Spool, Told, ran, seed_that_starts

NO_ROOM: Told = ("failed", {"reason": "OutOfMemoryError", "detail": "of the device"})
ALTERNATING = RowSpec(name="a", workload="mlp", gpu="anygpu", order="interleaved", target_s=1.0, rounds=3, resident=False)
MOCK = Grant(
    grant_id="g", allocation_id="a", provider="mock", instance_id="i", address="", gpu_model="CPU", gpu_uuid=None,
    device="cpu", dry_run=True, simulated=False, archive_sha256="0" * 64, reference_source="checkout",
)  # fmt: skip


class Leg:
    """A leg that takes no time; it ends the row in the round `ends_in`."""

    keys: dict[str, Any] = {}  # noqa: RUF012  (nothing is put in)

    def marks(self, **_about: Any) -> None:
        """No server witnesses it."""

    def __init__(self, *, ends_in: int = 0) -> None:
        self.ran: list[int] = []
        self._ends_in = ends_in

    def run(self, current: Any, _role: str = "") -> Ended | None:
        self.ran.append(current.number)
        lost = Ended(outcome="excluded", reason="the guest is gone", decision="run it again")
        return lost if current.number == self._ends_in else None


def carried_out(folder: Path, row: RowSpec, leg: Leg, grant: Grant = MOCK, **settings: Any) -> Outcome:
    """The row with such legs, on a guest that is reachable and gets no request."""
    at = replace(grant, address=str(folder / "agent.sock"))
    given = RowSettings(declared=row, run_id="r", seed=7, **settings)
    allocation = Allocation(at, Grants(), given, lambda _moment: None)
    with socket.socket(socket.AF_UNIX) as guest:
        guest.bind(at.address)
        guest.listen()
        return allocation.carry_out(row, cast("Any", leg), cast("Any", leg))


@pytest.mark.parametrize("role", ["protected", "raw"])
def test_row_whose_legs_find_no_room_together_is_run_again_one_after_the_other(
    role: str, host_attestation: HostAttestation
) -> None:
    """The rounds of the first attempt stay in the observation, and the second has a plan of its own."""

    def told(started: str, request: dict[str, Any]) -> list[Told]:
        if "round" not in request:
            return [EXIT]
        if started != role:
            return [RESIDENT]
        spool.tell(next(leg for other, leg in spool.legs.items() if other != role), "exit")
        return [NO_ROOM, EXIT]

    spool = Spool(told)
    # The leg that finds no room starts last, so that the other waits for its turns.
    seed = seed_that_starts("protected" if role == "raw" else "raw")
    outcome, grants, agent = ran(host_attestation, spool.answers, order="interleaved", settings={"seed": seed})

    assert (outcome.row.resident, len(agent.asked["conduct"])) == (False, 1)
    (first,), (second,) = outcome.observation["didNotFit"], outcome.observation["rounds"]
    assert cast("Any", first)[role]["failed"]["reason"] == "OutOfMemoryError"
    assert first["nonce"] != second["nonce"]
    assert "turns" not in second
    assert outcome.observation["plan"]["interleaving"]["resident"] is False
    assert not grants.ended


def test_leg_that_fails_for_another_reason_is_not_run_again(host_attestation: HostAttestation) -> None:
    failed = {"reason": "AssertionError", "detail": "Torch not compiled with CUDA enabled"}
    spool = Spool(lambda _role, _request: [("failed", failed), EXIT])
    outcome, _, agent = ran(host_attestation, spool.answers, order="interleaved")
    assert "didNotFit" not in outcome.observation
    assert len(agent.asked["conduct"]) == 1
    assert outcome.ended is not None
    assert outcome.ended.reason == "raw leg failed: AssertionError: Torch not compiled with CUDA enabled"
    assert "nothing to be compared with" in outcome.ended.decision


def test_interleaved_row_can_be_kept_after_every_round_but_the_last(tmp_path: Path) -> None:
    """A run that is killed then leaves the rounds that were finished, and how many more the row needs."""
    kept: list[Outcome] = []
    outcome = carried_out(tmp_path, ALTERNATING, Leg(), on_round=kept.append)

    assert outcome.ended is None
    assert [len(each.observation["rounds"]) for each in kept] == [1, 2]
    ends = [each.ended for each in kept if each.ended is not None]
    assert [end.outcome for end in ends] == ["lost", "lost"]
    assert [end.reason for end in ends] == [
        "the run ended in the middle of this row; 1 of 3 rounds are finished and kept; 2 more are needed",
        "the run ended in the middle of this row; 2 of 3 rounds are finished and kept; 1 more are needed",
    ]
    assert kept[0].observation["rounds"][0] == outcome.observation["rounds"][0]
    assert kept[0].observation["rounds"][0] is not outcome.observation["rounds"][0]


@pytest.mark.parametrize(("order", "asked"), [("raw-first", False), ("interleaved", True)])
def test_only_rounds_that_count_each_are_kept(tmp_path: Path, order: Any, asked: bool) -> None:
    """The rounds of other rows are no measurement until the last is there."""
    kept: list[Outcome] = []
    row = replace(ALTERNATING, order=order, resident=order != "interleaved", rounds=2)
    outcome = carried_out(tmp_path, row, Leg(ends_in=2), on_round=kept.append)

    assert bool(kept) == asked
    assert outcome.ended is not None
    missing = "; 1 of 2 rounds are finished and kept; 1 more are needed" if asked else ""
    assert outcome.ended.reason == "the guest is gone" + missing


@pytest.mark.parametrize(("gpu", "dry"), [("h100", False), ("anygpu", False), ("a4000", True)])
def test_row_that_names_another_gpu_than_the_one_it_ran_on_is_a_dry_run(tmp_path: Path, gpu: Any, dry: bool) -> None:
    """Also on a machine of one's own, whatever row was granted it before."""
    own = replace(MOCK, provider="local", dry_run=False, gpu_model="NVIDIA H100 80GB HBM3", gpu_uuid="GPU-1")
    row = replace(ALTERNATING, gpu=gpu)
    allocation = Allocation(own, Grants(), RowSettings(declared=row, run_id="r", seed=7), print)
    assert (allocation._facts(row).dry_run, allocation._plan(row)["dryRun"]) == (dry, dry)


def test_other_processes_on_the_gpu_are_recorded_where_there_were_any(tmp_path: Path) -> None:
    """Whoever reads the report can tell a GPU that was shared from one that was not."""
    for name in ("shared", "alone"):
        (tmp_path / name).mkdir()
    shared = carried_out(tmp_path / "shared", ALTERNATING, Leg(), replace(MOCK, other_processes=2, other_memory_mib=3072))
    alone = carried_out(tmp_path / "alone", ALTERNATING, Leg(), MOCK)
    seen = shared.observation["allocation"]
    assert (seen["otherGpuProcesses"], seen["otherGpuMemoryMib"]) == (2, 3072)
    assert "otherGpuProcesses" not in alone.observation["allocation"]


def test_reason_stays_as_the_host_saw_it_where_the_provider_knows_none(tmp_path: Path) -> None:
    ended = Ended(outcome="excluded", reason="the guest is gone", decision="run it again")
    allocation = Allocation(replace(MOCK, remote=True), Grants(), RowSettings(declared=ALTERNATING, run_id="r", seed=7), print)
    notes: Any = {"protected": {}, "raw": None}
    assert allocation._explained(ended, notes, gone=True) == ended
    assert notes["protected"] == {}


@pytest.mark.parametrize(
    ("kind", "gone", "reason"),
    [
        ("ended", False, "the budget is reached (the leg was killed)"),
        ("ended", True, "the budget is reached (the leg was killed)"),
        ("unreachable", False, "the leg was killed"),
        ("unreachable", True, "the budget is reached (the leg was killed)"),
    ],
)
def test_reason_is_the_brokers_where_it_ended_the_guest_though_that_still_answered(kind: str, gone: bool, reason: str) -> None:
    """The agent may sign the exit of the leg that the budget killed before it is killed itself."""
    ended = Ended(outcome="failed", reason="the leg was killed", decision="run it again")
    grants, settings = Grants((kind, "the budget is reached")), RowSettings(declared=ALTERNATING, run_id="r", seed=7)
    notes: Any = {"protected": {"exit": "signed"}, "raw": None}
    found = Allocation(replace(MOCK, remote=True), grants, settings, print)._explained(ended, notes, gone=gone)
    assert found is not None
    assert found.reason == reason
    assert (found.outcome == "failed") is (reason == "the leg was killed")
    assert notes["protected"] == {"exit": "signed"}


def test_faults_are_played_by_the_mock_provider_alone(tmp_path: Path) -> None:
    """On a provider that rents, a fault that is asked for and not played would pass as one that was withstood."""
    leg = Leg()
    grant = replace(MOCK, provider="runpod", faults=("guest-killed",))
    with pytest.raises(ConfigurationError, match="provider runpod plays no faults: expected provider mock"):
        carried_out(tmp_path, ALTERNATING, leg, grant)
    assert leg.ran == []


def test_plan_names_parameters_adapter_and_revision_where_they_are_not_the_usual_ones(tmp_path: Path) -> None:
    plain = carried_out(tmp_path, ALTERNATING, Leg()).observation["plan"]
    assert not {"parameters", "adapter", "invariantsRevision"} & plain.keys()
    (tmp_path / "agent.sock").unlink()
    row = replace(ALTERNATING, parameters=(("batch", "8"), ("layers", "2")))
    plan = carried_out(tmp_path, row, Leg(), revision=3).observation["plan"]
    assert plan["parameters"] == [["batch", "8"], ["layers", "2"]]
    assert plan["invariantsRevision"] == 3
    lora = replace(ALTERNATING, workload="lora", model="any", rank=8)
    planned = Allocation(MOCK, Grants(), RowSettings(declared=lora, run_id="r", seed=7), print)._plan(lora)
    assert planned["adapter"] == {"rank": 8, "targets": ["q_proj", "v_proj"]}


def test_plan_that_has_no_canonical_form_is_refused() -> None:
    """Nothing could be signed for it."""
    with pytest.raises(GlasshouseError, match=r"^the run's plan: no canonical form: "):
        plan_sha256({"subject": {"name": "\ud800"}})
