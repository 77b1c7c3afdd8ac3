"""Tables fit the width they have, and say what they left out."""

from __future__ import annotations

import io

import pytest

from pytest_glasshouse.wire.text_table import Column, clipped, text_table, width_of

COLUMNS = (
    Column(head="row", importance=9),
    Column(head="rate", importance=1, number=True),
    Column(head="overhead", importance=8, number=True),
    Column(head="why", importance=5),
)
ROWS = [("h100-60s-protected-first", "1,000.11", "+1.05 %", "too few rounds"), ("a", "2.00", "-10.00 %", "single sample")]


def test_table_is_aligned_without_trailing_blanks() -> None:
    columns = (Column(head="a"), Column(head="bb"))
    assert list(text_table(columns, [("ccc", "d")], width=None)) == ["a    bb", "ccc  d"]


def test_numbers_are_aligned_right() -> None:
    columns = (Column(head="a"), Column(head="n", number=True))
    assert list(text_table(columns, [("x", "1.00"), ("y", "10.00")], width=None)) == ["a      n", "x   1.00", "y  10.00"]


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60, 80, 140])
def test_no_line_is_wider_than_it_may_be(width: int) -> None:
    assert max(map(len, text_table(COLUMNS, ROWS, width=width))) <= width


def test_least_important_column_is_left_out_first_and_named() -> None:
    lines = list(text_table(COLUMNS, ROWS, width=50))

    assert "rate" not in lines[0]
    assert lines[-1] == "(too narrow for rate)"
    assert all("+1.05 %" in line or "-10.00 %" in line for line in lines[1:-1])


def test_text_is_clipped_before_a_column_is_left_out() -> None:
    lines = list(text_table(COLUMNS, ROWS, width=58))

    assert "rate" in lines[0]
    assert "…" in lines[1]
    assert "1,000.11" in lines[1]


def test_column_with_nothing_in_it_is_left_out() -> None:
    assert list(text_table((Column(head="a"), Column(head="b")), [("x", "")], width=None)) == ["a", "x"]


def test_control_characters_of_a_cell_do_not_reach_the_terminal() -> None:
    assert list(text_table((Column(head="a"),), [("\x1b[2J",)], width=None))[1] == r"\x1b[2J"


def test_file_has_no_width_and_columns_decides_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width_of(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "72")
    assert width_of(io.StringIO()) == 72
    monkeypatch.setenv("COLUMNS", "wide")
    assert width_of(io.StringIO()) is None


def test_clipped_text_says_that_it_is() -> None:
    assert (clipped("abcdef", 4), clipped("abc", 4), clipped("abc", None)) == ("abc…", "abc", "abc")
