"""Which files lie beside a report, whether it can be written, and which directories of this machine it may not name."""

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
    """Return the path if a report can be put there, and its bundle and page; else raise `ConfigurationError`, in time."""
    refuse_unwritable(report, what=what, make_parents=True)
    if is_passed_through(report):
        if html:
            raise ConfigurationError(f"{what}: no page can lie beside {report}; name a file, or leave out --glasshouse-html")
        return report
    for derived in (bundle_path(report), *([page_path(report)] if html else [])):
        refuse_unwritable(derived, what=what)
        if is_passed_through(derived):
            raise ConfigurationError(f"{what}: {derived}, which lies beside the report, is no file")
    return report


def machine_paths(run_directory: Path) -> tuple[str, ...]:
    """Directories of this machine that say where and as whom the run was."""
    candidates = {str(run_directory.absolute())}
    for place in (Path.cwd, Path.home, tempfile.gettempdir):
        with contextlib.suppress(OSError, RuntimeError):  # gone, or nobody knows where it is
            candidates.add(str(place()))
    # As text, also where this process's locale could not read the bytes: a report is UTF-8.
    texts = {os.fsencode(path).decode(errors="backslashreplace") for path in candidates}
    return tuple(sorted(path for path in texts if len(Path(path).parts) > 2))  # noqa: PLR2004  (/tmp has a rule)
