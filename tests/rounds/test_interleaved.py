"""One interleaved row on real processes: the turns, who used the processor, and what breaks when the account is changed."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.invariants import ALL, NULL, judge, legs_in_order, paused_leg_idle
from pytest_glasshouse.invariants.revisions import invariants_of
from pytest_glasshouse.legs.row_runner import did_not_fit
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.overhead.segments import round_segments
from pytest_glasshouse.wire import evidence, tokens
from tests.rounds.conftest import Ran, carry_out, short_row

Change = Callable[[dict[str, Any]], None]


def test_every_invariant_holds_in_an_interleaved_row(turns_run: Ran) -> None:
    """On the numpy guest; such a row of torch, and of lora, is in `test_plaintext.py`."""
    observation = turns_run.outcome.observation
    assert turns_run.outcome.ended is None
    assert [(f.invariant, f.reason) for f in judge(observation) if f.finding != "held"] == []
    assert len(judge(observation)) == len(ALL)
    assert turns_run.cleanup.status == "proven"
    assert not turns_run.guest_directory.exists()


def test_pairs_are_whole_and_their_sums_are_the_legs(turns_run: Ran) -> None:
    """The figures of a round are those of its segments, and what was washed out is in none of them."""
    (one,) = results(turns_run.outcome.observation)
    assert one.protected is not None
    assert one.raw is not None
    for leg in (one.protected, one.raw):
        parts = [pair[leg.leg] for pair in one.pairs]
        assert len(parts) == 2
        assert leg.units == sum(part["units"] for part in parts)
        assert leg.elapsed_ns == sum(part["elapsed_ns"] for part in parts)
        assert all(part["wash_ns"] >= 100_000_000 and part["elapsed_ns"] >= 250_000_000 for part in parts)
        assert all(part["turn_ns"] >= part["wash_ns"] + part["elapsed_ns"] for part in parts)
        assert all(0 < part["cpu_ns"] < part["turn_cpu_ns"] for part in parts)
    assert round_segments(1, one.pairs).pairs[0].protected.units == one.pairs[0]["protected"]["units"]


def test_turns_are_those_that_the_seed_drew(turns_run: Ran) -> None:
    from pytest_glasshouse.rows.leg_order import row_seed, turns_of_round

    (notes,) = turns_run.outcome.observation["rounds"]
    seed = row_seed(7, turns_run.outcome.row.row_id)
    drawn = turns_of_round(("protected", "raw"), number=1, pairs=2, seed=seed)
    assert notes["turns"] == [*itertools.chain(*drawn)]
    assert tokens.peek(notes["borders"])["turns"] == notes["turns"]


def test_set_up_of_one_leg_is_over_before_the_other_starts(turns_run: Ran) -> None:
    observed: Any = turns_run.outcome.observation
    (notes,) = observed["rounds"]
    first, second = notes["order"]
    assert notes[first]["timeline"]["resident"] < notes[second]["timeline"]["spawned"]
    # The last to start is gone before the first to start zeroizes or exports.
    assert notes[second]["timeline"]["exit"] < notes[first]["timeline"]["exit"]


def test_covariates_have_a_reason_where_they_are_null(turns_run: Ran) -> None:
    (notes,) = turns_run.outcome.observation["rounds"]
    covariates = notes["covariates"]
    assert covariates["samples"]
    for column, field in enumerate(covariates["fields"][1:8], 1):
        assert (covariates["samples"][-1][column] is None) == (field in covariates["reasons"])


def _resigned(observation: Any, change: Change) -> None:
    """The account of the turns changed and signed again by a key that is then recorded as the guest's."""
    notes = observation["rounds"][0]
    agent = Ed25519PrivateKey.generate()
    claims = copy.deepcopy(tokens.peek(notes["borders"]))
    change(claims)
    notes["borders"] = tokens.sign(claims, key=agent, typ=evidence.TYP_BORDERS)
    notes["guest"][0]["ak"] = tokens.public_text(agent.public_key())


def _place(claims: dict[str, Any], role: str) -> tuple[int, int]:
    """The first turn that is not `role`'s, and where its processor time stands in a border."""
    return next(place for place, whose in enumerate(claims["turns"]) if whose != role), 1 + 2 * claims["roles"].index(role)


def _work_in_the_others_turn(claims: dict[str, Any]) -> None:
    turn, column = _place(claims, "protected")
    for place, (before, after) in enumerate(claims["borders"]):
        for border in (before, after)[place == turn :] if place >= turn else ():
            border[column] += 3_000_000


def _work_between_turns(claims: dict[str, Any]) -> None:
    _, column = _place(claims, "protected")
    for before, after in claims["borders"][1:]:
        before[column] += 3_000_000
        after[column] += 3_000_000


def _work_in_its_turn_when_its_clock_has_stopped(claims: dict[str, Any]) -> None:
    place = claims["turns"].index("protected")
    column = 1 + 2 * claims["roles"].index("protected")
    later = [claims["borders"][place][1], *(border for borders in claims["borders"][place + 1 :] for border in borders)]
    for border in later:
        border[column] += 30_000_000


def _overlap(claims: dict[str, Any]) -> None:
    claims["borders"][1][0][0] = claims["borders"][0][1][0] - 1


