"""Which report a command means that was given none, and where reports lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

#: Where a run writes its report unless it is told otherwise, below the directory pytest was started in.
REPORTS = Path("reports")


def reports_directory() -> Path:
    """Where reports lie: what GLASSHOUSE_REPORT_DIR names, else `reports`."""
    named = os.environ.get("GLASSHOUSE_REPORT_DIR", "")
    return Path(named) if named else REPORTS


def declare_directory(parser: argparse.ArgumentParser) -> None:
    """Let a command take a directory of reports, by default the usual one."""
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="a directory with reports (default: reports)")


def existing(directory: Path | None) -> Path:
    """The directory that was given, or the usual one. Raises `ConfigurationError` where it is none."""
    found = reports_directory() if directory is None else directory
    if not found.is_dir():
        raise ConfigurationError(f"{found}: expected a directory with reports, saw none")
    return found


def report_or_latest(given: Path | None) -> Path:
    """The report that was given, or the newest one. Raises `ConfigurationError` where there is none."""
    from pytest_glasshouse.check.found_reports import latest

    return latest(existing(None)) if given is None else given


def report_or_saved(named: Path) -> Path:
    """The file that was named, or the report that was saved by this name."""
    from pytest_glasshouse.check.found_reports import baseline_path

    if named.exists() or len(named.parts) != 1 or named.suffix in {".json", ".zip"}:
        return named
    saved = baseline_path(reports_directory(), named.name)
    if not saved.is_file():
        raise ConfigurationError(f"{named}: expected a report, or a name that `compare --save` gave one; saw neither {saved}")
    return saved
