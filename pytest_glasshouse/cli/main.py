"""The `glasshouse` command: reads what a run left behind, seals packages and serves. It rents nothing.

What seals, serves and captures is in the `cli_*` modules beside this one.

Exit codes: 0 yes, 1 no, 4 the command line or a file it names is wrong, 5 nothing to judge, 10 an allocation may still exist,
12 redaction blocked, 13 the report does not validate.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_glasshouse.cli import completion as cli_completion
from pytest_glasshouse.cli import doctor as cli_doctor
from pytest_glasshouse.cli import gate as cli_judge
from pytest_glasshouse.cli import package as cli_package
from pytest_glasshouse.cli import policy as cli_policy
from pytest_glasshouse.cli import pool as cli_pool
from pytest_glasshouse.cli import reap as cli_reap
from pytest_glasshouse.cli import render as cli_render
from pytest_glasshouse.cli import serve as cli_serve
from pytest_glasshouse.cli import server_queries as cli_server
from pytest_glasshouse.cli import watch as cli_watch
from pytest_glasshouse.errors import ConfigurationError, IntegrityError, RedactionError, ReportError
from pytest_glasshouse.wire.output import complain, give, say
from pytest_glasshouse.wire.printable import json_text, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.check.check import Checked, Level
    from pytest_glasshouse.check.recompute import Derivation

EXIT_OK = 0
EXIT_NO = 1
EXIT_USAGE = 4
EXIT_REDACTION = 12
EXIT_REPORT = 13

_LEVELS = ("consistent", "authentic", "witnessed")
_EPILOG = """\
examples:
  glasshouse check reports/RUN.json                     does the report follow from its own data?
  glasshouse check RUN.glasshouse.zip --trust lab.pub --require authentic
  glasshouse gate reports/RUN.json --max-overhead 3     may the release go?
  glasshouse compare BEFORE.json AFTER.json             the rows both have, and how far apart they are
  glasshouse render reports/RUN.json --markdown         the tables, on standard output
  glasshouse export RUN.glasshouse.zip --row ROW        a row for in-toto: a Statement in a DSSE envelope
  glasshouse pool A.json B.json C.json                  one interval over three allocations or more
  glasshouse watch RUN                                  follow a run from another terminal
  glasshouse redact RUN_DIRECTORY                       publish a run that redaction stopped
  glasshouse keygen owner.key                           make an owner's key
  glasshouse serve --owner owner.key.pub                run the attestation server that rows of this owner share
  glasshouse seal data/ --owner owner.key --out data.package
  glasshouse policy capture --container IMAGE --out policy.json
  glasshouse register data.package --policy policy.json --server URL --server-key PUB --owner owner.key
  glasshouse outstanding --state DIRECTORY              keys that left and were never accounted for
  glasshouse doctor --provider runpod                   what would keep rows from running here
  glasshouse reap --expired                             end allocations that outlived their deadline

exit codes: 0 yes; 1 no; 4 the command line or a file it names is wrong; 5 nothing to judge; 10 an allocation may still
exist; 12 redaction blocked the report; 13 the report does not validate
"""
_CHECK = """\
Derive every REPORT (a report or a bundle) again from its own data: schema, arithmetic, findings, journals, verdicts,
seals, redaction. Exit 0 when every one is free of faults and reaches the level required, else 1 with each fault and its path.

levels:
  consistent   everything in the report follows from its own data
  authentic    and every signature leads to a key given with --trust; keys found inside a report never count
  witnessed    and every receipt is by a server whose key file line starts with the word `witness`: you vouch
               that the publisher does not run it
"""
_EXPORT = """\
Take out of a BUNDLE what it says of one row for those who read in-toto: a Statement with the digest of every protected
adapter as subject and digests of journal, evidence, result and receipt as predicate, in a DSSE envelope that the report
key signed when the report was published. Verify it with that key, which you got another way:

  securesystemslib: Envelope.from_dict(json.load(file)).verify([SSlibKey(...)], threshold=1)
"""
_TRUST = "a public key file: PEM, or lines of `[witness] BASE64URL-KEY`; repeatable"


class _Parser(argparse.ArgumentParser):
    """One line and exit code 4 for a usage error, as pytest has it, by the command whose help tells more."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.register("type", float, _number)
        self.register("type", int, _whole)

    def parse_known_args(  # type: ignore[override]  # the signature has overloads that nothing here needs
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does it, but a command refuses by itself what it does not know; argparse leaves that to `glasshouse`."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [name for name in self._option_string_actions if name.startswith("--")]
            close = get_close_matches(unknown[0].partition("=")[0], options, n=1, cutoff=0.7)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {close[0]}?' if close else ''}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: {message} (see {self.prog} --help)")
        sys.exit(EXIT_USAGE)


def _number(text: str) -> float:
    try:
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number, saw {printable(repr(text))}")


def _whole(text: str) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,15}", text):
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number, saw {printable(repr(text))}")


def main(arguments: Sequence[str] | None = None, *, derivation: Derivation | None = None) -> int:
    """Run one command; the exit code is the answer. `derivation` is what reports are derived with, by default the project's."""
    _open_streams()
    options = _parser().parse_args(arguments)
    options.derivation = derivation
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except IntegrityError as error:
        complain(f"glasshouse {options.command}: refused: {error}")
        return EXIT_NO
    except (ConfigurationError, ReportError, RedactionError) as error:
        complain(f"glasshouse {options.command}: {error}")
        codes: dict[type[Exception], int] = {RedactionError: EXIT_REDACTION, ReportError: options.report_error_code}
        return codes.get(type(error), EXIT_USAGE)
    except MemoryError:
        complain(f"glasshouse {options.command}: this takes more memory than there is")
        return EXIT_USAGE
    except BrokenPipeError:
        # The reader went away (`glasshouse render ... | head`); there is nobody left to tell.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO
    except OSError as error:
        # The disk, a limit, or standard output itself: nobody's mistake here, and no traceback.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        named = "" if error.filename is None else f"{error.filename}: "
        complain(f"glasshouse {options.command}: {named}{error.strerror or type(error).__name__}")
        return EXIT_USAGE
    return code


