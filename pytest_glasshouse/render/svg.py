"""SVG elements of the plots: a scale with round ticks, lines, rectangles and escaped text. No library, no script."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.render.html import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Wider plots are scaled down on a phone, and their text is drawn larger there.
_SMALL = 400
_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values from `low` to `high` on pixels from `left` to `right`; values outside are drawn at the edge."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.left + share * (self.right - self.left), 1)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside the scale, about `wanted` of them."""
        step = round_step((self.high - self.low) / wanted)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def round_step(rough: float) -> float:
    """The next of 1, 2, 5, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return power * next((step for step in _STEPS if step * power >= rough * 0.999), 10.0)


def number(value: float, *, sign: bool = False) -> str:
    """A tick's label."""
    text = f"{value:+.6g}" if sign and value else f"{value:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def text(x: float, y: float, content: str, *, anchor: str = "middle", css: str = "") -> str:
    """One line of text in a plot."""
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escaped(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """One line."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{css}"/>'


def rectangle(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    """One rectangle; its title is shown where a pointer rests on it."""
    inside = f"<title>{escaped(title)}</title>" if title else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{max(width, 0.6):g}" height="{height:g}" class="{css}">{inside}</rect>'


def svg(parts: Sequence[str] | Iterator[str], *, width: int, height: int, title: str, role: str = "img") -> str:
    """The whole plot, an image with an accessible name; one with links in it is a `group`."""
    inside = "".join(parts)
    label = escaped(title)
    size = " big" if width > _SMALL else ""
    style = f"max-width:{width * 5 // 4}px"
    about = f'role="{role}" aria-label="{label}" class="plot{size}" style="{style}"'
    return f'<svg viewBox="0 0 {width} {height}" {about}>{inside}</svg>'
