"""Every fault of the mock provider breaks the invariant it is meant to break, and no other."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.timing import LOCAL
from pytest_glasshouse.errors import BootTimeoutError, ConfigurationError, InvariantBroken, NoCapacityError, WrongGpuError
from pytest_glasshouse.invariants import ALL, assert_held, judge, raw_callback_completed
from pytest_glasshouse.providers.local_process import list_guests
from pytest_glasshouse.providers.mock_faults import FAULTS
from pytest_glasshouse.tamper.fault_table import FAULT_BREAKS, INTERLEAVED_FAULTS, OBSERVED_CASES, ObservedCase
from tests.limits import HANG_S
from tests.rounds.conftest import PATIENT, Ran, carry_out, run_id, short_row

#: Faults that end before anything can be judged, or that a row survives.
_ELSEWHERE = {
    "boot-stall", "create-lost", "no-capacity", "wrong-gpu", "terminate-fails", "guest-exit-before-raw",
    "guest-exit-mid-protected",
}  # fmt: skip


def _names(observation: Any, state: str) -> set[str]:
    return {finding.invariant for finding in judge(observation) if finding.finding == state}


def test_every_invariant_holds_in_a_row_without_faults(good_run: Ran) -> None:
    """The other tests of this file mean something only because of this one. Rows of torch: `test_plaintext.py`."""
    assert good_run.outcome.ended is None
    assert _names(good_run.outcome.observation, "unseen") == set()
    assert _names(good_run.outcome.observation, "broken") == set()
    assert good_run.cleanup.status == "proven"


#: Each fault in one order, the orders in turn; `make soak` plays every fault in both.
_ORDERS = ("raw-first", "protected-first")
_EITHER = sorted(set(FAULT_BREAKS) - set(INTERLEAVED_FAULTS))
_TAKING_TURNS = [(fault, "interleaved") for fault in INTERLEAVED_FAULTS]
_IN_TURN = [(fault, _ORDERS[place % 2]) for place, fault in enumerate(_EITHER)] + _TAKING_TURNS
_IN_BOTH = [(fault, order) for fault in _EITHER for order in _ORDERS] + _TAKING_TURNS


#: What is done to the trainer's steps, which the prologue of the numpy guest does not use.
_OF_TORCH = ("steps-skipped",)


def _played(pairs: Sequence[tuple[str, str]]) -> list[Any]:
    return [pytest.param(*pair, marks=pytest.mark.torch if pair[0] in _OF_TORCH else ()) for pair in pairs]


@pytest.mark.parametrize(("fault", "order"), _played(_IN_BOTH if os.environ.get("SOAK") else _IN_TURN))
@pytest.mark.soak
def test_fault_breaks_its_invariant_and_no_other(fault: str, order: str, tmp_path: Path) -> None:
    """A finding that cannot break is a constant."""
    ran = carry_out(short_row(order=order), tmp_path, faults=(fault,), torch=fault in _OF_TORCH)
    assert _names(ran.outcome.observation, "broken") == set(FAULT_BREAKS[fault])
    assert ran.cleanup.status == "proven"
    assert not ran.guest_directory.exists()
    with pytest.raises(InvariantBroken, match=FAULT_BREAKS[fault][0]):
        assert_held(ran.outcome, *ALL)


def test_refusal_names_component_expected_and_seen_and_what_follows_from_it(tmp_path: Path) -> None:
    """It named its check, and ten findings told to see how the row ended."""
    ran = carry_out(short_row(), tmp_path, faults=("attestation-reject",))

    assert ran.outcome.ended is not None
    assert re.fullmatch(
        r"the attestation server refused: composite \(component archive: expected [0-9a-f]{16}\.\.\., saw [0-9a-f]{16}\.\.\.\)",
        ran.outcome.ended.reason,
    )
    findings = judge(ran.outcome.observation)
    (refused,) = [each for each in findings if each.finding == "broken"]
    assert refused.expected.startswith("component archive ")
    unseen = [each.todo for each in findings if each.finding == "unseen"]
    assert set(unseen) == {"follows from attestation verified: the server refused the evidence"}


@pytest.mark.parametrize("case", OBSERVED_CASES, ids=lambda case: case.name)
def test_changed_observation_breaks_its_invariant(case: ObservedCase, good_observation: Any) -> None:
    """What no fault can play is played on the record of a row that went well."""
    assert case.invariant in _names(case.applied(good_observation), "broken")


def test_every_invariant_has_something_that_breaks_it(good_observation: Any) -> None:
    """A new invariant needs a fault or a case; every fault is accounted for."""
    breakable = {*itertools.chain(*FAULT_BREAKS.values()), *(case.invariant for case in OBSERVED_CASES)}
    # An interleaved row answers for all of them; others are never paused.
    assert breakable == {invariant(good_observation).invariant for invariant in ALL}
    assert set(FAULTS) == set(FAULT_BREAKS) | _ELSEWHERE


# A leg that is lost in the middle would have trained for an hour.
@pytest.mark.parametrize(("fault", "target_s"), [("guest-exit-before-raw", 0.1), ("guest-exit-mid-protected", 3600)])
def test_lost_guest_excludes_the_row_with_reason_and_decision(fault: str, target_s: float, tmp_path: Path) -> None:
    """A pod that exits is infrastructure: no figure, no verdict, but recorded."""
    ran = carry_out(short_row(order="protected-first", target_s=target_s), tmp_path, faults=(fault,))
    assert ran.outcome.ended is not None
    assert ran.outcome.ended.outcome == "excluded"
    assert "gone" in ran.outcome.ended.reason
    assert ran.outcome.ended.decision
    assert _names(ran.outcome.observation, "broken") == set()
    assert raw_callback_completed(ran.outcome.observation).finding == "unseen"
    assert ran.cleanup.status == "proven"
    assert not ran.guest_directory.exists()


def test_create_whose_answer_is_lost_is_adopted_and_the_row_runs(tmp_path: Path) -> None:
    """Creating again would rent twice."""
    ran = carry_out(short_row(), tmp_path, faults=("create-lost",))
    assert ran.outcome.ended is None
    assert "adopted" in (tmp_path / "ledger.jsonl").read_text()
    assert len(ran.cleanup.allocations) == 1
    assert ran.cleanup.status == "proven"


def _broker(tmp_path: Path, fault: str, boot_timeout_s: float = HANG_S) -> Broker:
    # An allocation that does not end is called a leak at the product's own deadline; other ends have all the time they need.
    timing = LOCAL if fault == "terminate-fails" else PATIENT
    options = BrokerOptions(
        provider="mock", run_id=run_id(), run_dir=tmp_path, faults=(fault,), boot_timeout_s=boot_timeout_s, timing=timing
    )
    return Broker(options)


def test_guest_that_never_boots_ends_at_the_boot_deadline(tmp_path: Path) -> None:
    """A pod that boots for ever bills for ever."""
    broker = _broker(tmp_path, "boot-stall", boot_timeout_s=0.3)
    with pytest.raises(BootTimeoutError, match=r"within 0\.3 s.*ended.*--glasshouse-boot-timeout"):
        broker.acquire(short_row())
    assert broker.end_all().status == "proven"


def test_wrong_gpu_is_an_error_before_any_leg(tmp_path: Path) -> None:
    """A row measured on another GPU than promised must not exist."""
    broker = _broker(tmp_path, "wrong-gpu")
    with pytest.raises(WrongGpuError, match="expected NVIDIA H100 80GB HBM3, saw"):
        broker.acquire(short_row())
    assert broker.end_all().status == "proven"


def test_no_capacity_is_an_error_and_nothing_was_created(tmp_path: Path) -> None:
    """The error states that running again is safe."""
    broker = _broker(tmp_path, "no-capacity")
    with pytest.raises(NoCapacityError, match="Nothing was created"):
        broker.acquire(short_row())
    assert broker.end_all().status == "nothing-rented"


def test_allocation_that_does_not_end_is_a_leak_named_by_name(tmp_path: Path) -> None:
    """An allocation that may still be billing is never silence."""
    broker = _broker(tmp_path, "terminate-fails")
    grant = broker.acquire(short_row())
    cleanup = broker.end_all()
    assert cleanup.status == "leak"
    assert grant.allocation_id in cleanup.detail
    broker._fleet.providers["mock"]._guests.end(grant.instance_id)  # type: ignore[attr-defined]
    assert grant.allocation_id not in {instance.name for instance in list_guests()}


def test_confidential_package_refuses_a_raw_leg_and_no_guest_gets_its_parts(tmp_path: Path) -> None:
    """The raw leg publishes what the package protects."""
    with pytest.raises(ConfigurationError, match="confidential"):
        carry_out(short_row(), tmp_path, confidential=True)
