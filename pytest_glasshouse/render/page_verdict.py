"""The top of the page: whether the report may be released, and if not why; then a card for each row that failed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pytest_glasshouse.check.gate import GatePolicy, Ruling, gate
from pytest_glasshouse.render.html import bullets, details, escaped, paragraph
from pytest_glasshouse.report.failures import failures, rows_of
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from pytest_glasshouse.check.check import Checked
    from pytest_glasshouse.report.failures import RowFailure
    from pytest_glasshouse.report.fields import Report

#: How many reasons the tile lists; the others are folded.
_SHOWN = 3


def verdict_tile(document: Report, checked: Checked) -> str:
    """The gate's ruling on the report, by no policy but what must hold anyway and the limit that the run was given."""
    gated = gate(document, checked, GatePolicy(), now=datetime.fromisoformat(document["createdAt"]).astimezone(UTC))
    reasons = [each.text for each in gated.objections]
    failed = failures(rows_of(document))
    if gated.ruling is Ruling.PASSED:
        limit = document["methodology"]["maxOverheadPct"]
        overhead = "no limit was set, so the overhead was not judged" if limit is None else f"overhead at most {limit:g} %"
        return _tile("good", "May be released", [f"{counted(gated.judged, 'row')} judged; every invariant held; {overhead}"])
    if failed or gated.ruling is Ruling.FAILED:
        if not checked.sound:
            head = f"Do not release: FAULTY, {counted(len(checked.faults), 'fault')} when this page was made. Do not rely on it."
        else:
            head = f"Do not release: {counted(len(failed), 'row')} failed" if failed else "Do not release"
        # The rows that failed have cards of their own, right below.
        own = [text for text in reasons if not any(text.startswith(f"{each.name} ") for each in failed)]
        return _tile("bad", head, [*(each.line for each in failed), *own] if failed else reasons)
    if gated.ruling is Ruling.INCONCLUSIVE:
        return _tile("warn", "Not yet: more rounds could decide", reasons)
    return _tile("warn", "Nothing to release: no row was measured on the GPU it names", reasons)


def failure_cards(document: Report) -> str:
    """A red card for each row that failed; empty where none did."""
    failed = failures(rows_of(document))
    if not failed:
        return ""
    return f'<h2 id="failures" class="bad">Failed</h2><div class="cards">{"".join(map(_card, failed))}</div>'


def _tile(kind: str, head: str, reasons: list[str]) -> str:
    listed = bullets(reasons[:_SHOWN]) if reasons else ""
    rest = details(f"{len(reasons) - _SHOWN} more", bullets(reasons[_SHOWN:])) if len(reasons) > _SHOWN else ""
    return f'<div class="tile {kind}" role="note"><p class="head">{escaped(head)}</p>{listed}{rest}</div>'


def _card(failed: RowFailure) -> str:
    decision = paragraph(failed.decision, "soft") if failed.decision else ""
    return (
        f'<div class="card failed"><h3><a href="#{escaped(failed.row_id)}">{escaped(failed.name)}</a></h3>'
        f'<p class="figure bad">{escaped(failed.outcome)}</p>{paragraph(failed.cause)}{decision}</div>'
    )
