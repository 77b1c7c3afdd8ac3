"""Foreign text cannot move a cursor, begin a line, command a CI runner, or hide."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_glasshouse.wire.printable import printable, printable_lines


@given(st.text(max_size=400))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    shown = printable(text, limit=100)
    assert len(shown) <= 101
    assert {unicodedata.category(letter) for letter in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} == set()
    assert "::" not in shown
    assert "##[" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b[1;31mheld", r"\x1b[2J\x1b[1;31mheld"),
        ("a\nb\r\nc\td", "a b c d"),
        ("::error::x", r"\x3a:error\x3a:x"),
        ("a ##[error]x", r"a \x23#[error]x"),
        ("##vso[task.complete]", r"\x23#vso[task.complete]"),
        ("## heading", "## heading"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("zero\u200bwidth\u2028line", r"zero\u200bwidth\u2028line"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("Ünïcødé 日本", "Ünïcødé 日本"),
    ],
)
def test_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert shown == printable(text)


def test_a_long_text_is_cut_with_a_mark() -> None:
    assert printable("x" * 10_000_000, limit=10) == "x" * 10 + "…"
    assert printable("\x00" * 10, limit=10).endswith("…")
    assert printable("x" * 10, limit=10) == "x" * 10


def test_lines_are_counted_when_they_are_left_out() -> None:
    assert printable_lines("a\n::b::\nc\nd", lines=2) == ["a", r"\x3a:b\x3a:", "… 2 more lines"]
