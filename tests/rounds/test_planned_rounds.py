"""Rows whose rounds are decided while they run, on real processes: they follow from their own data, and end where the rule says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.analysis.looks import looks_of, plan_of_looks
from pytest_glasshouse.analysis.planned_rounds import pairs_of_round, rounds_in_all
from pytest_glasshouse.analysis.record import RecordSettings, build_record
from pytest_glasshouse.check.binding import _record
from pytest_glasshouse.check.recompute import Derivation, record_faults
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.rows.interleaving import with_preset_rounds
from pytest_glasshouse.run.engine import _rounds_in_all
from tests.rounds.conftest import Ran, carry_out, short_row


def record_of(ran: Ran, **settings: Any) -> Any:
    """The record of a row that was carried out; the plan names the row's own seed and margin."""
    assert ran.outcome.ended is None
    observation = ran.outcome.observation
    made = build_record(ran.outcome, results(observation), judge(observation), RecordSettings(seed=7, **settings))
    assert made["list"] == "rows"
    return made["record"]


def faults(record: Any, limit: float | None) -> list[str]:
    bound = [path for path, _ in _record(record, "test", measured=True)]
    return [*bound, *(path for path, _ in record_faults(record, Derivation(), max_overhead_pct=limit))]


def test_row_ends_at_the_look_that_decides_it(tmp_path: Path) -> None:
    """Five rounds of legs of a moment, and a limit that no noise reaches: the first look is enough."""
    row = short_row(order="interleaved", preset="quick", target_s=0.4, rounds=5)
    ran = carry_out(row, tmp_path, rounds_in_all=_rounds_in_all, looks=plan_of_looks(1e7))

    record = record_of(ran, max_overhead_pct=1e7)
    assert (len(record["roundFigures"]), record["sequential"]["rounds"]) == (5, 5)
    assert record["sequential"]["looks"][0]["judgement"] == "within the limit"
    # On a busy machine noise may put a whole round far below zero: such a row is within no limit.
    implausible = record["verdict"] == "implausible negative"
    assert record["limit"]["judgement"] == ("inconclusive" if implausible else "within the limit")
    assert faults(record, 1e7) == []
    looks = looks_of(ran.outcome.observation, results(ran.outcome.observation))
    assert looks is not None
    assert [count for count, _ in looks.seen] == [5]
    plan = ran.outcome.observation["plan"]["sampling"]
    assert plan == {"version": "2", "looks": [5, 7, 9, 12, 16, 20, 24], "spending": "1.5", "limitPct": "1e+07"}

    # Below all of the interval, wherever noise put that.
    record["observation"]["plan"]["sampling"]["limitPct"] = str(record["sequential"]["looks"][0]["lower95Pct"] - 1)
    assert ".sequential.looks" in " ".join(faults(record, 1e7))


@pytest.mark.soak
@pytest.mark.skipif(not os.environ.get("SOAK"), reason="a minute of rounds: make soak")
def test_first_round_cuts_the_time_of_a_real_row(tmp_path: Path) -> None:
    row = with_preset_rounds(short_row(order="interleaved", preset="quick", target_s=0.4))
    ran = carry_out(row, tmp_path, rounds_in_all=_rounds_in_all)

    record, measured = record_of(ran), results(ran.outcome.observation)
    assert record["cut"]["rounds"] == len(record["roundFigures"])
    assert len(record["roundFigures"]) == rounds_in_all(ran.outcome.observation, measured, planned=row.rounds)
    pairs = [pairs_of_round(ran.outcome.observation, measured, number=each.number, planned=4) for each in measured]
    assert [len(each.pairs) for each in measured] == pairs
    assert faults(record, None) == []
