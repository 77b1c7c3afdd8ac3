"""What failed in a report, the broken first: one list for every place that shows a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_limits import implausible, limit_of
from pytest_glasshouse.invariants.finding import FOLLOWS
from pytest_glasshouse.overhead.verdict import Verdict
from pytest_glasshouse.report.attempts import row_title

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_glasshouse.analysis.fields import FindingRecord, NullRow, RowRecord
    from pytest_glasshouse.report.fields import Report


@dataclass(frozen=True, kw_only=True)
class RowFailure:
    """One row that failed. `cause` is one line that begins with the invariant, where one was broken. All is foreign text."""

    row_id: str
    name: str
    outcome: str
    cause: str
    decision: str
    broken: bool
    """Whether an invariant was broken, and not only evidence missing."""

    @property
    def line(self) -> str:
        """The failure as one line of text, without the decision: the row, then the invariant that broke or the outcome."""
        return f"{self.name}: {self.cause}" if self.broken else f"{self.name}: {self.outcome}: {self.cause}"


def failure_of(row: RowRecord, null_rows: Sequence[NullRow] = ()) -> RowFailure | None:
    """Why a row failed; None for one that did not. A row that is not measured failed, whatever kept it from being measured.

    `null_rows` are its report's, as in `analysis.row_limits.implausible`.
    """
    not_held = [each for each in row.get("findings", ()) if each["finding"] != "held"]
    broken = [each for each in not_held if each["finding"] == "broken"]
    outcome, reason, decision = _outcome(row, null_rows)
    if not outcome and broken:
        outcome, decision = "failed", ""
    if not outcome:
        return None
    return RowFailure(
        row_id=row["rowId"],
        name=row_title(row),
        outcome=outcome,
        cause=_cause(broken, not_held, reason) if broken else reason,
        decision=decision,
        broken=bool(broken),
    )


def failures(rows: Iterable[RowRecord]) -> list[RowFailure]:
    """Those that failed, of all rows of a report; those in which an invariant was broken come first, else in the rows' order."""
    every = list(rows)
    nulls = [row for row in every if "differencePct" in row]
    found = [each for row in every if (each := failure_of(row, nulls)) is not None]
    return sorted(found, key=lambda each: not each.broken)


def rows_of(document: Report) -> list[RowRecord]:
    """Every row of a report, whichever list it is in."""
    return [*document["excludedResults"], *document["rows"], *document.get("sealedRows", ()), *document["nullRows"]]


def causes_first(findings: Sequence[FindingRecord]) -> list[FindingRecord]:
    """Findings in the order a reader needs: broken, unseen, what only follows from another one, held."""

    def place(each: FindingRecord) -> int:
        if each["finding"] == "held":
            return 3
        return 2 if each["todo"].startswith(FOLLOWS) else 0 if each["finding"] == "broken" else 1

    return sorted(findings, key=place)


def _outcome(row: RowRecord, null_rows: Sequence[NullRow]) -> tuple[str, str, str]:
    """Outcome, reason and decision; the outcome is empty for a row that did not fail by it."""
    if "decision" in row:
        return row["outcome"], row["reason"], row["decision"]
    if "roundFigures" not in row:
        return "", "", ""
    limit = limit_of(row, null_rows=null_rows)
    if limit is not None and not limit.passed:
        upper = "no upper bound" if limit.upper95_pct is None else f"upper bound {limit.upper95_pct:+.2f} %"
        return limit.verdict.value, f"at most {limit.limit_pct:g} % overhead was asked for: {limit.reason} ({upper})", ""
    if reason := implausible(row, null_rows):
        return Verdict.IMPLAUSIBLE_NEGATIVE.value, reason, ""
    return "", "", ""


def _cause(broken: Sequence[FindingRecord], not_held: Sequence[FindingRecord], reason: str) -> str:
    """The first broken invariant with its reason; of a row that ended early, with why it did: that says more."""
    first = broken[0]
    ended_early = bool(reason) and not reason.startswith(f"{first['invariant']} broken: ")
    others = len(not_held) - 1
    more = "" if not others else f" (and {others} more that did not hold)"
    return f"{first['invariant']} broken: {reason if ended_early else first['reason']}{more}"