def _turn_unplayed(claims: dict[str, Any]) -> None:
    claims["borders"].pop()


def _turn_longer_than_its_segment(claims: dict[str, Any]) -> None:
    claims["borders"][-1][1][0] += 2_000_000_000


def _turn_shorter_than_its_segment(claims: dict[str, Any]) -> None:
    claims["borders"][-1][1][0] = claims["borders"][-1][0][0] + 1


def _other_round(claims: dict[str, Any]) -> None:
    claims["nonce"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "broken", "message"),
    [
        (_work_in_the_others_turn, {"paused leg idle"}, "outside its own turns"),
        (_work_between_turns, {"paused leg idle"}, "outside its own turns"),
        (_work_in_its_turn_when_its_clock_has_stopped, {"paused leg idle"}, "while no clock of its ran"),
        (_overlap, {"legs in order, not overlapping"}, "overlapped"),
        (_turn_longer_than_its_segment, {"legs in order, not overlapping"}, "not as long as its turns"),
        (_turn_shorter_than_its_segment, {"legs in order, not overlapping"}, "not as long as its turns"),
        (_other_round, {"legs in order, not overlapping", "paused leg idle"}, "another round"),
    ],
)
def test_signed_account_with_other_turns_breaks_the_finding(
    turns_run: Ran, change: Change, broken: set[str], message: str
) -> None:
    observation = copy.deepcopy(turns_run.outcome.observation)
    _resigned(observation, change)
    found = [f for f in (legs_in_order(observation), paused_leg_idle(observation)) if f.finding == "broken"]
    assert {f.invariant for f in found} == broken
    assert message in found[0].reason


def test_turns_that_did_not_run_are_unseen(turns_run: Ran) -> None:
    observation = copy.deepcopy(turns_run.outcome.observation)
    _resigned(observation, _turn_unplayed)
    assert legs_in_order(observation).finding == "unseen"


def test_account_with_an_invalid_signature_breaks_the_finding(turns_run: Ran) -> None:
    observation: Any = copy.deepcopy(turns_run.outcome.observation)
    observation["rounds"][0]["borders"] = observation["rounds"][0]["raw"]["exit"]
    assert paused_leg_idle(observation).finding == "broken"


def test_leg_that_reports_a_segment_too_many_breaks_the_finding(turns_run: Ran) -> None:
    observation: Any = copy.deepcopy(turns_run.outcome.observation)
    observation["rounds"][0]["raw"]["callback"]["segments"].append([99, 1, 1, 1, 1, 1, 1])
    assert "other turns" in legs_in_order(observation).reason


def test_legs_with_one_data_order_or_another_cache_did_not_do_the_same_work(turns_run: Ran) -> None:
    from pytest_glasshouse.invariants import same_work

    observation: Any = copy.deepcopy(turns_run.outcome.observation)
    notes = observation["rounds"][0]
    notes["raw"]["trainingPlan"]["order_seed"] = notes["protected"]["trainingPlan"]["order_seed"]
    assert "same order" in same_work(observation).reason
    observation = copy.deepcopy(turns_run.outcome.observation)
    observation["rounds"][0]["raw"]["cache"]["bytes"] += 1
    assert "cache state" in same_work(observation).reason


def test_null_row_is_judged_by_the_invariants_of_raw_legs(tmp_path: Path) -> None:
    """A null row: no key, no lifecycle, and nothing else is different."""
    ran = carry_out(short_row(order="interleaved", null=True, target_s=0.2), tmp_path)
    assert ran.outcome.ended is None
    found = judge(ran.outcome.observation)
    assert [(f.invariant, f.finding) for f in found if f.finding != "held"] == []
    assert len(found) == len(NULL)
    (one,) = results(ran.outcome.observation)
    assert one.protected is None
    assert all(set(pair) == {"number", "first", "raw", "raw2"} for pair in one.pairs)
    assert not did_not_fit(ran.outcome)


@pytest.mark.parametrize(("fields", "legs"), [({"null": True}, {"raw", "raw2"}), ({"preset": "publish"}, {"protected", "raw"})])
def test_legs_that_do_not_fit_on_the_gpu_together_run_one_after_the_other(
    fields: dict[str, Any], legs: set[str], tmp_path: Path
) -> None:
    """Two raw legs are two: each with its own export, callback and exit."""
    ran = carry_out(short_row(order="interleaved", resident=False, **fields), tmp_path)
    assert ran.outcome.ended is None
    observation: Any = ran.outcome.observation
    assert [(f.invariant, f.reason) for f in judge(observation) if f.finding != "held"] == []
    (notes,) = observation["rounds"]
    assert set(notes["order"]) == {seen["leg"] for seen in notes["guest"]} == legs
    (one,) = results(observation)
    assert {role for role in ("protected", "raw", "raw2") if getattr(one, role) is not None} == legs
    later = copy.deepcopy(observation)
    last = later["rounds"][0][notes["order"][-1]]["timeline"]
    last["spawned"] = notes[notes["order"][-2]]["timeline"]["exit"] - 1
    assert legs_in_order(later).finding == "broken"
    assert {each.__name__: each for each in invariants_of(2)}["_legs_in_order_2"](later).finding != "held"
