"""HTML elements of the page. Text is escaped here and nowhere else: the report is untrusted."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.wire.printable import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def escaped(value: Any) -> str:
    """A value as escaped text on one line; empty for None."""
    return "" if value is None else escape(visible(re.sub(r"[\r\n\t]+", " ", str(value))), quote=True)


def paragraph(content: str, css: str = "") -> str:
    """One paragraph."""
    return f'<p class="{css}">{escaped(content)}</p>' if css else f"<p>{escaped(content)}</p>"


def bullets(values: Iterable[str]) -> str:
    """A bullet list."""
    return f"<ul>{''.join(f'<li>{escaped(each)}</li>' for each in values)}</ul>"


def definitions(pairs: Iterable[tuple[str, Any]]) -> str:
    """A definition list of names and values; those without a value are left out."""
    terms = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in pairs if value not in (None, ""))
    return f"<dl>{terms}</dl>"


def table(caption: str, head: Sequence[str], body: Iterable[Sequence[Any]], *, numbers: Sequence[int] = ()) -> str:
    """A table with a caption; columns named in `numbers` are right-aligned. On a narrow screen it scrolls by itself."""
    css = ['class="n"' if place in numbers else "" for place in range(len(head))]
    first = "".join(f'<th scope="col" {css[place]}>{escaped(name)}</th>' for place, name in enumerate(head))
    rows = "".join(
        "<tr>" + "".join(f"<td {css[place]}>{cell(value)}</td>" for place, value in enumerate(each)) + "</tr>" for each in body
    )
    name = escaped(caption)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{name}"><table><caption>{name}</caption>'
        f"<thead><tr>{first}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


class Code(str):
    """Text of a cell in the code font."""

    __slots__ = ()


class MarkedText(str):
    """Text of a cell whose colour follows its value."""

    __slots__ = ()


_STATUS_CSS = {"held": "good", "pass": "good", "proven": "good", "broken": "bad", "unseen": "bad", "FAIL": "bad", "leak": "bad"}


def cell(value: Any) -> str:
    """The content of a cell, by its type."""
    if isinstance(value, Code):
        return f"<code>{escaped(value)}</code>"
    if isinstance(value, MarkedText):
        return f'<strong class="{_STATUS_CSS.get(value, "warn")}">{escaped(value)}</strong>'
    return escaped(value)


def details(summary: str, inside: str, *, is_open: bool = False) -> str:
    """A `details` element."""
    return f'<details{" open" if is_open else ""}><summary>{escaped(summary)}</summary><div class="in">{inside}</div></details>'
