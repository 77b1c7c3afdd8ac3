"""The page's table of all rows, the failed ones first, and the script that sorts and filters it.

Without the script the table is whole. The page's policy lets this one script run, by its digest, and no other.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.wording import printed_pct, verdict_text
from pytest_glasshouse.observation.reading import observed_rounds
from pytest_glasshouse.render import tables
from pytest_glasshouse.render.html import Cell, LinkCell, table
from pytest_glasshouse.report.attempts import row_title
from pytest_glasshouse.report.failures import failures, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.analysis.fields import RowRecord
    from pytest_glasshouse.report.failures import RowFailure
    from pytest_glasshouse.report.fields import Report

HEAD = ("row", "ran on", "order", "rounds", "overhead, %", "95 % interval", "verdict", "findings", "status", "legs cost, USD")
_NUMBERS = (3, 4, 9)
#: Colours of verdicts; what is not named here is the page's amber.
_GOOD = {"equivalent within margin", "not inferior", "measured"}

#: Sorts and filters tables of the class `sort`, and opens what a link points to. It sends nothing and reads nothing else.
SCRIPT = """
for(const t of document.querySelectorAll('table.sort')){
const b=t.tBodies[0],rows=[...b.rows],heads=[...t.tHead.rows[0].cells];
heads.forEach((h,i)=>{const k=document.createElement('button');k.type='button';k.textContent=h.textContent;h.replaceChildren(k);
const of=r=>{const c=r.cells[i],v=c.dataset.v;return v===undefined?c.textContent:v===''?Infinity:+v};
k.addEventListener('click',()=>{const up=h.ariaSort!=='ascending';heads.forEach(x=>x.removeAttribute('aria-sort'));
h.setAttribute('aria-sort',up?'ascending':'descending');
rows.sort((x,y)=>{const a=of(x),c=of(y);return(a<c?-1:a>c?1:0)*(up?1:-1)});b.append(...rows)})});
const f=document.createElement('input');f.type='search';f.placeholder='filter rows';f.setAttribute('aria-label','filter rows');
f.className='screen';f.addEventListener('input',()=>{const w=f.value.toLowerCase().split(/\\s+/);
rows.forEach(r=>{r.hidden=!w.every(x=>r.textContent.toLowerCase().includes(x))})});t.parentElement.before(f)}
const show=()=>{let e=document.getElementById(decodeURIComponent(location.hash.slice(1)));if(!e)return;
const d=e.matches('details')?e:e.querySelector(':scope>details');if(d)d.open=true;
for(let p=e;p;p=p.parentElement)if(p.tagName==='DETAILS')p.open=true;e.scrollIntoView()};
addEventListener('hashchange',show);show();
"""


def script_source() -> str:
    """The script as the content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a row comes to, in a word, and the class of its colour."""

    word: str
    css: str


def rows_table(document: Report) -> str:
    """Every row of a report in one table; empty for a report without rows."""
    rows = rows_of(document)
    failed = {each.row_id: each for each in failures(rows)}
    first = {row_id: place for place, row_id in enumerate(failed)}
    rows.sort(key=lambda row: first.get(row["rowId"], len(first)))
    body = [_cells(row, failed) for row in rows]
    if not body:
        return ""
    shown = [place for place in range(len(HEAD)) if any(line[place].text or line[place].value is not None for line in body)]
    head = [HEAD[place] for place in shown]
    numbers = [new for new, place in enumerate(shown) if place in _NUMBERS]
    lines = [[line[place] for place in shown] for line in body]
    return table("All rows, the failed ones first" if failed else "All rows", head, lines, numbers=numbers, css="sort")


def standing(row: RowRecord, failed: Mapping[str, RowFailure]) -> Standing:
    """The verdict of a row as a word with a colour."""
    if found := failed.get(row["rowId"]):
        return Standing(word=found.outcome, css="bad")
    if "verdict" in row and "overheadPct" in row:
        return Standing(word=verdict_text(row), css="good" if row["verdict"] in _GOOD else "warn")
    if "qualifies" in row:
        word = "raw against raw: inside its margin" if row["qualifies"] else "raw against raw: not inside its margin"
        return Standing(word=word, css="good" if row["qualifies"] else "warn")
    return Standing(word="no raw leg: base sealed", css="soft")


def spent_usd(row: RowRecord) -> float | None:
    """What the allocation cost while the row's legs were there, by its hourly price; None where nothing is paid.

    Booting and what stood idle between rows is in no row.
    """
    seen = row["observation"].get("allocation")
    price = None if seen is None else seen.get("priceUsdPerHour")
    if not isinstance(price, int | float):
        return None
    exits = [
        max((leg["host"].get("exitNs", 0) for leg in observed.values() if isinstance(leg, dict) and "host" in leg), default=0)
        for observed in observed_rounds(row["observation"])
    ]
    return sum(exits) / 3.6e12 * price


def _cells(row: RowRecord, failed: Mapping[str, RowFailure]) -> list[Cell]:
    shown = standing(row, failed)
    overhead, spelled = _figure(row)
    words = [*(["dry run"] if row["dryRun"] else []), *(["publishable"] if row.get("publishable") else [])]
    judged = row.get("findings", [])
    cost = spent_usd(row)
    return [
        LinkCell(row_title(row), "#nulls" if "differencePct" in row else f"#{row['rowId']}"),
        Cell(row["gpuModel"] or row.get("namedGpuModel") or ""),
        Cell(row.get("order", "")),
        Cell(str(row["rounds"]), value=row["rounds"]),
        Cell("" if overhead is None else f"{overhead:+.2f}", value=overhead),
        Cell(spelled),
        Cell(shown.word, css=shown.css),
        Cell(
            tables.held_count(judged) if judged else "",
            css="good" if all(each["finding"] == "held" for each in judged) else "bad",
        ),
        Cell(", ".join(words)),
        Cell("" if cost is None else f"{cost:.2f}", value=cost),
    ]


def _figure(row: RowRecord) -> tuple[float | None, str]:
    """The figure of a row, and its 95 % interval as text; a null row has one of 90 %."""
    if "overheadPct" in row:
        return printed_pct(row), tables.bounds(row["overheadCi95Pct"])
    if "differencePct" in row:
        return row["differencePct"], f"{tables.bounds(row['differenceCi90Pct'])} (90 %)"
    return None, ""
