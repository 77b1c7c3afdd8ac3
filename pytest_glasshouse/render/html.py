"""HTML elements of the page. Text is escaped here and nowhere else: the report is untrusted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.wire.printable import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def escaped(value: Any) -> str:
    """A value as escaped text on one line; empty for None."""
    if value is None:
        return ""
    line = re.sub(r"[\r\n\t]+", " ", str(value))
    return escape(visible(re.sub(r"\+-(?=\d)", "\N{PLUS-MINUS SIGN}", line)), quote=True)


def paragraph(content: str, css: str = "") -> str:
    """One paragraph."""
    return f'<p class="{css}">{escaped(content)}</p>' if css else f"<p>{escaped(content)}</p>"


def bullets(values: Iterable[str]) -> str:
    """A bullet list."""
    return f"<ul>{''.join(f'<li>{escaped(each)}</li>' for each in values)}</ul>"


def definitions(pairs: Iterable[tuple[str, Any]]) -> str:
    """A definition list of names and values; those without a value are left out. A `LinkCell` leads to its place."""
    terms = "".join(f"<dt>{escaped(name)}</dt><dd>{_defined(value)}</dd>" for name, value in pairs if value not in (None, ""))
    return f"<dl>{terms}</dl>"


def _defined(value: Any) -> str:
    return f'<a href="{escaped(value.css)}">{escaped(value.text)}</a>' if isinstance(value, LinkCell) else escaped(value)


@dataclass(frozen=True)
class Cell:
    """A cell with a colour class, and the number that it sorts by; an empty one is not shown as a value."""

    text: str
    css: str = ""
    value: float | None = None


@dataclass(frozen=True)
class LinkCell(Cell):
    """A cell that leads to a place: `css` is its address."""


def table(caption: str, head: Sequence[str], body: Iterable[Sequence[Any]], *, numbers: Sequence[int] = (), css: str = "") -> str:
    """A table with a caption; columns named in `numbers` are right-aligned. On a narrow screen it scrolls by itself.

    With `css` "sort" the page's script sorts it: a number column by the cells' values.
    """
    kind = [' class="n"' if place in numbers else "" for place in range(len(head))]
    first = "".join(f'<th scope="col"{kind[place]}>{escaped(name)}</th>' for place, name in enumerate(head))
    sorted_by = numbers if css else ()
    rows = "".join(
        "<tr>"
        + "".join(f"<td{kind[place]}{_value(value, place in sorted_by)}>{cell(value)}</td>" for place, value in enumerate(each))
        + "</tr>"
        for each in body
    )
    name, kind_of_table = escaped(caption), f' class="{css}"' if css else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{name}"><table{kind_of_table}><caption>{name}</caption>'
        f"<thead><tr>{first}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


class Code(str):
    """Text of a cell in the code font."""

    __slots__ = ()


class MarkedText(str):
    """Text of a cell whose colour follows its value."""

    __slots__ = ()


_STATUS_CSS = {"held": "good", "pass": "good", "proven": "good", "broken": "bad", "unseen": "bad", "FAIL": "bad", "leak": "bad"}


def _value(value: Any, is_number: bool) -> str:  # noqa: FBT001
    if not is_number:
        return ""
    return f' data-v="{"" if value.value is None else format(value.value, ".12g")}"'


def cell(value: Any) -> str:
    """The content of a cell, by its type."""
    if isinstance(value, LinkCell):
        return f'<a href="{escaped(value.css)}">{escaped(value.text)}</a>'
    if isinstance(value, Cell):
        return f'<strong class="{value.css}">{escaped(value.text)}</strong>' if value.css else escaped(value.text)
    if isinstance(value, Code):
        return f"<code>{escaped(value)}</code>"
    if isinstance(value, MarkedText):
        return f'<strong class="{_STATUS_CSS.get(value, "warn")}">{escaped(value)}</strong>'
    return escaped(value)


def details(summary: str, inside: str, *, is_open: bool = False, css: str = "") -> str:
    """A `details` element; `css` colours its summary."""
    kind = f' class="{css}"' if css else ""
    opened = " open" if is_open else ""
    return f'<details{kind}{opened}><summary{kind}>{escaped(summary)}</summary><div class="in">{inside}</div></details>'
