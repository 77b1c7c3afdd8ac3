"""`glasshouse check`: derive reports again from their own data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.run.exit_codes import EXIT_NO, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from pytest_glasshouse.check.authenticity import Trust
    from pytest_glasshouse.check.check import Checked, Level
    from pytest_glasshouse.cli.parser import Commands

_LEVELS = ("consistent", "authentic", "witnessed")
_CHECK = """\
Derive every REPORT (a report or a bundle) again from its own data: schema, arithmetic, findings, journals, verdicts,
seals, redaction. Exit 0 when every one is free of faults and reaches the level required, else 1 with each fault and its path.

levels:
  consistent   everything in the report follows from its own data
  authentic    and every signature leads to a key given with --trust; keys found inside a report never count
  witnessed    and every receipt is by a server whose key file line starts with the word `witness`: you vouch
               that the publisher does not run it
"""
_TRUST = "a public key file: PEM, or lines `[witness] KEY`, base64url or of `ssh-keygen -t ed25519`; repeatable"


def declare(commands: Commands) -> None:
    """Add the command."""
    check = commands.add_parser(
        "check",
        help="derive a report again from its own data",
        description=_CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    check.add_argument("report", nargs="+", type=Path, metavar="REPORT", help="a report or a .glasshouse.zip bundle")
    check.add_argument("--trust", action="append", type=Path, default=[], metavar="PUB", help=_TRUST)
    check.add_argument(
        "--require", choices=_LEVELS, metavar="LEVEL", help=f"least level: {', '.join(_LEVELS)} (default: consistent)"
    )
    check.add_argument(
        "--published",
        action="store_true",
        help="REPORTs are results from before there were reports (validResults, rows with two rates): check their arithmetic",
    )
    check.add_argument(
        "--replay",
        type=int,
        default=0,
        metavar="N",
        help="train N legs again, drawn by what was signed at their end: each must give the adapter that it exported. Takes as "
        "long as the legs did, and needs torch and the model",
    )
    check.add_argument(
        "--explain", action="store_true", help="also what it proves, what it does not, and every signer as trusted or unknown"
    )
    check.set_defaults(run=_check, report_error_code=EXIT_USAGE)


def _check(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.authenticity import Trust
    from pytest_glasshouse.check.check import Level, check_file

    trust = Trust.read(options.trust)
    required = Level(options.require or Level.CONSISTENT)
    passed = True
    for path in options.report:
        checked = check_file(path, trust=trust, derivation=derivation_of(options), legacy=options.published)
        if checked.legacy is not None and options.require is None:
            passed = passed and checked.sound
        else:
            passed = passed and checked.sound and checked.level.height >= required.height
        write_lines(
            _lines(path, checked, required) if checked.legacy is None else _lines_of_published(path, checked, options.require)
        )
        if options.explain and checked.legacy is None and checked.level is not Level.NOTHING:
            _explain(path, checked, trust)
        if options.replay and checked.legacy is None and checked.sound:
            passed = _replay(path, options.replay) and passed
    return EXIT_OK if passed else EXIT_NO


def _explain(path: Path, checked: Checked, trust: Trust) -> None:
    from pytest_glasshouse.check.check import load_document
    from pytest_glasshouse.check.explanation import explanation
    from pytest_glasshouse.report.bundle import read_report

    write_lines(explanation(load_document(read_report(path)), checked, trust))


def _replay(path: Path, count: int) -> bool:
    """Train legs again, and say of each what came out; whether all that were drawn gave their adapters, and there was one."""
    from pytest_glasshouse.check.check import load_document
    from pytest_glasshouse.cli.replay import replay
    from pytest_glasshouse.report.bundle import read_report

    equal: list[bool] = []
    for leg in replay(load_document(read_report(path)), count):
        equal.append(leg.equal)
        write_lines([f"{path}: {leg}"])
    if not equal:
        write_lines([f"{path}: no leg of this report was measured: there is nothing to replay"])
    return bool(equal) and all(equal)


def _lines(path: Path, checked: Checked, required: Level) -> list[str]:
    """Faults first; the word `verified` appears only where every signature leads to a key the reader gave."""
    from pytest_glasshouse.check.check import Level

    lines = [f"{path}: {fault}" for fault in checked.faults]
    if not checked.sound:
        return [*lines, f"{path}: FAULTY: {counted(len(checked.faults), 'fault')}"]
    result = "verified" if checked.level.height >= Level.AUTHENTIC.height else "no fault found"
    counts = f"{counted(checked.rows, 'row')} measured, {checked.excluded} excluded"
    lines += [f"{path}: {checked.level.value}: {result}; {counts}", *(f"  {each}" for each in checked.missing)]
    if checked.level.height < required.height:
        lines.append(f"{path}: REFUSED: {required.value} was required")
    return lines


def _lines_of_published(path: Path, checked: Checked, required: str | None) -> list[str]:
    """Results from before there were reports: what could be computed again, and what this file cannot show."""
    found = checked.legacy
    assert found is not None  # noqa: S101  (for the type checker)
    lines = [f"{path}: {fault}" for fault in checked.faults]
    counts = f"{counted(found.recomputed, 'overhead')} computed again, {counted(len(checked.faults), 'fault')}"
    counts += f", {counted(found.excluded, 'excluded result')}" if found.excluded else ""
    lines.append(f"{path}: published results, not a report: {counts}")
    lines += [f"  stated only: {', '.join(found.stated)}"] if found.stated else []
    lines += [f"  cannot be shown: {each}" for each in checked.missing]
    if required is not None:
        lines.append(f"{path}: REFUSED: {required} was required, and results of this shape reach no level")
    return lines
