"""What is measured: `RowSpec`, and the rows that ship (made only when somebody asks for them)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.rows.spec import Published, RowSpec

if TYPE_CHECKING:
    from pytest_glasshouse.rows.published import LORA_ROWS, MLP_ROWS
    from pytest_glasshouse.rows.turns import INTERLEAVED_ROWS, NULL_ROWS

__all__ = ["INTERLEAVED_ROWS", "LORA_ROWS", "MLP_ROWS", "NULL_ROWS", "Published", "RowSpec"]

_PUBLISHED, _TURNS = ("LORA_ROWS", "MLP_ROWS"), ("INTERLEAVED_ROWS", "NULL_ROWS")


def __getattr__(name: str) -> tuple[RowSpec, ...]:
    if name not in (*_PUBLISHED, *_TURNS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pytest_glasshouse.rows import published, turns

    rows: tuple[RowSpec, ...] = getattr(published if name in _PUBLISHED else turns, name)
    return rows
