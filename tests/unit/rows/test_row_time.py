"""Where the GPU minutes of a row go."""

from __future__ import annotations

import pytest

from pytest_glasshouse.rows import INTERLEAVED_ROWS, LORA_ROWS, MLP_ROWS, NULL_ROWS, SEALED_ROWS, RowSpec
from pytest_glasshouse.rows.interleaving import row_seconds
from pytest_glasshouse.rows.row_time import row_time, time_lines

CUT = [row for row in (*INTERLEAVED_ROWS, *NULL_ROWS) if row.cut]


@pytest.mark.parametrize("row", CUT, ids=lambda row: str(row.name))
def test_row_of_a_preset_takes_most_of_its_time_and_not_more(row: RowSpec) -> None:
    assert 0.85 * row_seconds(row) <= row_time(row).total_s <= row_seconds(row) * 1.001


def test_parts_are_those_of_all_legs_and_rounds() -> None:
    row = RowSpec(name="row", workload="mlp", gpu="anygpu", order="raw-first", target_s=60.0, warmup_s=5.0, rounds=3)
    found = row_time(row)
    assert (found.starts_s, found.loads_s, found.warmups_s, found.washouts_s, found.timed_s) == (48.0, 12.0, 30.0, 0.0, 360.0)
    assert found.total_s == 450.0
    assert (found.rounds, found.pairs) == (3, None)
    assert row_time(row, rounds=6).total_s == 900.0


def test_sealed_row_has_one_leg() -> None:
    assert row_time(SEALED_ROWS[0]).warmups_s == SEALED_ROWS[0].rounds * SEALED_ROWS[0].warmup_s


def test_every_row_that_ships_has_a_line() -> None:
    rows = (*MLP_ROWS, *LORA_ROWS, *INTERLEAVED_ROWS, *NULL_ROWS, *SEALED_ROWS)
    head, *lines = time_lines(rows)
    assert head.split() == ["GPU", "minutes", "rounds", "starts", "loads", "warm-ups", "wash-outs", "timed", "in", "all"]
    assert [line.split()[0] for line in lines] == [row.name for row in rows]
    interleaved = next(line for line in lines if line.startswith("h100-interleaved"))
    assert "11 of 4 pairs" in interleaved
