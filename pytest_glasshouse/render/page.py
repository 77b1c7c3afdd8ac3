"""A report as one self-contained HTML page: no font, no request, one small script. Adds nothing to what the report holds.

The content security policy in its head forbids every request, and every script but the one of `page_table.py`, which it names by
its digest. The report itself is embedded, compressed, for download.
"""

from __future__ import annotations

import base64
import gzip
import math
from typing import TYPE_CHECKING
from urllib.parse import quote

from pytest_glasshouse.check.check import Level
from pytest_glasshouse.render import tables
from pytest_glasshouse.render.html import Code, LinkCell, MarkedText, bullets, definitions, details, escaped, paragraph, table
from pytest_glasshouse.render.page_rows import excluded_details, findings, row_card, row_details
from pytest_glasshouse.render.page_style import style_sheet
from pytest_glasshouse.render.page_table import SCRIPT, rows_table, script_source, spent_usd
from pytest_glasshouse.render.page_verdict import failure_cards, verdict_tile
from pytest_glasshouse.render.plot_interval import common_scale
from pytest_glasshouse.report.attempts import attempts_line, row_title
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.ci_links import links_of
from pytest_glasshouse.report.failures import rows_of
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.check.check import Checked
    from pytest_glasshouse.report.fields import Report

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src {}; img-src data:; base-uri 'none'; form-action 'none'"
#: How many rows are unfolded at first; more would make a long report slow to draw.
_OPEN = 3
#: A larger report (compressed, in bytes) is not embedded: the page names the file instead.
EMBED_LIMIT = 550_000


def page(document: Report, checked: Checked) -> str:
    """The whole page. `checked` is the result of `check`, shown at the top of the page."""
    title = f"Glasshouse report {document['runId']}"
    body = "".join(_body(document, checked))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escaped(_POLICY.format(script_source()))}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{escaped(title)}</title><style>{style_sheet()}</style></head><body>"
        f'<a class="skip" href="#rows">To the rows</a><main><h1>{escaped(title)}</h1>{body}</main>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _body(document: Report, checked: Checked) -> Iterator[str]:
    yield from _top(document, checked)
    yield from _rows(document)
    yield from _sealed(document)
    yield from _nulls(document)
    yield from _tamper(document)
    yield from _lifecycle_and_cleanup(document)
    yield from _claims(document)
    yield from _methodology(document)
    # Nobody reads digests off paper, or unpacks a download from it.
    yield f'<div class="screen">{_digests(document)}{_download(document)}</div>'


def _top(document: Report, checked: Checked) -> Iterator[str]:
    summary, maker, subject = document["summary"], document["generatedBy"], document["subject"]
    commit = subject["gitCommit"]
    dirty = " with uncommitted changes" if subject["dirty"] else ""
    costs = [cost for row in rows_of(document) if (cost := spent_usd(row)) is not None]
    links = links_of(document["extra"])
    yield verdict_tile(document, checked)
    yield failure_cards(document)
    yield paragraph(tables.measured_sentence(summary))
    if dry_run := tables.dry_run_sentence(summary):
        yield paragraph(dry_run, "warn")
    yield _checked(checked)
    yield definitions(
        [
            ("made", f"{document['createdAt']} by {maker['name']} {maker['version']}"),
            ("subject", f"{subject['name']} {subject['version'] or ''}" + (f" at {commit[:12]}{dirty}" if commit else "")),
            ("the commit", None if links.commit is None else LinkCell(links.commit, links.commit)),
            ("the CI run", None if links.run is None else LinkCell(links.run, links.run)),
            ("root of trust", document["attestationRoot"]),
            ("spent while legs were there", f"{math.fsum(costs):,.2f} USD" if costs else None),
        ]
    )


def _checked(checked: Checked) -> str:
    if not checked.sound:
        return details(f"All {counted(len(checked.faults), 'fault')}", bullets(map(str, checked.faults)))
    keys = "; its signing keys were not compared with trusted keys" if checked.level is Level.CONSISTENT else ""
    return paragraph(f"Checked when this page was made: {checked.level.value}, no fault found{keys}.")


def _rows(document: Report) -> Iterator[str]:
    rows = document["rows"]
    yield '<h2 id="rows">Rows</h2>'
    yield rows_table(document) or paragraph("No row was run.")
    if rows:
        yield paragraph(
            "Point: overhead. Line: its 95 % interval over rounds; a hollow point is a single sample and has none. Light band: "
            "the equivalence margin. The bar below: raw against raw, where it was measured. An arrow points to what is beyond "
            "the scale.",
            "soft",
        )
        scale = common_scale(rows)
        yield f'<div class="cards">{"".join(row_card(document, row, scale) for row in rows)}</div>'
    if rows or document["excludedResults"]:
        yield "<h2>Row by row</h2>"
    yield from (excluded_details(row, is_open=place < _OPEN) for place, row in enumerate(document["excludedResults"]))
    yield from (row_details(document, row, is_open=place < _OPEN) for place, row in enumerate(rows))


def _sealed(document: Report) -> Iterator[str]:
    rows = document.get("sealedRows", ())
    if rows:
        yield "<h2>Sealed rows</h2>"
        yield paragraph(tables.SEALED_NOTE)
        yield table("Rows whose base is sealed", tables.SEALED_HEAD, tables.sealed_table(rows), numbers=(2,))
        for row in rows:
            attempts = paragraph(attempts_line(row)) if attempts_line(row) else ""
            yield f'<section id="{escaped(row["rowId"])}">{details(row_title(row), attempts + findings(row))}</section>'


