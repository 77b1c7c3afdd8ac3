"""A site of many reports: an index, a page for each run and for each row, a comparison of any two runs, and the badge.

Plain files that need no network and no server: every page allows its own script and style and nothing else. It adds nothing to
what the reports hold.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.wording import signed
from pytest_glasshouse.overhead.interval import t_quantile
from pytest_glasshouse.render.html import Cell, LinkCell, bullets, details, escaped, paragraph, table
from pytest_glasshouse.render.page_style import style_sheet
from pytest_glasshouse.render.page_table import SCRIPT
from pytest_glasshouse.render.plot_history import HistoryPoint, forest_plot, over_time_plot
from pytest_glasshouse.render.site_scripts import COMPARE, FILTERS
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from pytest_glasshouse.render.site_data import SiteRow, SiteRun

#: Most figures in a plot of the index; a row's own page has all of them.
_POINTS = 60
#: Most rows that are drawn in the index, and most failures that have a card there.
_PLOTS, _CARDS = 40, 12
_NONE = "'none'"
_FILTERS = ("GPU", "workload", "provider", "verdict")


def site_files(runs: Sequence[SiteRun], *, badge_svg: str, left_out: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Name and text of every file but the runs' own pages. `runs` are oldest first; `left_out` are files and why."""
    by_key: dict[str, list[tuple[SiteRun, SiteRow]]] = {}
    for run in runs:
        for row in run.rows:
            by_key.setdefault(row.key, []).append((run, row))
    yield "index.html", _index(runs, by_key, left_out, badge_svg)
    yield "compare.html", _compare_page(runs)
    yield "badge.svg", badge_svg
    for key, seen in by_key.items():
        yield f"rows/{file_name(key)}.html", _row_page(seen)


