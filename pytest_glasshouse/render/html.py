"""Pieces of HTML that every part of the page uses. Text is escaped here and nowhere else: a report may come from a stranger."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.wire.printable import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def say(value: Any) -> str:
    """A value as text; nothing for None."""
    return "" if value is None else escape(visible(re.sub(r"[\r\n\t]+", " ", str(value))), quote=True)


def paragraph(words: str, css: str = "") -> str:
    """One paragraph."""
    return f'<p class="{css}">{say(words)}</p>' if css else f"<p>{say(words)}</p>"


def items(values: Iterable[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{say(each)}</li>' for each in values)}</ul>"


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values, without those that have none."""
    told = "".join(f"<dt>{say(name)}</dt><dd>{say(value)}</dd>" for name, value in pairs if value not in (None, ""))
    return f"<dl>{told}</dl>"


def table(caption: str, head: Sequence[str], body: Iterable[Sequence[Any]], *, numbers: Sequence[int] = ()) -> str:
    """A table with a caption; columns named in `numbers` are set right. It scrolls alone where a screen is narrow."""
    css = ['class="n"' if place in numbers else "" for place in range(len(head))]
    first = "".join(f'<th scope="col" {css[place]}>{say(name)}</th>' for place, name in enumerate(head))
    rows = "".join(
        "<tr>" + "".join(f"<td {css[place]}>{cell(value)}</td>" for place, value in enumerate(each)) + "</tr>" for each in body
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{say(caption)}"><table><caption>{say(caption)}</caption>'
        f"<thead><tr>{first}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


class Code(str):
    """Text of a table's cell that is set as code."""

    __slots__ = ()


class MarkedText(str):
    """Text of a table's cell that is good or bad news, by what it is."""

    __slots__ = ()


_NEWS = {"held": "good", "pass": "good", "proven": "good", "broken": "bad", "unseen": "bad", "FAIL": "bad", "leak": "bad"}


def cell(value: Any) -> str:
    """The inside of a table's cell."""
    if isinstance(value, Code):
        return f"<code>{say(value)}</code>"
    if isinstance(value, MarkedText):
        return f'<strong class="{_NEWS.get(value, "warn")}">{say(value)}</strong>'
    return say(value)


def folded(summary: str, inside: str, *, is_open: bool = False) -> str:
    """Something that can be opened."""
    return f'<details{" open" if is_open else ""}><summary>{say(summary)}</summary><div class="in">{inside}</div></details>'
