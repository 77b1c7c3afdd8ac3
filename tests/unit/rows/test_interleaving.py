"""Segment length, wash-out, pairs and rounds: a row's defaults."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_glasshouse.overhead.sequential import LOOKS
from pytest_glasshouse.plugin.markers import MARKERS
from pytest_glasshouse.rows import INTERLEAVED_ROWS, NULL_ROWS, RowSpec
from pytest_glasshouse.rows.interleaving import cut, interleaving
from pytest_glasshouse.rows.overrides import Overrides
from pytest_glasshouse.rows.spec import GPU_MODELS


def _row(**fields: Any) -> RowSpec:
    given = {"name": "row", "workload": "mlp", "gpu": "anygpu", "order": "interleaved", "target_s": 180.0, "warmup_s": 20.0}
    return RowSpec(**{**given, **fields})


@pytest.mark.parametrize("target_s", [0.1, 0.5, 1, 2, 10, 60, 180, 900, 3600, 28800])
@pytest.mark.parametrize("workload", ["mlp", "lora"])
def test_pairs_share_the_target(workload: str, target_s: float) -> None:
    """A row trains as long as its target, however it is cut."""
    model = "some/model" if workload == "lora" else None
    design = interleaving(_row(workload=workload, target_s=target_s, model=model))
    assert design.segment_s is not None
    assert 2 <= design.pairs <= 120
    assert design.pairs * design.segment_s == pytest.approx(target_s, rel=0.15)
    assert design.washout_s >= 0.1


def test_long_rows_get_segments_of_20_s_with_4_s_of_washout() -> None:
    design = interleaving(_row())
    assert (design.pairs, design.segment_s, design.washout_s, design.warmup_limit_s) == (9, 20.0, 4.0, 60.0)


def test_step_budget_is_cut_into_segments_of_whole_steps() -> None:
    design = interleaving(_row(target_s=None, steps=30))
    assert (design.pairs, design.segment_s, design.segment_steps) == (8, None, 4)
    assert interleaving(_row(target_s=None, steps=1)).pairs == 1


def test_legs_of_an_interleaved_row_are_two() -> None:
    """A second raw leg cost a third of the time, and rounds narrow more: null rows compare raw with raw."""
    assert interleaving(_row(preset="publish")).legs == ("protected", "raw")
    assert interleaving(_row(null=True, preset="publish")).legs == ("raw", "raw2")


@pytest.mark.parametrize(("preset", "rounds"), [("quick", 5), ("standard", 11), ("publish", 19)])
def test_preset_is_a_time_that_holds_as_many_rounds_of_four_pairs(preset: Any, rounds: int) -> None:
    changed = Overrides(preset=preset).apply(_row())
    assert (changed.rounds, changed.preset, changed.cut, interleaving(changed).pairs) == (rounds, preset, True, 4)
    given = Overrides(preset=preset, rounds=2).apply(_row())
    assert (given.rounds, given.cut, interleaving(given).pairs) == (2, False, 4)


def test_long_target_gives_a_preset_more_rounds_and_not_longer_ones() -> None:
    ten_minutes = Overrides(preset="standard").apply(_row(target_s=600.0, warmup_s=5.0))
    assert (ten_minutes.rounds, interleaving(ten_minutes).pairs) == (39, 4)


def test_preset_of_steps_or_of_whole_lifecycles_has_no_time_to_cut() -> None:
    for row in (_row(target_s=None, steps=30), _row(resident=False)):
        changed = Overrides(preset="standard").apply(row)
        assert (changed.rounds, changed.cut) == (6, False)


def test_dry_run_without_a_target_cuts_nothing() -> None:
    """How many rounds it has must not depend on the machine."""
    changed = Overrides(preset="standard", dry_run=True).apply(_row())
    assert (changed.cut, changed.target_s) == (False, 2.0)
    assert Overrides(preset="standard", dry_run=True, target_s=30.0).apply(_row()).cut


def test_row_of_looks_begins_with_those_of_the_first() -> None:
    row = Overrides(order="interleaved", sequential=True).apply(_row(order="raw-first"))
    assert (row.rounds, row.cut) == (LOOKS[0], False)
    assert Overrides(sequential=True).apply(_row(null=True, rounds=6)).rounds == 6


@given(st.floats(60, 50_000), st.floats(0.5, 5_000), st.floats(0.5, 300))
def test_cut_row_keeps_its_time_unless_a_verdict_needs_more(row_s: float, cost_s: float, pair_s: float) -> None:
    found = cut(row_s=row_s, round_cost_s=cost_s, pair_s=pair_s)
    took_s = cost_s + 4 * pair_s + (found.rounds - 1) * (cost_s + found.pairs * pair_s)
    assert 5 <= found.rounds <= 40
    assert 4 <= found.pairs <= 16
    assert took_s <= row_s * (1 + 1e-9) or (found.rounds == 5 and found.pairs == 4)


def test_dear_starts_make_rounds_fewer_and_longer() -> None:
    cheap, dear = (cut(row_s=7200.0, round_cost_s=cost_s, pair_s=48.0) for cost_s in (20.0, 600.0))
    assert (cheap.rounds, cheap.pairs) == (33, 4)
    assert (dear.rounds, dear.pairs) == (6, 10)


@pytest.mark.parametrize("times", [(0.0, 1.0, 1.0), (100.0, math.nan, 1.0), (100.0, 1.0, math.inf)])
def test_times_that_are_none_cut_nothing(times: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        cut(row_s=times[0], round_cost_s=times[1], pair_s=times[2])


def test_preset_leaves_sequential_rows_alone() -> None:
    row = _row(order="raw-first")
    assert Overrides(preset="publish").apply(row) == row


def test_row_that_becomes_interleaved_gets_the_time_of_standard() -> None:
    """One round has no interval, which is what interleaving is for."""
    changed = Overrides(order="interleaved").apply(_row(order="raw-first"))
    assert (changed.rounds, changed.preset, changed.cut) == (11, "standard", True)
    assert Overrides(order="interleaved").apply(_row(rounds=4)).rounds == 4


def test_row_that_becomes_sequential_loses_what_only_turns_have() -> None:
    assert Overrides(order="raw-first").apply(_row(null=True, resident=False)).null is False


def test_every_gpu_that_was_published_on_has_an_interleaved_and_a_null_row() -> None:
    wanted = {*GPU_MODELS, "anygpu"}
    assert {row.gpu for row in INTERLEAVED_ROWS} == wanted
    assert {row.gpu for row in NULL_ROWS} == wanted
    assert all(row.rounds >= 5 and row.order == "interleaved" for row in (*INTERLEAVED_ROWS, *NULL_ROWS))
    of_one = [row for row in (*INTERLEAVED_ROWS, *NULL_ROWS) if row.gpus == 1]
    assert all(("null" in row.marks) == row.null and "smoke" not in row.marks for row in of_one)
    assert len({row.row_id for row in (*INTERLEAVED_ROWS, *NULL_ROWS)}) == len(INTERLEAVED_ROWS) + len(NULL_ROWS)


def test_rows_of_2_and_8_gpus_are_chosen_by_their_own_marker() -> None:
    """Nobody who says `h100 and mlp`, or `null`, means to pay for eight of them."""
    several = [row for row in (*INTERLEAVED_ROWS, *NULL_ROWS) if row.gpus > 1]
    assert sorted((row.gpus, row.workload, row.null) for row in several) == sorted(
        (gpus, workload, null) for gpus in (2, 8) for workload in ("mlp", "lora") for null in (False, True)
    )
    assert {(row.gpu, row.marks) for row in several} == {("h100", ("multigpu",))}
    assert "multigpu" in MARKERS
