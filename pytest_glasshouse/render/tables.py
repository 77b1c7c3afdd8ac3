"""The tables and sentences that page, Markdown and terminal share.

Cells are plain text, escaped where they are printed. Every figure has its interval, or the text `single sample`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.wording import figure_with_interval, printed_pct, rate_with_interval, signed, worst_round_text
from pytest_glasshouse.report.attempts import row_title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.fields import ExcludedRow, FindingRecord, MeasuredRow, NullRow, SealedRow
    from pytest_glasshouse.analysis.figure_fields import EstimateFigures, FixedCost, JobCostRecord
    from pytest_glasshouse.report.fields import Claims, Summary
    from pytest_glasshouse.tamper.result import TamperRecord

ESTIMATES_HEAD = (
    "Row",
    "Ratio of totals",
    "Companion",
    "Raw against raw (90 %)",
    "Worst round",
    "Detects",
    "Spread of rounds",
    "of pairs",
    "of starts",
    "Order",
    "Position",
    "Pairs",
)
COSTS_HEAD = ("Row", "Attest", "Release", "Open", "Load", "Raw load", "Zeroize", "Total for 1 h", "8 h", "24 h", "168 h")
MEMORY_HEAD = ("Row", "Peak memory protected", "raw", "Plaintext exposed", "at most")
_PHASES = (
    ("protected", "attest"), ("protected", "release"), ("protected", "open"), ("protected", "load"), ("raw", "load"),
    ("protected", "zeroize"),
)  # fmt: skip
SEALED_HEAD = (
    "Row", "Ran on", "Rounds", "Protected rate", "Attest", "Release", "Open", "Load", "Zeroize", "Exposed at most", "Status",
)  # fmt: skip
SEALED_NOTE = (
    "The package holds the base model and is confidential: a raw leg would give it away, so there is none, and no overhead. "
    "Seconds are totals over the rounds."
)
_NOT_SEEN = "not seen"
_NULL_WORDS = {"split halves": "inside the raw process (split halves)"}


def measured_sentence(summary: Summary) -> str:
    """How many rows were measured, on the GPU they name, and publishable."""
    return (
        f"{summary['measured']} of {summary['selected']} rows measured, {summary['measuredOnNamedGpu']} of them on the GPU "
        f"they name, {summary['publishable']} publishable." + _sealed_sentence(summary.get("sealedMeasured", 0))
    )


def _sealed_sentence(measured: int) -> str:
    return f" Another {measured} without a raw leg: their base is sealed." if measured else ""


def dry_run_sentence(summary: Summary) -> str:
    """What a dry run cannot show; empty where no row is one."""
    if not summary["dryRun"]:
        return ""
    return f"{summary['dryRun']} of {summary['selected']} rows are a dry run: they say nothing about a GPU and gate nothing."


def lifecycle_sentence(summary: Summary) -> str:
    """In how many lifecycles every invariant held, with the lower bound; empty where none began."""
    lifecycle = summary["lifecycle"]
    lower95 = lifecycle["lower95"]
    if lower95 is None:
        return ""
    return (
        f"Held in {lifecycle['held']} of {lifecycle['attempted']} lifecycles begun: with 95 % confidence at least "
        f"{lower95 * 100:.1f} % of them."
    )


def ran_on(row: MeasuredRow | ExcludedRow | NullRow) -> str:
    """The GPU that a row's legs trained on, and how many of them where there were several."""
    model = row["gpuModel"] or _NOT_SEEN
    spread = f" on {row['nodes']} nodes" if "nodes" in row else ""
    return f"{row['gpus']} x {model}{spread}" if "gpus" in row else model


def scaling_text(row: MeasuredRow) -> str | None:
    """How a row on several GPUs scales, both legs; None for one GPU."""
    if "scaling" not in row:
        return None
    found, unit = row["scaling"], row["unit"]
    spent = [
        "not observed" if None in times else f"{' and '.join(f'{seconds:,.3f}' for seconds in times if seconds is not None)} s"
        for times in (found["protectedCollectiveSec"], found["rawCollectiveSec"])
    ]
    return (
        f"protected {found['protectedPerSecPerGpu']:,.3f} {unit}/s and GPU, collectives {spent[0]}; "
        f"raw {found['rawPerSecPerGpu']:,.3f} {unit}/s and GPU, collectives {spent[1]}"
    )


def sealed_table(rows: Sequence[SealedRow]) -> list[list[str]]:
    """The cells of `SEALED_HEAD` for each row whose base is sealed."""
    return [_sealed(row) for row in rows]


def _sealed(row: SealedRow) -> list[str]:
    phases = [row["protectedPhasesSec"].get(name) for name in ("attest", "release", "open", "load")]
    words = [*(["dry run"] if row["dryRun"] else []), *(["publishable"] if row["publishable"] else [])]
    words.append(f"{row['attestation']}, {row['runtimeState']}, {held_count(row['findings'])}")
    exposed = row.get("exposurePeakBytes")
    return [
        row_title(row),
        row["gpuModel"],
        str(row["rounds"]),
        rate_with_interval(row["protectedPerSec"], row["protectedPerSecCi95"], row["unit"]),
        *(_NOT_SEEN if value is None else f"{value:,.3f} s" for value in (*phases, row["zeroizeSec"])),
        _NOT_SEEN if exposed is None else f"{exposed / 1e6:,.1f} MB",
        "; ".join(words),
    ]


def claim_lists(claims: Claims) -> list[tuple[str, list[str]]]:
    """The lists of claims that are not empty, with their titles."""
    titled = [
        ("What is claimed", claims["claimed"]),
        ("What is not claimed", claims["notClaimed"]),
        ("Not shown here", claims["notShown"]),
    ]
    return [(title, sentences) for title, sentences in titled if sentences]


