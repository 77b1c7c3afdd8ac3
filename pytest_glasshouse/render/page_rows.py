"""A row on the page: its overhead against the null, rates over time, lifecycle, findings and their evidence digests.

Nothing is drawn for what a row does not have (segments, covariates, a null).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.analysis.row_limits import implausible, limit_of
from pytest_glasshouse.analysis.wording import signed, verdict_text, worst_round_text
from pytest_glasshouse.render import tables
from pytest_glasshouse.render.html import Code, MarkedText, definitions, details, escaped, paragraph, table
from pytest_glasshouse.render.plot_interval import interval_plot, null_band
from pytest_glasshouse.render.plot_rate import rate_plot
from pytest_glasshouse.render.plot_timeline import legend, phases, timeline_plot, turns_played
from pytest_glasshouse.report.attempts import attempts_line, row_title
from pytest_glasshouse.report.failures import causes_first
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.analysis.fields import ExcludedRow, MeasuredRow, NullRow, SealedRow
    from pytest_glasshouse.render.svg import Scale
    from pytest_glasshouse.report.fields import Report

#: Above this many segments their table is left out; the report has them.
_MOST_SEGMENTS = 400


def row_card(document: Report, row: MeasuredRow, scale: Scale) -> str:
    """The short form: overhead, interval plot, verdict, and a link to the details."""
    words = [verdict_text(row), *(["dry run"] if row["dryRun"] else []), *(["publishable"] if row["publishable"] else [])]
    return (
        f'<div class="card"><h3><a href="#{escaped(row["rowId"])}">{escaped(row_title(row))}</a></h3>'
        f'<p class="figure">{escaped(tables.overhead_text(row))}</p>{interval_plot(row, scale, null_band(document, row))}'
        f"{paragraph(', '.join(words) + '; ' + tables.ran_on(row), 'soft')}</div>"
    )


def row_details(document: Report, row: MeasuredRow, *, is_open: bool) -> str:
    """The long form, in a `details` element."""
    parts = [
        paragraph(row["interpretation"]),
        _attempts(row),
        _facts(row, document["nullRows"]),
        _null(document, row),
        _estimates(row),
        f'<div class="plots"><div>{_throughput(row)}</div><div>{"".join(_lifecycle(row))}</div></div>',
        _rounds(row),
        _costs(row),
        _covariates(row),
        findings(row),
    ]
    return f'<section id="{escaped(row["rowId"])}">{details(row_title(row), "".join(parts), is_open=is_open)}</section>'


def excluded_details(row: ExcludedRow, *, is_open: bool) -> str:
    """A row that was not measured: outcome, reason, decision, lifecycle and findings."""
    inside = definitions(
        [("outcome", row["outcome"]), ("reason", row["reason"]), ("decision", row["decision"]), *_conditions(row)]
    )
    inside += _attempts(row) + "".join(_lifecycle(row)) + findings(row)
    whole = details(row_title(row) + ": " + row["outcome"], inside, is_open=is_open, css="bad")
    return f'<section id="{escaped(row["rowId"])}">{whole}</section>'


def _attempts(row: MeasuredRow | ExcludedRow) -> str:
    attempts = attempts_line(row)
    return paragraph(f"Not publishable: {attempts}") if attempts else ""


def findings(row: MeasuredRow | SealedRow | ExcludedRow) -> str:
    """Every finding with its reason and the digest of what it was computed from."""
    judged = row["findings"]
    held = tables.held_count(judged)
    caption = f"Findings of {row['name']}: {held}"
    body = [
        (each["invariant"], MarkedText(each["finding"]), each["reason"], Code(each["evidence"][:16] + "..."))
        for each in causes_first(judged)
    ]
    head = ("invariant", "finding", "reason", "evidence SHA-256")
    waived = "".join(paragraph(f"Waived: {each['invariant']}: {each['reason']}") for each in row["waived"])
    failed = any(each["finding"] != "held" for each in judged)
    return details(f"Findings: {held}", table(caption, head, body) + waived, is_open=failed, css="bad" if failed else "")


def _conditions(row: MeasuredRow | ExcludedRow) -> list[tuple[str, Any]]:
    named = row["namedGpuModel"]
    return [
        ("ran on", tables.ran_on(row)),
        ("names", named if named != row["gpuModel"] else None),
        ("provider", row["provider"]),
        ("order", f"{row['order']}{', fixed' if row['fixedOrder'] else ''}"),
        ("target", f"{tables.target(row)} per leg, {counted(row['rounds'], 'round')}"),
        ("not publishable", "; ".join(row["unpublishableBecause"])),
    ]


def _facts(row: MeasuredRow, nulls: Sequence[NullRow]) -> str:
    unit = row["unit"]
    limit = limit_of(row, null_rows=nulls)
    return definitions(
        [
            ("implausible negative", implausible(row, nulls) or None),
            (
                "protected",
                f"{row['protectedPerSec']:,.3f} {unit}/s: {row['protectedUnits']:,} in {row['protectedElapsedSec']:,.3f} s",
            ),
            ("raw", f"{row['rawPerSec']:,.3f} {unit}/s: {row['rawUnits']:,} in {row['rawElapsedSec']:,.3f} s"),
            ("scaling", tables.scaling_text(row)),
            ("limit", None if limit is None else f"{limit.verdict.value} of {limit.limit_pct:g} %: {limit.reason}"),
            ("method", row["method"]),
            ("ratio of totals", f"{signed(row['overheadPct'])} % (one figure, without an interval)"),
            ("rounds", worst_round_text(row) or None),
            *_decided(row),
            ("margin", f"{row['marginPct']:g} {'point' if row['marginPct'] == 1 else 'points'}"),
            ("lifecycle", f"{row['attestation']}, {row['runtimeState']}, raw callback {row['rawCallback']}"),
            ("zeroize", f"{row['zeroizeSec']:.3f} s" if row["zeroizeSec"] is not None else None),
            ("memory scan", f"{row['scanSec']:.3f} s, in no measured time" if "scanSec" in row else None),
            ("plaintext in host memory", _exposure(row)),
            ("protected leg also did", ", ".join(row["treatment"])),
            *_conditions(row),
        ]
    )


def _exposure(row: MeasuredRow) -> str | None:
    if "exposureByteSec" not in row:
        return None
    return f"{row['exposureByteSec'] / 1e6:,.3f} MB s, at most {row['exposurePeakBytes'] / 1e6:,.3f} MB at once"


def _null(document: Report, row: MeasuredRow) -> str:
    band = null_band(document, row)
    if band is None:
        return paragraph("No raw leg was compared with another process's on this row's allocation.", "soft")
    nulls = row["estimates"]["nulls"] if "estimates" in row else []
    own = "allocationNull" not in row and any(each["kind"] == "second raw leg" for each in nulls)
    whose = "in the same rounds" if own else "between processes, by null rows on the same allocation"
    return paragraph(f"Raw against raw, {whose}: {signed(band[0])} to {signed(band[1])} % (90 % interval).")


def _throughput(row: MeasuredRow) -> str:
    plot = rate_plot(row)
    if not plot:
        return ""
    legs = ["protected", "raw", *(["raw2"] if any(each["leg"] == "raw2" for each in row.get("segments") or ()) else [])]
    key = "<p>" + " ".join(f'<span class="key {leg}">{leg}</span>' for leg in legs) + "</p>"
    note = "" if row.get("segments") else paragraph("Dashed: the average of a leg whose log keeps no progress.", "soft")
    return f"<h4>Throughput over time</h4>{key}{plot}{note}{_segments(row)}"


def _segments(row: MeasuredRow) -> str:
    segments = row.get("segments") or []
    if not segments or len(segments) > _MOST_SEGMENTS:
        return ""
    body = [
        (each["round"], each["pair"], each["position"], each["leg"], each["units"], f"{each['elapsedSec']:.3f}",
         f"{each['units'] / each['elapsedSec']:,.3f}" if each["elapsedSec"] else "")
        for each in segments
    ]  # fmt: skip
    head = ("round", "pair", "position", "leg", row["unit"], "seconds", f"{row['unit']}/s")
    return details("Segments", table(f"Segments of {row['name']}", head, body, numbers=(0, 1, 2, 4, 5, 6)))


def _rounds(row: MeasuredRow) -> str:
    if row["rounds"] == 1:
        return ""
    body = [
        (each["round"], " then ".join(each["order"]), f"{each['protectedPerSec']:,.3f}", f"{each['rawPerSec']:,.3f}",
         f"{signed(each['overheadPct'])} %")
        for each in row["roundFigures"]
    ]  # fmt: skip
    head = ("round", "order", "protected/s", "raw/s", "overhead (one sample each)")
    return table(f"Rounds of {row['name']}", head, body, numbers=(0, 2, 3, 4))


def _lifecycle(row: MeasuredRow | ExcludedRow) -> Iterator[str]:
    rounds = phases(row["observation"])
    if not rounds:
        return
    yield "<h4>Lifecycle</h4>" + legend([each for _, found in rounds for each in found])
    for number, found in rounds:
        turns = turns_played(row["observation"], number)
        yield timeline_plot(row["name"], number, found, turns)
        body = [(each.leg, each.name, f"{each.begin_s:.3f}", f"{each.seconds:.3f}") for each in found]
        caption = f"Round {number} of {row['name']} on the guest's clock"
        phase_table = table(caption, ("leg", "phase", "begins, s", "takes, s"), body, numbers=(2, 3))
        yield details(f"Seconds of each phase, round {number}", phase_table)


def _covariates(row: MeasuredRow) -> str:
    """Means of clocks, temperature, power and other load while each leg was timed, without columns that were never sampled."""
    legs = [(each["round"], leg, means) for each in row.get("covariates", ()) for leg, means in each["legs"].items()]
    names = [
        name
        for name in dict.fromkeys(name for _, _, means in legs for name in means)
        if any(means.get(name) for _, _, means in legs)
    ]
    reasons = {name: why for each in row.get("covariates", ()) for name, why in each["reasons"].items()}
    if not legs:
        return ""
    body = [[number, leg, *(_short(means.get(name)) for name in names)] for number, leg, means in legs]
    means_table = table(f"Covariates of {row['name']}, means while timed", ["round", "leg", *names], body)
    return details("Covariates", means_table + definitions((f"{name}, not seen", why) for name, why in reasons.items()))


def _estimates(row: MeasuredRow) -> str:
    """The other estimates of an interleaved row: the second estimator, each null, the minimum detectable effect."""
    found = row.get("estimates")
    if found is None:
        return ""
    trimmed = _bounds(found["trimmedCi95Pct"], "95")
    pairs: list[tuple[str, Any]] = [("trimmed mean of pairs", f"{signed(found['trimmedPct'])} % {trimmed}")]
    if found["agree"] is False:
        pairs.append(("estimators", "they disagree; the verdict says why"))
    pairs += [
        (f"raw against raw, {words}", f"{signed(pct)} % {_bounds(ci90, '90')}") for words, pct, ci90 in tables.nulls_of(row)
    ]
    pairs += [
        ("minimum detectable effect", _short(found["minimumDetectablePct"], " points")),
        ("pairs", f"{found['pairs']}, worth {_short(found['effectivePairs'])} independent ones"),
    ]
    return definitions(pairs)


def _decided(row: MeasuredRow) -> Iterator[tuple[str, Any]]:
    """How the number of rounds came about, where they were not simply planned."""
    if "cut" in row:
        found = row["cut"]
        cost = f"it cost {found['roundCostSec']:.1f} s beside its turns, a pair {found['pairSec']:.1f} s"
        yield "rounds cut by the first one", f"{found['rounds']} of {found['pairs']} pairs: {cost}"
    if "sequential" in row:
        looks = (f"{each['rounds']}: {each['judgement']}" for each in row["sequential"]["looks"])
        yield "looks, by rounds", "; ".join(looks)


def _costs(row: MeasuredRow) -> str:
    """Fixed costs of each lifecycle, and what protection costs a job of some hours."""
    parts = []
    if row.get("fixedCosts"):
        body = [
            (each["leg"], each["phase"], f"{each['meanSec']:.3f}", _bounds(each["ci95Sec"], "95")) for each in row["fixedCosts"]
        ]
        head = ("leg", "phase", "mean, s", "interval, s")
        parts.append(details("Fixed costs", table(f"Fixed costs per round of {row['name']}", head, body, numbers=(2,))))
    if row.get("totalCost"):
        jobs = [
            (f"{each['hours']} h", f"{signed(each['pct'])} %", _bounds(each["ci95Pct"], "95"), _short(each["usd"]))
            for each in row["totalCost"]
        ]
        head = ("job", "cost of protection", "interval", "USD")
        parts.append(details("Total cost by length of job", table(f"Total cost of {row['name']}", head, jobs, numbers=(1, 3))))
    return "".join(parts)


def _bounds(interval: Any, level: str) -> str:
    return "(single sample)" if interval is None else f"({level} % interval {signed(interval[0])} to {signed(interval[1])})"


def _short(value: Any, unit: str = "") -> str | None:
    return None if value is None else f"{value:.4g}{unit}"
