"""What `--collect-only` says about rows: where each would run, how, for how long, and at what price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.broker.pricing import row_seconds
from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.plugin.stash import ROW, engine_of, options_of
from pytest_glasshouse.providers.places import PLACES
from pytest_glasshouse.wire.printable import counted, printable
from pytest_glasshouse.wire.text_table import Column, text_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pytest

    from pytest_glasshouse.rows.spec import RowSpec

_COLUMNS = (
    Column(head="row", importance=9),
    Column(head="GPU", importance=7),
    Column(head="order", importance=4),
    Column(head="rounds", importance=3, number=True),
    Column(head="per leg", importance=2, number=True),
    Column(head="minutes", importance=6, number=True),
    Column(head="USD", importance=8, number=True),
)


def rows_table(config: pytest.Config, items: Sequence[pytest.Item], *, run_id: str, width: int | None) -> Iterator[str]:
    """A line for each row, and the sums. Of a place that rents, the prices are those of its offers now; nothing is rented."""
    rows = [item.stash[ROW].row for item in items if ROW in item.stash]
    prices, problem = _prices(config, rows, run_id=run_id, run_dir=options_of(config).reports(config.rootpath) / f"{run_id}.run")
    costs = [None if (price := prices.get(row.gpu_model or "")) is None else price * row_seconds(row) / 3600 for row in rows]
    body = [_cells(row, cost) for row, cost in zip(rows, costs, strict=True)]
    yield from text_table(_COLUMNS, body, width=width)
    minutes = sum(map(row_seconds, rows)) / 60
    known = [cost for cost in costs if cost is not None]
    money = f"; about {sum(known):.2f} USD, booting beside it" if known else ""
    yield f"{counted(len(rows), 'row')}, about {minutes:,.0f} minutes at most, one after the other{money}"
    if problem:
        yield f"prices are not known: {problem}"


def _cells(row: RowSpec, cost_usd: float | None) -> list[str]:
    target = f"{row.target_s:g} s" if row.target_s is not None else f"{row.steps} units"
    minutes = f"{row_seconds(row) / 60:,.1f}"
    usd = "" if cost_usd is None else f"{cost_usd:.2f}"
    order = "raw against raw" if row.null else row.order
    return [row.name, row.gpu_model or "any", order, str(row.rounds), target, minutes, usd]


def _prices(config: pytest.Config, rows: Sequence[RowSpec], *, run_id: str, run_dir: Path) -> tuple[dict[str, float], str]:
    """USD per hour by GPU, and why there are none where a place that rents was asked for them."""
    options = options_of(config)
    if options.provider == "row" or not PLACES[options.provider].rents:
        return {}, ""
    try:
        broker = engine_of(config).broker(options, rows, run_id=run_id, run_dir=run_dir, tell=lambda _name, _what: None)
        broker.plan(rows)
        return {line.gpu_model: line.price_usd_per_hour for line in broker.quote().lines}, ""
    except (GlasshouseError, OSError) as error:
        return {}, printable(error, limit=400)
