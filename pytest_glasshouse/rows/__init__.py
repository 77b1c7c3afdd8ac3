"""What is measured: `RowSpec`, and the rows that ship (built on first access)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.rows.spec import Published, RowSpec

if TYPE_CHECKING:
    from pytest_glasshouse.rows.published import (
        ALL_ROWS,
        INTERLEAVED_ROWS,
        LORA_ROWS,
        MLP_ROWS,
        NULL_ROWS,
        PUBLISHED_ROWS,
        SEALED_ROWS,
        SMOKE_ROWS,
    )

__all__ = [
    "ALL_ROWS",
    "INTERLEAVED_ROWS",
    "LORA_ROWS",
    "MLP_ROWS",
    "NULL_ROWS",
    "PUBLISHED_ROWS",
    "SEALED_ROWS",
    "SMOKE_ROWS",
    "Published",
    "RowSpec",
]


def __getattr__(name: str) -> tuple[RowSpec, ...]:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pytest_glasshouse.rows import published

    rows: tuple[RowSpec, ...] = getattr(published, name)
    return rows
