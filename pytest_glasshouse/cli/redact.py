"""`glasshouse redact`: publish a run whose report redaction stopped, without what stopped it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_REPORT
from pytest_glasshouse.wire.output import write_lines

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands


def declare(commands: Commands) -> None:
    """Add the command."""
    redact = commands.add_parser(
        "redact",
        help="publish a run whose report redaction stopped",
        description="Mask or withhold what redaction found in the run's quarantined report, seal it anew and publish it.",
    )
    redact.add_argument("run_directory", type=Path, metavar="RUN_DIRECTORY", help="the directory named when it was stopped")
    redact.add_argument("--report", type=Path, metavar="PATH", help="where to write (default: where the run wanted its report)")
    redact.set_defaults(run=_redact, report_error_code=EXIT_REPORT)


def _redact(options: argparse.Namespace) -> int:
    from pytest_glasshouse.publish.republish import republish
    from pytest_glasshouse.report.redaction import environment_taint
    from pytest_glasshouse.report.run_key import run_key

    published = republish(
        options.run_directory,
        key_of=lambda run_id: run_key(os.environ, run_id),
        report=options.report,
        taint=environment_taint(os.environ),
        derivation=derivation_of(options),
    )
    write_lines([f"{kind} {path}" for kind, path in zip(("report", "bundle"), published.paths, strict=False)])
    return EXIT_OK
