"""`glasshouse render`: a report as tables, as a page, or as a badge.

It judges nothing, but a report that does not follow from its own data is marked faulty, on standard error and where the form has
room for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_document, write_errors

if TYPE_CHECKING:
    from pytest_glasshouse.check.check import Checked
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.report.fields import Report


def declare(commands: Commands) -> None:
    """Add the command."""
    render = commands.add_parser(
        "render", help="a report as tables, page or badge", description="Write a report in another form.", allow_abbrev=False
    )
    render.add_argument("report", type=Path, metavar="REPORT", help="a report or a bundle")
    form = render.add_mutually_exclusive_group(required=True)
    form.add_argument("--markdown", action="store_true", help="tables for a README or a job summary")
    form.add_argument("--html", action="store_true", help="one page with plots, that needs no network")
    form.add_argument("--excerpt", action="store_true", help="its rows as JSON in the shape that was published, without evidence")
    form.add_argument("--badge", action="store_true", help="an SVG with the upper bound of the overhead")
    render.add_argument("--max-overhead", type=_limit, metavar="P", help="the limit that colours the badge (default: the run's)")
    render.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: standard output)")
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
    from pytest_glasshouse.wire.whole_file import put, refuse_unwritable

    if options.out is not None:
        refuse_unwritable(options.out, what="--out")
        if options.out.exists() and options.out.samefile(options.report):
            raise ConfigurationError(f"--out {options.out}: expected another file, saw the report itself")
    data, document = read_document(options.report, derivation=derivation_of(options))
    checked = check_bytes(data, derivation=derivation_of(options))
    text = _text(options, document, checked)
    if not checked.sound:
        problem = f"FAULTY: {len(checked.faults)} fault(s), first {checked.faults[0]}; see glasshouse check {options.report}"
        write_errors(f"glasshouse render: {options.report}: {problem}")
    if options.out is None:
        write_document(text)
    else:
        put(options.out, text.encode())
    return EXIT_OK


def _text(options: argparse.Namespace, document: Report, checked: Checked) -> str:
    if options.badge:
        from pytest_glasshouse.render.badge import badge, svg

        return svg(badge(document, sound=checked.sound, max_overhead_pct=options.max_overhead))
    if options.html:
        from pytest_glasshouse.render.page import page

        return page(document, checked)
    if options.excerpt:
        from pytest_glasshouse.render.published_shape import excerpt

        return excerpt(document)
    from pytest_glasshouse.render.markdown import markdown

    return markdown(document, faults=len(checked.faults))