def _open_streams() -> None:
    """Standard streams that take every character and are there: what they cannot show is spelled out, and none is `None`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (for as long as the process)
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="glasshouse",
        description="Check and render what a benchmark run left behind; run the attestation server; seal packages.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"glasshouse {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

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
    check.set_defaults(run=_check, report_error_code=EXIT_USAGE)

    export = commands.add_parser(
        "export",
        help="a row's protected runs as an in-toto Statement in a DSSE envelope",
        description=_EXPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    export.add_argument("bundle", type=Path, metavar="BUNDLE", help="the .glasshouse.zip of a run")
    export.add_argument("--row", required=True, metavar="ROW", help="id or name of the row")
    export.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: standard output)")
    export.set_defaults(run=_export, report_error_code=EXIT_USAGE)

    redact = commands.add_parser(
        "redact",
        help="publish a run whose report redaction stopped",
        description="Mask or withhold what redaction found in the run's quarantined report, seal it anew and publish it.",
    )
    redact.add_argument("run_directory", type=Path, metavar="RUN_DIRECTORY", help="the directory named when it was stopped")
    redact.add_argument("--report", type=Path, metavar="PATH", help="where to write (default: where the run wanted its report)")
    redact.set_defaults(run=_redact, report_error_code=EXIT_REPORT)
    judging, running = (cli_judge, cli_pool, cli_render), (cli_watch, cli_doctor, cli_reap)
    for module in (*judging, *running, cli_serve, cli_package, cli_server, cli_policy, cli_completion):
        module.declare(commands)
    return parser


def _check(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.authenticity import Trust
    from pytest_glasshouse.check.check import Level, check_file

    trust = Trust.read(options.trust)
    required = Level(options.require or Level.CONSISTENT)
    passed = True
    for path in options.report:
        checked = check_file(path, trust=trust, derivation=options.derivation, published=options.published)
        if checked.published is not None and options.require is None:
            passed = passed and checked.sound
        else:
            passed = passed and checked.sound and checked.level.height >= required.height
        told = _told(path, checked, required) if checked.published is None else _told_published(path, checked, options.require)
        say(told)
    return EXIT_OK if passed else EXIT_NO


def _told(path: Path, checked: Checked, required: Level) -> list[str]:
    """Faults first; the word `verified` appears only where every signature leads to a key the reader gave."""
    from pytest_glasshouse.check.check import Level

    lines = [f"{path}: {fault}" for fault in checked.faults]
    if not checked.sound:
        return [*lines, f"{path}: FAULTY: {len(checked.faults)} fault(s)"]
    word = "verified" if checked.level.height >= Level.AUTHENTIC.height else "no fault found"
    told = f"{path}: {checked.level.value}: {word}; {checked.rows} row(s) measured, {checked.excluded} excluded"
    lines += [told, *(f"  {each}" for each in checked.missing)]
    if checked.level.height < required.height:
        lines.append(f"{path}: REFUSED: {required.value} was required")
    return lines


def _told_published(path: Path, checked: Checked, required: str | None) -> list[str]:
    """Results from before there were reports: what could be computed again, and what nobody can from this file."""
    found = checked.published
    assert found is not None  # noqa: S101  (for the type checker)
    lines = [f"{path}: {fault}" for fault in checked.faults]
    told = f"{found.recomputed} overhead(s) follow from the rates beside them, {len(checked.faults)} fault(s)"
    told += f", {found.excluded} excluded result(s)" if found.excluded else ""
    lines.append(f"{path}: published results, not a report: {told}")
    lines += [f"  stated only: {', '.join(found.stated)}"] if found.stated else []
    lines += [f"  cannot be shown: {each}" for each in checked.missing]
    if required is not None:
        lines.append(f"{path}: REFUSED: {required} was required, and results of this shape reach no level")
    return lines


def _export(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.check import read_document
    from pytest_glasshouse.report.bundle import files_of
    from pytest_glasshouse.report.intoto import exported
    from pytest_glasshouse.wire.whole_file import put, refuse_unwritable

    if options.out is not None:
        refuse_unwritable(options.out, what="--out")
    data, document = read_document(options.bundle)
    envelope = exported(document, files_of(data), options.row)
    if options.out is None:
        give(json_text(json.loads(envelope)) + "\n")
    else:
        put(options.out, envelope)
    return EXIT_OK


def _redact(options: argparse.Namespace) -> int:
    from pytest_glasshouse.report.redaction import environment_taint
    from pytest_glasshouse.report.republish import republish
    from pytest_glasshouse.report.run_key import run_key

    published = republish(
        options.run_directory,
        key_of=lambda run_id: run_key(os.environ, run_id),
        report=options.report,
        taint=environment_taint(os.environ),
        derivation=options.derivation,
    )
    say([f"{kind} {path}" for kind, path in zip(("report", "bundle"), published.paths, strict=False)])
    return EXIT_OK


def _version() -> str:
    try:
        return metadata.version("pytest-glasshouse")
    except metadata.PackageNotFoundError:
        return "unknown"
