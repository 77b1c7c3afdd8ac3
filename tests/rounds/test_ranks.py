"""Legs of several ranks on the mock provider: real processes, one key, one opening of the package, findings of all ranks."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.invariants.judging import judge
from pytest_glasshouse.observation.turns import segments_of
from tests.numpy_guest.archive import numpy_archive_with
from tests.ranks.trained_raw import trained_raw
from tests.rounds.conftest import Ran, carry_out, short_row


def _findings(ran: Ran) -> dict[str, tuple[str, str]]:
    return {found.invariant: (found.finding, found.reason) for found in judge(ran.outcome.observation)}


def _not_held(ran: Ran) -> dict[str, tuple[str, str]]:
    return {name: found for name, found in _findings(ran).items() if found[0] != "held"}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A row whose legs have two ranks, protected first."""
    return carry_out(short_row(order="protected-first", gpus=2), tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def in_turns(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A row whose legs of two ranks take turns."""
    return carry_out(short_row(order="interleaved", gpus=2, target_s=0.5), tmp_path_factory.mktemp("turns"))


#: Each of these is a whole row of its own, and those with torch take a minute or more: all of them in soak.
SOAK = bool(os.environ.get("SOAK"))


def test_every_finding_holds_of_two_ranks_that_take_turns(in_turns: Ran) -> None:
    assert (in_turns.outcome.ended, _not_held(in_turns)) == (None, {})


@pytest.mark.skipif(not SOAK, reason="two ranks in another order are the same ranks")
def test_every_finding_holds_of_two_ranks_raw_first(tmp_path: Path) -> None:
    ran = carry_out(short_row(order="raw-first", gpus=2), tmp_path)
    assert (ran.outcome.ended, _not_held(ran)) == (None, {})


def test_every_finding_holds_of_four_ranks(tmp_path: Path) -> None:
    ran = carry_out(short_row(order="protected-first", gpus=4), tmp_path)
    assert (ran.outcome.ended, _not_held(ran)) == (None, {})
    assert "all 4 ranks" in _findings(ran)["runtime zeroized"][1]


def test_findings_hold_and_say_of_how_many_ranks(two_ranks: Ran) -> None:
    assert (two_ranks.outcome.ended, _not_held(two_ranks)) == (None, {})
    of_all = {name for name, (_, reason) in _findings(two_ranks).items() if reason.endswith("all 2 ranks")}
    assert of_all >= {"runtime zeroized", "memory scanned clean", "same work", "work witnessed", "attestation verified"}


def test_key_is_released_once_and_only_the_first_rank_opens_the_package(two_ranks: Ran) -> None:
    notes: Any = two_ranks.outcome.observation["rounds"][0]["protected"]
    first, other = "".join(notes["journal"]), "".join(notes["ranks"][0]["journal"])
    assert ("key_received" in first, "package_verified" in first) == (True, True)
    assert ("key_received" in other, "package_verified" in other, "package_shared" in other) == (False, False, True)


def test_units_are_counted_once(two_ranks: Ran) -> None:
    raw: Any = two_ranks.outcome.observation["rounds"][0]["raw"]
    assert raw["callback"]["units"] == raw["ranks"][0]["callback"]["units"]
    assert raw["callback"]["facts"]["batchesPerUnit"] == {"128x32": 4}


def test_ranks_begin_and_end_their_segments_together(in_turns: Ran) -> None:
    raw: Any = in_turns.outcome.observation["rounds"][0]["raw"]
    first, other = (segments_of(body) for body in (raw["callback"], raw["ranks"][0]["callback"]))
    assert {turn: part["units"] for turn, part in first.items()} == {turn: part["units"] for turn, part in other.items()}


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_without_evidence_is_seen_to_be_missing(rank: int, two_ranks: Ran) -> None:
    observation: Any = copy.deepcopy(two_ranks.outcome.observation)
    leg = observation["rounds"][0]["protected"]
    (leg if rank == 0 else leg["ranks"][0]).pop("exit")
    zeroized = next(found for found in judge(observation) if found.invariant == "runtime zeroized")
    assert zeroized.finding == "unseen"
    assert zeroized.reason.startswith(f"rank {rank}: ")


def _with_fault(fault: str, run_dir: Path, **settings: Any) -> Ran:
    """A row of two ranks whose rank 1 plays a fault of `dishonest_rank` in every leg."""
    source = Path(__file__).with_name("dishonest_rank.py").read_text(encoding="utf-8")
    main = source.replace('FAULT = "none"', f"FAULT = {fault!r}")
    assert f"def {fault}(" in main
    archive = numpy_archive_with({"__main__.py": main.encode()})
    return carry_out(short_row(order="protected-first", gpus=2), run_dir, archive=archive, **settings)


#: What each fault of one rank breaks, in which both legs' rank 1 do the same.
BREAKS = {
    "zeroize_skipped": ("runtime zeroized", "memory scanned clean", "journal countersigned"),
    "copies_kept": ("memory scanned clean",),
    "clock_slowed": ("work witnessed",),
    "other_weights": ("weights loaded from the package", "both adapters trained"),
    "other_data": ("same work",),
    "library_later": ("attestation verified", "runtime zeroized"),
    "steps_alone": ("both adapters trained", "work witnessed"),
}
#: What it breaks of every rank: they train one model, so that its losses are theirs.
OF_ALL = {"other_data": {"work witnessed"}}

#: How a leg ends that one of its ranks does not end with.
ENDS = {
    "killed": "protected leg failed: RankLostError: rank 1: its process ended with status 137 before its work was done",
    "stopped": "protected leg failed: RankStopped: rank 1: its process is stopped",
    "nonfinite_loss": "protected leg failed: non-finite loss: rank 1: expected finite losses; the last was ",
}


@pytest.mark.parametrize("fault", BREAKS)
def test_fault_of_one_rank_breaks_its_finding_with_the_ranks_name(fault: str, tmp_path: Path) -> None:
    found = {name: reason for name, (state, reason) in _not_held(_with_fault(fault, tmp_path)).items() if state == "broken"}
    assert set(found) & set(BREAKS[fault]) != set()
    assert all(found[name].startswith("rank 1: ") for name in BREAKS[fault] if name in found), found
    assert set(found) <= {*BREAKS[fault], *OF_ALL.get(fault, ())}, found


def test_rank_with_another_library_gets_no_key(tmp_path: Path) -> None:
    ran = _with_fault("other_library", tmp_path)
    assert ran.outcome.ended is not None
    assert ran.outcome.ended.reason == "the attestation server refused: rank-composite"


@pytest.mark.parametrize("fault", ENDS)
def test_rank_that_ends_or_stands_still_ends_the_leg_with_its_name(fault: str, tmp_path: Path) -> None:
    ran = _with_fault(fault, tmp_path)
    assert ran.outcome.ended is not None
    assert ran.outcome.ended.reason.startswith(ENDS[fault])
    assert _findings(ran)["runtime zeroized"][0] != "held"
    assert ran.cleanup.status == "proven"


@pytest.mark.torch
@pytest.mark.skipif(not SOAK, reason="rows of several ranks with torch take minutes")
@pytest.mark.parametrize("order", ["raw-first", "protected-first", "interleaved"])
@pytest.mark.parametrize("workload", ["mlp", "lora"])
def test_every_finding_holds_of_two_ranks_with_torch(workload: str, order: str, tmp_path: Path) -> None:
    target_s = 8.0 if order == "interleaved" else 2.0
    ran = carry_out(short_row(workload, order, gpus=2, target_s=target_s), tmp_path, torch=True)
    assert (ran.outcome.ended, _not_held(ran)) == (None, {})


@pytest.mark.torch
@pytest.mark.parametrize("workload", ["mlp", *(["lora"] if SOAK else [])])
def test_adapter_equals_that_of_the_same_rankstrained_raw(workload: str, tmp_path: Path) -> None:
    """Bit for bit, and in both legs: protection changes nothing of what is trained."""
    row = short_row(workload, "raw-first", gpus=2, target_s=None, steps=2, warmup_s=0.0)
    ran = carry_out(row, tmp_path / "run", torch=True)
    assert (ran.outcome.ended, _not_held(ran)) == (None, {})
    observed: Any = ran.outcome.observation["rounds"][0]
    for leg in ("protected", *(["raw"] if SOAK else [])):
        notes = observed[leg]
        assert trained_raw(row, notes["trainingPlan"]["order_seed"], tmp_path / leg) == {notes["adapterSha256"]}


@pytest.mark.skipif(not SOAK, reason="raw legs of two ranks are in every other row, too")
def test_null_row_of_two_ranks_holds(tmp_path: Path) -> None:
    ran = carry_out(short_row(order="interleaved", null=True, gpus=2, target_s=0.5), tmp_path)
    assert (ran.outcome.ended, _not_held(ran)) == (None, {})
