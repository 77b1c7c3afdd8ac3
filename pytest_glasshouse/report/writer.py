"""Bytes to disk: the row journal while rows finish, and the report once, whole, or not at all.

This module knows files and their modes. It refuses to change what it writes: validation and redaction may only stop it,
and what they stop goes to the quarantine in the run directory, which only its owner can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, IntegrityError, RedactionError, ReportError
from pytest_glasshouse.report.bundle import REPORT_LIMIT, SUFFIX, report_bytes, zipped
from pytest_glasshouse.report.redaction import Hit, hits
from pytest_glasshouse.report.schema import validate
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.canonical import parse_strict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.report.record import Record

ROWS = "rows.jsonl"
QUARANTINE = "quarantine"
#: A row that was tried again is in a run's journal more than once.
JOURNAL_LIMIT = 4 * REPORT_LIMIT


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where the report and its bundle are."""

    report: Path
    bundle: Path
    replaced: bool = False
    """Whether another report stood there before."""


class RowJournal:
    """The rows that finished, one JSON line each, on disk before `append` returns. What a killed run leaves is here.

    `read` raises `IntegrityError` for what is no regular file, or larger than any run's.
    """

    def __init__(self, run_directory: Path, *, mine: bool = True) -> None:
        """`mine`: the run directory is made, or made private again. A reader changes nothing there."""
        if mine:
            private_directory(run_directory)
        self.path = run_directory / ROWS

    def append(self, record: Record) -> None:
        """Add one record and fsync it. A line an earlier process left torn is closed first."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            _write_all(descriptor, (b"\n" if torn else b"") + line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[Record]:
        """Every whole record, the last one of each row. A torn line is a row that did not finish."""
        return list({record["record"]["rowId"]: record for record in self.lines()}.values())

    def lines(self) -> list[Record]:
        """Every whole record, in the order they were written."""
        found: list[Record] = []
        with contextlib.suppress(FileNotFoundError):
            for line in read_regular(self.path, limit=JOURNAL_LIMIT).splitlines():
                with contextlib.suppress(IntegrityError, TypeError, KeyError):
                    record: Any = parse_strict(line, limit=REPORT_LIMIT, floats=True)
                    _ = record["record"]["rowId"]
                    found.append(record)
        return found


def publish(
    document: Mapping[str, Any],
    *,
    report: Path,
    run_directory: Path,
    taint: Iterable[str] = (),
    key: Ed25519PrivateKey | None = None,
) -> Published:
    """Validate, redact, then put report and bundle in place, each atomically.

    Raises `ReportError` (exit 13) or `RedactionError` (exit 12): then nothing was written at `report` and the document is
    in the quarantine. The caller owes the taint list; this machine's own directories are added to it. With the report's
    `key` the bundle holds a signed statement per row, made of values of the report and nothing else.
    """
    try:
        validate(document)
    except ReportError:
        quarantine(document, report=report, run_directory=run_directory, found=())
        raise
    found = hits(document, taint=[*taint, *machine_paths(run_directory)])
    if found:
        quarantine(document, report=report, run_directory=run_directory, found=found)
        places = "; ".join(dict.fromkeys(map(str, found)))
        raise RedactionError(f"report not published: {len(found)} forbidden value(s): {places}. Values are withheld")
    bundle, replaced = bundle_path(report), report.exists()
    report.parent.mkdir(parents=True, exist_ok=True)
    replace(bundle, zipped(document, key=key))
    replace(report, report_bytes(document))
    return Published(report=report, bundle=bundle, replaced=replaced)


def bundle_path(report: Path) -> Path:
    """`<run-id>.glasshouse.zip` beside `<run-id>.json`."""
    return report.with_name((report.name.removesuffix(".json") or report.name) + SUFFIX)


def check_writable(report: Path) -> Path:
    """Return the path if a report can be put there; raise `ConfigurationError` before anything is started otherwise."""
    if report.is_dir():
        raise ConfigurationError(f"--glasshouse-report: {report} is a directory; expected a file name")
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=report.parent, prefix=".glasshouse-")
        os.close(descriptor)
        Path(name).unlink()
    except OSError as error:
        raise ConfigurationError(f"--glasshouse-report: cannot write to {report.parent} ({error.strerror})") from error
    return report


def quarantine(document: Mapping[str, Any], *, report: Path, run_directory: Path, found: Sequence[Hit]) -> Path:
    """Keep what may not be published where only its owner reads it: the document, where it was to go, and what was found."""
    folder = private_directory(private_directory(run_directory) / QUARANTINE)
    text = json.dumps(document, indent=2, ensure_ascii=False)  # a NaN may be why it is here
    replace(folder / "report.json", text.encode(), mode=0o600)
    told = {"report": str(report), "hits": [{"path": hit.path, "rule": hit.rule} for hit in found]}
    replace(folder / "why.json", json.dumps(told, indent=2).encode(), mode=0o600)
    return folder


def machine_paths(run_directory: Path) -> tuple[str, ...]:
    """Directories of this machine that say where and as whom the run was."""
    candidates = {str(run_directory.absolute())}
    for place in (Path.cwd, Path.home, tempfile.gettempdir):
        with contextlib.suppress(OSError, RuntimeError):  # gone, or nobody knows where it is
            candidates.add(str(place()))
    # As text, also where this process's locale could not read the bytes: a report is UTF-8.
    texts = {os.fsencode(path).decode(errors="backslashreplace") for path in candidates}
    return tuple(sorted(path for path in texts if len(Path(path).parts) > 2))  # noqa: PLR2004  (/tmp has a rule)


def private_directory(directory: Path) -> Path:
    """Make the directory, readable by its owner only."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    return directory


def replace(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path` so that a reader finds the old file or the new one, also after a power cut."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        try:
            os.fchmod(descriptor, mode)
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
