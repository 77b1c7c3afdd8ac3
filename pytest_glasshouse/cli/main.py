"""The `glasshouse` command: reads what a run left behind, seals packages and serves. It rents nothing.

Each command is in a module of its own beside this one.

Exit codes: 0 yes, 1 no, 4 the command line or a file it names is wrong, 5 nothing to judge, 10 an allocation may still exist,
12 redaction blocked, 13 the report does not validate.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli import (
    check,
    compare,
    doctor,
    export,
    gate,
    history,
    init,
    package,
    policy,
    pool,
    reap,
    redact,
    render,
    row_plan,
    serve,
    server_queries,
    shell_completion,
    site,
    view,
    watch,
)
from pytest_glasshouse.cli.parser import Parser
from pytest_glasshouse.errors import ConfigurationError, IntegrityError, RedactionError, ReportError
from pytest_glasshouse.run.exit_codes import EXIT_NO, EXIT_REDACTION, EXIT_USAGE
from pytest_glasshouse.wire.output import write_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.check.recompute import Derivation

_EPILOG = """\
examples:
  glasshouse init                                       a first row, the gate and the workflows in your repository
  glasshouse check reports/RUN.json                     does the report follow from its own data?
  glasshouse check RUN.glasshouse.zip --trust lab.pub --require authentic
  glasshouse gate reports/RUN.json --max-overhead 3     does it pass the release policy?
  glasshouse compare                                    the newest report against the one before it
  glasshouse compare last-green RUN.json --fail-above 1 fails where the overhead rose by more than a point
  glasshouse site reports/ --out public/                pages of all reports, with every row over time
  glasshouse view                                       the same on http://127.0.0.1:8471, with what runs now
  glasshouse render                                     the newest report as a page, beside it
  glasshouse export RUN.glasshouse.zip --row ROW        a row for in-toto: a Statement in a DSSE envelope
  glasshouse plan 'h100-*' --half-width 0.5            what rows would take, before anything is rented
  glasshouse pool A.json B.json C.json                  one interval over three allocations or more
  glasshouse watch                                      follow the run that began last, from another terminal
  glasshouse redact RUN_DIRECTORY                       publish a run that redaction stopped
  glasshouse keygen owner.key                           make an owner's key
  glasshouse serve --owner owner.key.pub                run the attestation server that rows of this owner share
  glasshouse seal data/ --owner owner.key --out data.package
  glasshouse policy capture --container IMAGE --out policy.json
  glasshouse register data.package --policy policy.json --server URL --server-key PUB --owner owner.key
  glasshouse outstanding --state DIRECTORY              released keys without exit evidence
  glasshouse doctor --provider runpod                   what would keep rows from running here
  glasshouse reap --expired                             end allocations that outlived their deadline

exit codes: 0 yes; 1 no; 4 the command line or a file it names is wrong; 5 nothing to judge; 10 an allocation may still
exist; 12 redaction blocked the report; 13 the report does not validate
"""


def main(arguments: Sequence[str] | None = None, *, derivation: Derivation | None = None) -> int:
    """Run one command; the exit code is the answer. `derivation` is what reports are derived with, by default the project's."""
    _open_streams()
    options = _parser().parse_args(arguments)
    options.derivation = derivation
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except IntegrityError as error:
        write_errors(f"glasshouse {options.command}: refused: {error}")
        return EXIT_NO
    except (ConfigurationError, ReportError, RedactionError) as error:
        write_errors(f"glasshouse {options.command}: {error}")
        codes: dict[type[Exception], int] = {RedactionError: EXIT_REDACTION, ReportError: options.report_error_code}
        return codes.get(type(error), EXIT_USAGE)
    except MemoryError:
        write_errors(f"glasshouse {options.command}: out of memory; free some, or use a larger machine")
        return EXIT_USAGE
    except BrokenPipeError:
        # The reader has closed the pipe (`glasshouse render ... | head`).
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO
    except OSError as error:
        # The disk, a limit, or standard output itself: one line, and no traceback.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        named = "" if error.filename is None else f"{error.filename}: "
        write_errors(f"glasshouse {options.command}: {named}{error.strerror or type(error).__name__}")
        return EXIT_USAGE
    return code


def _open_streams() -> None:
    """Make every standard stream exist and accept every character: what it cannot show is escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (for as long as the process)
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="glasshouse",
        description="Check and render what a benchmark run left behind; run the attestation server; seal packages.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"glasshouse {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    judging = (check, export, redact, gate, compare, history, pool, render, site, view)
    for module in (init, *judging, row_plan, watch, doctor, reap, serve, package, server_queries, policy, shell_completion):
        module.declare(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version("pytest-glasshouse")
    except metadata.PackageNotFoundError:
        return "unknown"
