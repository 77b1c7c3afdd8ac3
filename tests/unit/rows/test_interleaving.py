"""Segment length, wash-out, pairs and rounds: a row's defaults."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.plugin.markers import MARKERS
from pytest_glasshouse.rows import INTERLEAVED_ROWS, NULL_ROWS, RowSpec
from pytest_glasshouse.rows.interleaving import PRESET_ROUNDS, interleaving
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


def test_publish_keeps_a_second_raw_leg_and_a_null_row_has_nothing_else() -> None:
    assert interleaving(_row(preset="publish")).legs == ("protected", "raw", "raw2")
    assert interleaving(_row(preset="quick")).legs == ("protected", "raw")
    assert interleaving(_row(null=True, preset="publish")).legs == ("raw", "raw2")


@pytest.mark.parametrize(("preset", "rounds"), [("quick", 3), ("standard", 6), ("publish", 10)])
def test_preset_sets_the_rounds_unless_they_are_given(preset: Any, rounds: int) -> None:
    assert Overrides(preset=preset).apply(_row()).rounds == rounds
    assert Overrides(preset=preset, rounds=2).apply(_row()).rounds == 2
    assert Overrides(preset=preset).apply(_row()).preset == preset


def test_preset_leaves_sequential_rows_alone() -> None:
    row = _row(order="raw-first")
    assert Overrides(preset="publish").apply(row) == row


def test_row_that_becomes_interleaved_gets_the_rounds_of_standard() -> None:
    """One round has no interval, which is what interleaving is for."""
    changed = Overrides(order="interleaved").apply(_row(order="raw-first"))
    assert (changed.rounds, changed.preset) == (PRESET_ROUNDS["standard"], None)
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
