"""The reports below a directory, oldest first: for commands that are given no report, or one to compare with another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pytest_glasshouse.check.legacy_results import may_be_report
from pytest_glasshouse.errors import ConfigurationError, IntegrityError, ReportError
from pytest_glasshouse.report.bundle import REPORT_MEMBER, SUFFIX, members_of, parse_report, read_report
from pytest_glasshouse.report.failures import failures, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_glasshouse.report.fields import Report

#: Where copies of reports lie that were given a name, below the directory of reports.
BASELINES = "baselines"


@dataclass(frozen=True, kw_only=True)
class FoundReport:
    """One report by what it says of itself; nothing of it was checked."""

    path: Path
    run_id: str
    created_at: str
    green: bool
    """Whether it has rows and none of them failed."""


def report_paths(directory: Path) -> Iterator[Path]:
    """Every file that may be a report or a bundle, outside run directories and virtual environments; sorted by name."""
    installed = [each.parent for each in directory.rglob("pyvenv.cfg")]
    for path in sorted([*directory.rglob("*.json"), *directory.rglob(f"*{SUFFIX}")]):
        name = path.relative_to(directory)
        if not any(part.endswith(".run") for part in name.parts) and not any(path.is_relative_to(each) for each in installed):
            yield path


def reports_in(directory: Path) -> list[FoundReport]:
    """The reports below a directory, oldest first, each run once. Saved copies are no runs of their own."""
    found: dict[str, FoundReport] = {}
    for path in report_paths(directory):
        if BASELINES in path.relative_to(directory).parts:
            continue
        each = _read(path)
        if each is not None and each.run_id not in found:
            found[each.run_id] = each
    return sorted(found.values(), key=lambda each: (each.created_at, each.run_id))


def latest(directory: Path) -> Path:
    """The newest report. Raises `ConfigurationError` where there is none."""
    found = reports_in(directory)
    if not found:
        raise ConfigurationError(
            f"no report was named, and {directory}/ has none: expected REPORT, or a run that wrote one there"
        )
    return found[-1].path


def before(path: Path, *, green: bool = False) -> Path:
    """The report that was made before this one in its directory; with `green`, the last one in which no row failed."""
    this = _read(path)
    if this is None:
        raise ReportError(f"{path}: expected a report or a bundle")
    directory = path.parent.parent if path.parent.name == BASELINES else path.parent
    found = [
        each
        for each in reports_in(directory)
        if (each.created_at, each.run_id) < (this.created_at, this.run_id) and (each.green or not green)
    ]
    if not found:
        kind = "in which no row failed " if green else ""
        raise ConfigurationError(f"{path}: no report {kind}was made before it in {directory}/; name the one to compare it with")
    return found[-1].path


def baseline_path(directory: Path, name: str) -> Path:
    """Where the report saved as `name` lies. Raises `ConfigurationError` for a text that is no name."""
    if not name or len(name) > 64 or not all(letter.isalnum() or letter in "._-" for letter in name) or name.startswith("."):  # noqa: PLR2004
        raise ConfigurationError(f"expected a name of letters, digits, dots and dashes, saw {name[:80]!r}")
    return directory / BASELINES / f"{name}.json"


def _read(path: Path) -> FoundReport | None:
    try:
        document = parse_report(members_of(read_report(path))[REPORT_MEMBER])
        if not may_be_report(document):
            return None
        rows = rows_of(cast("Report", document))
        return FoundReport(
            path=path,
            run_id=str(document["runId"]),
            created_at=str(document["createdAt"]),
            green=bool(rows) and not failures(rows),
        )
    except (IntegrityError, ReportError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError):
        return None
