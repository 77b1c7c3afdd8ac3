"""Paths of a report: the files beside it, whether they can be written, and the directories that no report may name."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.report.bundle import SUFFIX
from pytest_glasshouse.wire.whole_file import is_passed_through, refuse_unwritable


def bundle_path(report: Path) -> Path:
    """`<run-id>.glasshouse.zip` beside `<run-id>.json`."""
    return beside(report, SUFFIX)


def page_path(report: Path) -> Path:
    """`<run-id>.html` beside `<run-id>.json`."""
    return beside(report, ".html")


def beside(report: Path, suffix: str) -> Path:
    """A file named after the report."""
    return report.with_name((report.name.removesuffix(".json") or report.name) + suffix)


def check_writable(report: Path, *, html: bool = False, what: str = "--glasshouse-report") -> Path:
    """Return the path if report, bundle and page can be written there; raise `ConfigurationError` otherwise."""
    refuse_unwritable(report, what=what, make_parents=True)
    if is_passed_through(report):
        if html:
            raise ConfigurationError(f"{what}: no page can lie beside {report}; name a file, or leave out --glasshouse-html")
        return report
    for derived in (bundle_path(report), *([page_path(report)] if html else [])):
        refuse_unwritable(derived, what=what)
        if is_passed_through(derived):
            raise ConfigurationError(f"{what}: {derived}, which lies beside the report, is not a regular file")
    return report


def machine_paths(run_directory: Path) -> tuple[str, ...]:
    """Directories of this machine whose names show where, and as which user, the run was."""
    candidates = {str(run_directory.absolute())}
    for place in (Path.cwd, Path.home, tempfile.gettempdir):
        with contextlib.suppress(OSError, RuntimeError):  # it was removed, or is not known
            candidates.add(str(place()))
    # A report is UTF-8, whatever this process's locale is.
    texts = {os.fsencode(path).decode(errors="backslashreplace") for path in candidates}
    return tuple(sorted(path for path in texts if len(Path(path).parts) > 2))  # noqa: PLR2004  (/tmp has a rule)