def _nulls(document: Report) -> Iterator[str]:
    rows = document["nullRows"]
    if rows:
        body = [
            (each["name"], tables.ran_on(each), each["rounds"], tables.bounds(each["differenceCi90Pct"]),
             f"{each['marginPct']:g}", "yes" if each["qualifies"] else "no")
            for each in rows
        ]  # fmt: skip
        yield '<h2 id="nulls">Raw against raw</h2>'
        head = ("row", "ran on", "rounds", "90 % interval, %", "margin", "qualifies")
        yield table("Null rows", head, body, numbers=(2,))


def _tamper(document: Report) -> Iterator[str]:
    cases = document["tamper"]
    if not cases:
        return
    passed = sum(each["passed"] for each in cases)
    body = [(*tables.tamper_row(each), each["seenNonce"], MarkedText(tables.tamper_result(each))) for each in cases]
    yield "<h2>Tamper suite</h2>"
    yield paragraph(f"{passed} of {len(cases)} cases as expected, the control, which must be released, among them.")
    head = ("case", "expected", "seen", "key released", "nonce", "result")
    yield details("Every case", table("Tamper cases", head, body), is_open=passed < len(cases))


def _lifecycle_and_cleanup(document: Report) -> Iterator[str]:
    summary, cleanup = document["summary"], document["cleanup"]
    yield "<h2>Lifecycle and cleanup</h2>"
    if held := tables.lifecycle_sentence(summary):
        yield paragraph(held)
    if outstanding := len(summary["outstandingReleases"]):
        banner = f"{counted(outstanding, 'outstanding release')}: a key was released and the leg's exit evidence did not arrive."
        yield f'<p class="banner bad">{escaped(banner)}</p>'
    body = [(each["name"], each["provider"], MarkedText(each["status"]), each["reason"]) for each in cleanup["allocations"]]
    yield paragraph(f"Cleanup: {cleanup['status']}.")
    if body:
        yield table("Allocations", ("allocation", "provider", "cleanup", "reason"), body)


def _claims(document: Report) -> Iterator[str]:
    for title, sentences in tables.claim_lists(document["claims"]):
        yield f"<h2>{title}</h2>{bullets(sentences)}"


def _methodology(document: Report) -> Iterator[str]:
    method = document["methodology"]
    yield "<h2>Methodology</h2>"
    yield paragraph(
        "Each row runs the same training twice on one allocation: a protected leg (sealed data, attestation, key only after it, "
        "sealed result, zeroized) and a raw leg without any of that. The overhead is how much slower the protected leg trains; "
        "attestation, loading, warm-up and zeroizing are figures of their own. A round is one whole execution of both legs and "
        "the unit of the statistics: one round is a single sample without an error bar. Protection adds work and takes none, "
        "so a figure below zero is order, warm state or noise."
    )
    yield bullets((method["formula"], method["totals"], method["interval"], method["lifecycleBound"]))
    names = ("order", "provider", "preset", "seed", "marginPct", "maxOverheadPct", "minRounds", "invariantsRevision")
    yield definitions((name, method.get(name)) for name in names)
    environment = document["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    yield details(
        "Host",
        definitions([*((name, value) for name, value in environment.items() if name != "packages"), ("packages", packages)]),
    )


def _digests(document: Report) -> str:
    body: list[tuple[str, str, Code]] = [("report", "policy", Code(document["policySha256"] or "none"))]
    body += [("report", f"{name} key", Code(key)) for name, keys in _keys(document) for key in keys]
    for sealed in document.get("sealedRows", ()):
        body.append((sealed["name"], "protected adapter, last round", Code(sealed["protectedAdapterSha256"])))
        body += [
            (sealed["name"], f"journal head, round {each['round']}", Code(each["headSha256"] or "none"))
            for each in sealed["journal"]
        ]
    for row in document["rows"]:
        adapters = (("protected", row["protectedAdapterSha256"]), ("raw", row["rawAdapterSha256"]))
        body += [(row["name"], f"{leg} adapter, last round", Code(digest)) for leg, digest in adapters]
        body += [
            (row["name"], f"journal head, round {each['round']}", Code(each["headSha256"] or "none")) for each in row["journal"]
        ]
    listed = table("SHA-256 digests and public keys", ("of", "what", "value"), body)
    return f"<h2>Evidence digests</h2>{details('Digests and keys', listed)}"


def _keys(document: Report) -> list[tuple[str, list[str]]]:
    keys = document["keys"]
    return [("report", [keys["report"]]), ("server", keys["servers"]), ("owner", keys["owners"])]


def _download(document: Report) -> str:
    """The report embedded in the page, or a link to its file where it would make the page too large."""
    name = f"{document['runId']}.json"
    packed = gzip.compress(report_bytes(document), compresslevel=9, mtime=0)
    if len(packed) > EMBED_LIMIT:
        link = f'<a href="./{escaped(quote(name))}" download>{escaped(name)}</a>'
        return f"<h2>The report itself</h2><p>It is too large to embed in this page: {link}, in the same directory.</p>"
    data = base64.b64encode(packed).decode()
    link = f'<a download="{escaped(name)}.gz" href="data:application/gzip;base64,{data}">{escaped(name)}.gz</a>'
    size = f"{len(packed) / 1000:,.0f} kB"
    return f"<h2>The report itself</h2><p>{link} ({size}; unpack it and read it with <code>glasshouse check</code>).</p>"