def file_name(key: str) -> str:
    """A name for a file, made of the foreign text of an id: letters, digits, dashes and a digest, so that no two are one."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", key).strip("-")[:60]
    return f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"


def run_address(run_id: str) -> str:
    """The page of a run, from the index."""
    return f"runs/{file_name(run_id)}.html"


def document(title: str, body: str, *scripts: str, data: str = "", refresh_s: int | None = None) -> str:
    """A whole page whose policy allows these scripts and no other, and no request; with `refresh_s` it is loaded again."""
    digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in digests)
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed or _NONE}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    held = f'<script type="application/json" id="data">{data}</script>' if data else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escaped(policy)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"{'' if refresh_s is None else f'<meta http-equiv=refresh content={refresh_s}>'}"
        f"<title>{escaped(title)}</title><style>{style_sheet()}</style></head><body><main><h1>{escaped(title)}</h1>{body}</main>"
        f"{held}{''.join(f'<script>{each}</script>' for each in scripts)}</body></html>\n"
    )


def _index(
    runs: Sequence[SiteRun],
    by_key: Mapping[str, list[tuple[SiteRun, SiteRow]]],
    left_out: Sequence[tuple[str, str]],
    badge_svg: str,
) -> str:
    parts = [_summary(runs, badge_svg), _failed(runs)]
    if left_out:
        head = paragraph(f"{counted(len(left_out), 'file')} left out", "head")
        listed = details("Which, and why", bullets(f"{name}: {why}" for name, why in left_out[:_POINTS]))
        parts.append(f'<div class="tile bad">{head}{listed}</div>')
    latest = {key: seen[-1] for key, seen in by_key.items()}
    tagged = sorted(latest.items(), key=lambda each: (not each[1][1].failure, each[1][1].name))
    parts.append(_filters([row for _, (_, row) in tagged]))
    measured = [(key, row) for key, (_, row) in tagged if row.pct is not None]
    points = [_point(row, label=row.name, address=f"rows/{file_name(key)}.html", tags=_tags(row)) for key, row in measured]
    if points:
        parts += ["<h2>Last figure of each row</h2>", forest_plot(points[:_PLOTS])]
    parts.append("<h2>Every row over time</h2>")
    parts += [_over_time(key, by_key[key]) for key, _ in tagged[:_PLOTS]]
    if len(tagged) > _PLOTS:
        parts.append(bullets([f"{len(tagged) - _PLOTS} more rows are in the table of runs' pages"]))
    parts += ['<h2 id="runs">Runs</h2>', '<p><a href="compare.html">Compare any two runs</a></p>', _runs_table(runs)]
    return document("Glasshouse reports", "".join(parts), SCRIPT, FILTERS)


def _summary(runs: Sequence[SiteRun], badge_svg: str) -> str:
    held, attempted = sum(each.held for each in runs), sum(each.attempted for each in runs)
    costs = [each.usd for each in runs if each.usd is not None]
    failed = sum(len(each.failed) for each in runs)
    words = [
        counted(len(runs), "run"),
        f"{counted(sum(len(each.rows) for each in runs), 'row')} in them, {failed} failed",
        f"every invariant held in {held} of {attempted} lifecycles begun",
        f"{sum(costs):,.2f} USD while legs were there" if costs else "nothing was rented",
    ]
    return f"<p>{badge_svg}</p>{bullets(words)}"


def _failed(runs: Sequence[SiteRun]) -> str:
    """A red card for each failure, the newest first; only of runs that are the last ones of their row, the others are history."""
    cards = [
        f'<div class="card failed"><h3><a href="{escaped(run_address(run.run_id))}#failures">{escaped(row.name)}</a></h3>'
        f"{paragraph(row.failure)}{paragraph(f'{run.created_at}, {row.gpu}', 'soft')}</div>"
        for run in reversed(runs)
        for row in run.failed
    ]
    if not cards:
        return ""
    more = paragraph(f"{len(cards) - _CARDS} more are in the table of runs.", "soft") if len(cards) > _CARDS else ""
    return f'<h2 id="failures" class="bad">Failed</h2><div class="cards">{"".join(cards[:_CARDS])}</div>{more}'


def _filters(rows: Sequence[SiteRow]) -> str:
    values = {
        "GPU": {each.gpu for each in rows},
        "workload": {each.workload for each in rows},
        "provider": {each.provider for each in rows},
        "verdict": {each.word for each in rows},
    }
    selects = [
        f'<label>{name} <select data-of="{name}"><option value="">all</option>'
        + "".join(f"<option>{escaped(each)}</option>" for each in sorted(map(_in_tag, values[name])))
        + "</select></label>"
        for name in _FILTERS
    ]
    return f'<p class="filters screen">{" ".join(selects)}</p>'


def _in_tag(value: str) -> str:
    """A value as the filters compare it, which split tags at bars."""
    return " ".join(value.replace("|", " ").split())


def _tags(row: SiteRow) -> str:
    given = (row.gpu, row.workload, row.provider, row.word)
    return escaped("|".join(f"{name}={_in_tag(value)}" for name, value in zip(_FILTERS, given, strict=True)))


def _over_time(key: str, seen: Sequence[tuple[SiteRun, SiteRow]]) -> str:
    row = seen[-1][1]
    points = [_point(each, label=run.created_at) for run, each in seen[-_POINTS:]]
    last = "failed" if row.failure else _figure(row)
    about = f"{row.gpu}, {row.order}, {counted(len(seen), 'run')}; last: {last}"
    return (
        f'<section class="card{" failed" if row.failure else ""}" data-tags="{_tags(row)}">'
        f'<h3><a href="rows/{file_name(key)}.html">{escaped(row.name)}</a></h3>'
        f"{paragraph(about, 'bad' if row.failure else 'soft')}{over_time_plot(row.name, points)}</section>"
    )


def _figure(row: SiteRow) -> str:
    if row.pct is None:
        return row.word
    return f"{signed(row.pct)} % ({_interval(row)}), {row.word}"


def _point(row: SiteRow, *, label: str, address: str = "", tags: str = "") -> HistoryPoint:
    failed = bool(row.failure) and row.pct is None
    return HistoryPoint(label=label, address=address, pct=row.pct, low=row.low, high=row.high, failed=failed, tags=tags)


def _interval(row: SiteRow) -> str:
    if row.pct is None:
        return ""
    return "single sample" if row.low is None or row.high is None else f"{signed(row.low)} to {signed(row.high)}"


def _runs_table(runs: Sequence[SiteRun]) -> str:
    body = [
        [
            LinkCell(run.run_id, run_address(run.run_id)),
            Cell(run.created_at),
            Cell(run.commit),
            Cell(", ".join(sorted({row.gpu for row in run.rows}))),
            Cell(", ".join(sorted({row.workload for row in run.rows}))),
            Cell(", ".join(sorted({row.provider for row in run.rows}))),
            Cell(str(len(run.rows)), value=len(run.rows)),
            Cell(str(len(run.failed)), css="bad" if run.failed else "good", value=len(run.failed)),
            _worst(run),
            Cell("" if run.usd is None else f"{run.usd:.2f}", value=run.usd),
        ]
        for run in reversed(runs)
    ]
    head = ("run", "made", "commit", "ran on", "workloads", "provider", "rows", "failed", "highest overhead, %", "USD")
    return table("Every run, the newest first", head, body, numbers=(6, 7, 8, 9), css="sort")


def _worst(run: SiteRun) -> Cell:
    values = [row.pct for row in run.rows if row.pct is not None]
    return Cell("" if not values else signed(max(values)), value=max(values, default=None))


def _row_page(seen: Sequence[tuple[SiteRun, SiteRow]]) -> str:
    row = seen[-1][1]
    points = [_point(each, label=run.created_at) for run, each in seen]
    body = [
        [
            LinkCell(run.created_at, f"../{run_address(run.run_id)}"),
            Cell(run.commit),
            Cell("" if each.pct is None else signed(each.pct), value=each.pct),
            Cell(_interval(each)),
            Cell(each.word, css=each.css),
            Cell("dry run" if each.dry_run else ""),
        ]
        for run, each in reversed(seen)
    ]
    failed = [paragraph(f"{run.created_at}: {each.failure}", "bad") for run, each in reversed(seen) if each.failure]
    head = ("made", "commit", "overhead, %", "95 % interval", "verdict", "status")
    parts = [
        '<p><a href="../index.html">All reports</a></p>',
        paragraph(f"{row.gpu}, {row.workload}, {row.order}", "soft"),
        *failed[:_CARDS],
        over_time_plot(row.name, points),
        table("Every run of this row, the newest first", head, body, numbers=(2,), css="sort"),
    ]
    return document(row.name, "".join(parts), SCRIPT)


def _compare_page(runs: Sequence[SiteRun]) -> str:
    names: dict[str, str] = {}
    places: dict[str, int] = {}
    listed = []
    for run in runs:
        rows = []
        for row in run.rows:
            if row.mean is None:
                continue
            place = places.setdefault(row.key, len(places))
            names[str(place)] = f"{row.name} on {row.gpu}"
            variance = None if row.variance is None else float(f"{row.variance:.6g}")
            rows.append([place, round(row.mean, 9), variance, row.freedom])
        listed.append([f"{run.created_at} {run.commit or run.run_id}", rows])
    quantiles = [round(t_quantile(0.975, freedom), 5) for freedom in range(1, 61)]
    # No text of a report may end the element that holds it.
    data = json.dumps({"names": names, "runs": listed, "t": quantiles}, separators=(",", ":")).replace("<", "\\u003c")
    head = ("row", "A, %", "B, %", "B - A, points", "95 % interval")
    empty = table("Rows that both measured on one kind of GPU", head, []).replace("<table>", '<table id="compared">')
    body = (
        '<p><a href="index.html">All reports</a></p>'
        '<p><label>A <select id="a"></select></label> <label>B <select id="b"></select></label></p>'
        f'{empty}<p id="none" hidden>No row was measured in both.</p>'
        + paragraph("The interval is Welch's t over the rounds of both; one round on either side has none.", "soft")
    )
    return document("Compare two runs", body, COMPARE, data=data)
