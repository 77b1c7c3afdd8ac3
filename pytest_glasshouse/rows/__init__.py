"""What is measured: `RowSpec`, and the rows that were published (made only when somebody asks for them)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.rows.spec import Published, RowSpec

if TYPE_CHECKING:
    from pytest_glasshouse.rows.published import LORA_ROWS, MLP_ROWS

__all__ = ["LORA_ROWS", "MLP_ROWS", "Published", "RowSpec"]


def __getattr__(name: str) -> tuple[RowSpec, ...]:
    if name not in ("LORA_ROWS", "MLP_ROWS"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pytest_glasshouse.rows import published

    rows: tuple[RowSpec, ...] = getattr(published, name)
    return rows
