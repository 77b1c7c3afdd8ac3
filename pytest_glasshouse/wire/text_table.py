"""Tables of text that fit the width they have: numbers to the right, columns left out from the least important on, cells clipped.

A line that wraps can be read by nobody. What is left out is named below the table; reports and pages have all of it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from pytest_glasshouse.wire.output import RedLine
from pytest_glasshouse.wire.printable import printable

_GAP = "  "
_CUT = "…"
#: A column of text may be clipped to this many characters before a column is left out for it.
_CLIPPED = 16
#: The longest cell: foreign text may be of any length.
_CELL = 400


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. Those of the lowest `importance` are left out first, the first column never."""

    head: str
    importance: int = 1
    number: bool = False
    """Whether its cells are aligned right, and never clipped: a number without its end is another one."""


def text_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int | None, red: Collection[int] = ()
) -> Iterator[str]:
    """The lines of a table, none longer than `width` characters; None is no limit. A column with nothing in it is left out.

    `red` are the places of the rows about what failed.
    """
    cells = [[printable(cell, limit=_CELL) for cell in row] for row in rows]
    natural = [max(len(line[place]) for line in ([each.head for each in columns], *cells)) for place in range(len(columns))]
    shown = [place for place in range(len(columns)) if place == 0 or any(line[place] for line in cells)]
    left_out: list[str] = []
    while width is not None and len(shown) > 1 and _least(columns, natural, shown) > width:
        last = min(shown[1:], key=lambda place: (columns[place].importance, -place))
        shown.remove(last)
        left_out.append(columns[last].head)
    widths = _widths(columns, natural, shown, width)
    for number, line in enumerate(([each.head for each in columns], *cells), -1):
        text = clipped(_GAP.join(_cell(line[place], columns[place], widths[place]) for place in shown).rstrip(), width)
        yield RedLine(text) if number in red else text
    if left_out:
        names = ", ".join(columns[place].head for place in range(len(columns)) if columns[place].head in left_out)
        yield clipped(f"(too narrow for {names})", width)


def clipped(text: str, width: int | None) -> str:
    """The text, cut with a mark where it is longer than `width`."""
    return text if width is None or len(text) <= width else text[: max(width - 1, 0)] + _CUT


def width_of(stream: TextIO) -> int | None:
    """The columns of a terminal, or what COLUMNS says; None where there is neither: a file or a pipe has no width."""
    told = os.environ.get("COLUMNS", "")
    if told.isascii() and told.isdigit() and 0 < len(told) < 6 and int(told) > 0:  # noqa: PLR2004
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError, AttributeError):
        return None


def _least(columns: Sequence[Column], natural: Sequence[int], shown: Sequence[int]) -> int:
    """The narrowest that these columns can be."""
    return sum(_narrowest(columns[place], natural[place]) for place in shown) + len(_GAP) * (len(shown) - 1)


def _narrowest(column: Column, natural: int) -> int:
    return natural if column.number else min(natural, max(_CLIPPED, len(column.head)))


def _widths(columns: Sequence[Column], natural: Sequence[int], shown: Sequence[int], width: int | None) -> dict[int, int]:
    """As wide as each needs to be; where that is too much, the widest column of text gives way first."""
    widths = {place: natural[place] for place in shown}
    room = None if width is None else width - len(_GAP) * (len(shown) - 1)
    while room is not None and sum(widths.values()) > room:
        giving = [place for place in shown if widths[place] > _narrowest(columns[place], natural[place])]
        if not giving:
            break
        widths[max(giving, key=widths.__getitem__)] -= 1
    return widths


def _cell(text: str, column: Column, width: int) -> str:
    return text.rjust(width) if column.number else clipped(text, width).ljust(width)
