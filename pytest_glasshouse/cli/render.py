"""`glasshouse render`: a report as a page, as tables, as a badge, or in a format that other tools read.

It judges nothing, but a report that does not follow from its own data is marked faulty, on standard error and where the form has
room for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.cli.out_file import check_out, declare_out, write_out
from pytest_glasshouse.cli.reports import report_or_latest
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_errors
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from pytest_glasshouse.check.check import Checked
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.report.fields import Report


_RENDER = """\
Write a report in another form. Without a form it is the page, beside the report; without a report, the newest one.
"""


def declare(commands: Commands) -> None:
    """Add the command."""
    render = commands.add_parser("render", help="a report as page, tables, badge or CSV", description=_RENDER, allow_abbrev=False)
    render.add_argument("report", nargs="?", type=Path, metavar="REPORT", help="a report or a bundle (default: the newest one)")
    form = render.add_mutually_exclusive_group()
    form.add_argument("--html", action="store_true", help="one page with plots, that needs no network")
    form.add_argument("--markdown", action="store_true", help="tables for a README or a job summary")
    form.add_argument("--excerpt", action="store_true", help="its rows as JSON in the shape that was published, without evidence")
    form.add_argument("--badge", action="store_true", help="an SVG with the upper bound of the overhead")
    form.add_argument("--csv", choices=("rounds", "segments"), help="a line for each round, or for each timed segment")
    form.add_argument("--ctrf", action="store_true", help="the rows as tests in the Common Test Report Format")
    form.add_argument("--benchmark-json", action="store_true", help="each overhead as github-action-benchmark reads it")
    render.add_argument("--max-overhead", type=_limit, metavar="P", help="the limit that colours the badge (default: the run's)")
    declare_out(render, default="standard output; of the page without --html, a file beside the report")
    render.set_defaults(run=_render, report_error_code=EXIT_USAGE)


def _limit(text: str) -> float:
    """A limit as the gate accepts it: what is no number, or below 0, would colour a badge wrongly."""
    try:
        value = float(text) if text.isascii() else -1.0
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, saw {text[:40]!r}")
    return value


def _render(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.check import check_bytes, read_document

    report = report_or_latest(options.report)
    out = options.out
    if out is None and _form(options) is None:
        out = _beside(report)
    check_out(out, source=report)
    data, document = read_document(report, derivation=derivation_of(options))
    checked = check_bytes(data, derivation=derivation_of(options))
    text = _text(options, document, checked)
    if not checked.sound:
        problem = f"FAULTY: {counted(len(checked.faults), 'fault')}, first {checked.faults[0]}; see glasshouse check {report}"
        write_errors(f"glasshouse render: {report}: {problem}")
    write_out(out, text, what=_form(options) or "page")
    return EXIT_OK


def _beside(report: Path) -> Path:
    """The page's file: beside a report or a bundle, under the same name."""
    from pytest_glasshouse.report.bundle import SUFFIX
    from pytest_glasshouse.report.paths import page_path

    return page_path(report.with_name(report.name.removesuffix(SUFFIX)))


def _form(options: argparse.Namespace) -> str | None:
    """The form that was asked for; None for none, which is the page."""
    forms = {"page": "html", "tables": "markdown", "excerpt": "excerpt", "badge": "badge", "CSV": "csv", "CTRF": "ctrf"}
    forms["benchmarks"] = "benchmark_json"
    return next((name for name, option in forms.items() if getattr(options, option)), None)


def _text(options: argparse.Namespace, document: Report, checked: Checked) -> str:
    form = _form(options)
    if form == "badge":
        from pytest_glasshouse.render.badge import badge, svg

        return svg(badge(document, sound=checked.sound, max_overhead_pct=options.max_overhead))
    if form == "tables":
        from pytest_glasshouse.render.markdown import markdown

        return markdown(document, faults=len(checked.faults))
    if form == "excerpt":
        from pytest_glasshouse.render.published_shape import excerpt

        return excerpt(document)
    if form in ("CSV", "CTRF", "benchmarks"):
        from pytest_glasshouse.render import exports

        of_csv = exports.segments_csv if options.csv == "segments" else exports.rounds_csv
        return {"CSV": of_csv, "CTRF": exports.ctrf, "benchmarks": exports.benchmark_list}[form](document)
    from pytest_glasshouse.render.page import page

    return page(document, checked)
