"""`glasshouse compare`: two reports, row by row, and as a gate the rise of the overhead."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.cli.reports import report_or_latest, report_or_saved, reports_directory
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.run.exit_codes import EXIT_NO, EXIT_NOTHING, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_document, write_lines
from pytest_glasshouse.wire.printable import counted
from pytest_glasshouse.wire.text_table import width_of

if TYPE_CHECKING:
    from pytest_glasshouse.check.compare import Compared
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.report.fields import Report

_COMPARE = """\
Compare the rows that reports A and B both measured: the overhead in each and the difference, B minus A, in percentage points
of the raw rate, with its 95 % interval (Welch's t over the rounds of both). One round on either side has no interval.

With one report it is compared with the one made before it in its directory; without any, the newest one is. A may be a name
that --save gave a report, or last-green: the last report before B in which no row failed.

With --fail-above the overhead of no row may have risen by more than POINTS, by the interval of the difference: within only if
its upper end is at most POINTS, else over the limit or inconclusive, and both fail. So does a row that failed in B, one that
only A measured, and one that is not the same row in both.

Rows on unlike machines (another GPU or provider, a dry run against a real one) are refused unless --allow-unlike.

exit codes: 0 compared; 1 a report has faults, or --fail-above is not met; 4 unusable, or machines unlike; 5 no row in common
"""
LAST_GREEN = "last-green"


def declare(commands: Commands) -> None:
    """Add the command."""
    compare = commands.add_parser(
        "compare", help="two reports, row by row", description=_COMPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    compare.add_argument("reports", nargs="*", type=Path, metavar="REPORT", help="A and B; B; or none")
    compare.add_argument("--allow-unlike", action="store_true", help="compare rows that ran on unlike machines, and show that")
    compare.add_argument("--fail-above", type=float, metavar="POINTS", help="fail unless the overhead rose by at most this")
    compare.add_argument("--save", metavar="NAME", help="keep B under this name, to compare with later")
    compare.add_argument("--markdown", action="store_true", help="as Markdown, for a comment on a pull request")
    compare.set_defaults(run=_compare, report_error_code=EXIT_USAGE)


def _compare(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.compare import compare
    from pytest_glasshouse.render.comparison import lines, markdown

    if options.fail_above is not None and not 0 <= options.fail_above < float("inf"):
        raise ConfigurationError(f"--fail-above: expected points of 0 or more, saw {options.fail_above:g}")
    first, second = _paths(options)
    before, after = (_sound(path, options) for path in (first, second))
    if before is None or after is None:
        return EXIT_NO
    compared = compare(before, after)
    unlike = [each for each in compared.pairs if each.unlike]
    if unlike and not options.allow_unlike:
        pairs = "; ".join(f"{each.name}: {each.unlike}" for each in unlike)
        raise ConfigurationError(
            f"unlike machines: {pairs}. Their difference is not one of protection; compare reports of like machines, or give "
            "--allow-unlike"
        )
    names = (first.name, second.name)
    as_markdown = markdown(compared, names=names, limit_points=options.fail_above)
    if options.markdown:
        write_document(as_markdown)
    else:
        write_lines(lines(compared, names=names, width=width_of(sys.stdout), limit_points=options.fail_above))
    _add_to_job_summary(as_markdown)
    code = _judged(compared, options)
    if options.save is not None and code == EXIT_OK:
        _save(second, options)
    return code


def _paths(options: argparse.Namespace) -> tuple[Path, Path]:
    from pytest_glasshouse.check.found_reports import before

    given: list[Path] = options.reports
    if len(given) > 2:  # noqa: PLR2004
        raise ConfigurationError(f"expected one report or two, saw {len(given)}")
    second = report_or_saved(given[-1]) if given else report_or_latest(None)
    if len(given) < 2:  # noqa: PLR2004
        return before(second), second
    if str(given[0]) == LAST_GREEN:
        return before(second, green=True), second
    return report_or_saved(given[0]), second


def _judged(compared: Compared, options: argparse.Namespace) -> int:
    """The exit code, and with a limit a line that says why."""
    from pytest_glasshouse.check.compare import judged_difference
    from pytest_glasshouse.overhead.verdict import LimitVerdict

    if options.fail_above is None:
        return EXIT_OK if compared.pairs or compared.sealed else EXIT_NOTHING
    judged = [judged_difference(each.difference, limit_points=options.fail_above) for each in compared.pairs]
    against = [
        f"{counted(judged.count(verdict), 'row')} {verdict.value}"
        for verdict in (LimitVerdict.OVER, LimitVerdict.INCONCLUSIVE)
        if verdict in judged
    ]
    against += [f"{counted(len(compared.failed_after), 'row')} failed in B"] if compared.failed_after else []
    # Those that failed in B are not measured there for that reason.
    failed = {each.name for each in compared.failed_after}
    missing = [*(each.name for each in compared.changed), *(name for name in compared.only_before if name not in failed)]
    against += [f"{counted(len(missing), 'row')} of A not measured in B"] if missing else []
    if not judged and not against:
        return EXIT_NOTHING
    ruling = f"FAILED: {', '.join(against)}" if against else f"PASSED: {counted(len(judged), 'row')} within the limit"
    if not options.markdown:
        write_lines([f"{ruling} (at most {options.fail_above:g} points more)"])
    return EXIT_NO if against else EXIT_OK


def _save(path: Path, options: argparse.Namespace) -> None:
    from pytest_glasshouse.check.found_reports import baseline_path
    from pytest_glasshouse.report.bundle import REPORT_MEMBER, members_of, read_report
    from pytest_glasshouse.wire.whole_file import put, refuse_unwritable

    target = baseline_path(reports_directory(), options.save)
    refuse_unwritable(target, what="--save", make_parents=True)
    put(target, members_of(read_report(path))[REPORT_MEMBER])
    if not options.markdown:
        write_lines([f"saved as {options.save}: {target}"])


def _add_to_job_summary(text: str) -> None:
    """In a job of GitHub Actions, the table is on the job's page too."""
    named = os.environ.get("GITHUB_STEP_SUMMARY")
    if os.environ.get("GITHUB_ACTIONS") == "true" and named:
        try:
            with Path(named).open("a", encoding="utf-8") as file:
                file.write(f"\n{text}")
        except OSError:
            return


def _sound(path: Path, options: argparse.Namespace) -> Report | None:
    """The report's document, or None after its faults were shown."""
    from pytest_glasshouse.check.check import check_bytes, read_document

    data, document = read_document(path, derivation=derivation_of(options))
    faults = check_bytes(data, derivation=derivation_of(options)).faults
    write_lines(f"{path}: {fault}" for fault in faults)
    return None if faults else document