def overhead_text(row: MeasuredRow) -> str:
    """A row's overhead with its 95 % interval, or as a single sample."""
    interval = row["overheadCi95Pct"]
    return figure_with_interval(printed_pct(row), None if interval is None else (interval[0], interval[1]))


def bounds(interval: Sequence[float] | None, *, missing: str = "single sample", unit: str = "") -> str:
    """Both ends of an interval in percent; `missing` where one round gave none."""
    return missing if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}{unit}"


def held_count(findings: Sequence[FindingRecord]) -> str:
    """How many findings held."""
    return f"{sum(each['finding'] == 'held' for each in findings)} of {len(findings)} held"


def target(row: MeasuredRow | ExcludedRow) -> str:
    """How long each leg was to train: seconds or units of work."""
    return f"{row['targetSec']:g} s" if "targetSec" in row else f"{row['stepBudget']} {row.get('unit', 'steps')}"


def tamper_row(case: TamperRecord) -> tuple[str, str, str, str]:
    """A tamper case: its name, what was expected, what was seen, and whether the key was released."""
    return (
        case["name"],
        case["expectedReason"] or "released",
        case["seenReason"] or ("released" if case["released"] else "not released"),
        "yes" if case["released"] else "no",
    )


def tamper_result(case: TamperRecord) -> str:
    """Whether a tamper case went as expected."""
    return "pass" if case["passed"] else "FAIL"


def estimates_table(rows: Sequence[MeasuredRow]) -> list[list[str]]:
    """One line for each row that has estimates."""
    return [_estimates(row, row["estimates"]) for row in rows if "estimates" in row]


def costs_table(rows: Sequence[MeasuredRow]) -> list[list[str]]:
    """One line for each row that has fixed costs: seconds a round, then the total cost in percent of the raw job."""
    return [_costs(row) for row in rows if "fixedCosts" in row]


def memory_table(rows: Sequence[MeasuredRow]) -> list[list[str]]:
    """Memory and exposure of each row."""
    return [
        [
            row["name"],
            _bytes(row["protectedPeakMemory"]["bytes"]),
            _bytes(row["rawPeakMemory"]["bytes"]),
            _NOT_SEEN if "exposureByteSec" not in row else f"{_bytes(row['exposureByteSec'])} s",
            _bytes(row.get("exposurePeakBytes")),
        ]
        for row in rows
    ]


def null_words(kind: str) -> str:
    """What a comparison of raw with raw compares."""
    return _NULL_WORDS.get(kind, kind)


def nulls_of(row: MeasuredRow) -> list[tuple[str, float, Sequence[float] | None]]:
    """Every comparison of raw with raw that a row has: what it compares, the figure and its 90 % interval."""
    own = row["estimates"]["nulls"] if "estimates" in row else []
    found: list[tuple[str, float, Sequence[float] | None]]
    found = [(null_words(each["kind"]), each["pct"], each["ci90Pct"]) for each in own]
    if (pooled := row.get("allocationNull")) is not None:
        found.append((f"between processes, {pooled['rounds']} rounds of the allocation", pooled["pct"], pooled["ci90Pct"]))
    return found


def _estimates(row: MeasuredRow, given: EstimateFigures) -> list[str]:
    nulls = ", ".join(f"{words} {_span(ci90)}" for words, _, ci90 in nulls_of(row))
    spreads = (given["minimumDetectablePct"], given["betweenRoundsPct"], given["withinRoundsPct"], given["processStartPct"])
    percents = [_NOT_SEEN if each is None else f"{each:.2f} %" for each in spreads]
    effects = [
        _NOT_SEEN if each is None else f"{signed(each['pct'])} {_span(each['ci95Pct'])}"
        for each in (given["orderEffect"], given["positionEffect"])
    ]
    companion = f"{signed(given['trimmedPct'])} % {_span(given['trimmedCi95Pct'])}"
    pairs = f"{given['pairs']}, worth {given['effectivePairs']:.0f}"
    totals = f"{signed(row['overheadPct'])} %"
    return [row["name"], totals, companion, nulls or "none", worst_round_text(row) or _NOT_SEEN, *percents, *effects, pairs]


def _costs(row: MeasuredRow) -> list[str]:
    costs: dict[tuple[str, str], FixedCost] = {(each["leg"], each["phase"]): each for each in row["fixedCosts"]}
    cells = [row["name"]]
    for key in _PHASES:
        each = costs.get(key)
        cells.append(_NOT_SEEN if each is None else f"{each['meanSec']:.3f} s {_seconds(each['ci95Sec'])}")
    jobs = {each["hours"]: each for each in row["totalCost"]}
    return [*cells, *(_job(jobs[hours]) if hours in jobs else _NOT_SEEN for hours in (1, 8, 24, 168))]


def _job(each: JobCostRecord) -> str:
    text = f"{signed(each['pct'])} % {_span(each['ci95Pct'])}"
    return text if each["usd"] is None else f"{text}, USD {signed(each['usd'])}"


def _span(pair: Sequence[float] | None) -> str:
    return "(single sample)" if pair is None else f"({signed(pair[0])} to {signed(pair[1])})"


def _seconds(pair: Sequence[float] | None) -> str:
    return "(single sample)" if pair is None else f"({pair[0]:.3f} to {pair[1]:.3f})"


def _bytes(count: float | None) -> str:
    if count is None:
        return _NOT_SEEN
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":  # noqa: PLR2004
            break
        size /= 1024
    return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
