"""Bytes to disk: the row journal while rows finish, and the report once, whole, or not at all.

This module knows which files there are. It refuses to publish what `check` would call faulty, or what must not leave:
that goes to the quarantine in the run directory, which only its owner can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, RedactionError, ReportError
from pytest_glasshouse.report.bundle import SUFFIX, report_bytes, zipped
from pytest_glasshouse.report.objections import Objection, objections, told
from pytest_glasshouse.report.run_directory import QUARANTINE, TaggedLines, private_directory, write_tagged
from pytest_glasshouse.report.run_key import RUN_ID, Proof
from pytest_glasshouse.report.settle import settle
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.whole_file import is_passed_through, put, refuse_unwritable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.analysis.record import Record
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.report.settle import Make, Settled

ROWS = "rows.jsonl"
REPORT, WHY, WITHHELD_ROWS = "report.json", "why.json", "rows.json"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where the report and its bundle are. A report that is written through (a pipe, a device) has no bundle beside it."""

    report: Path
    bundle: Path | None
    replaced: bool = False
    """Whether another report stood there before."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.report,) if self.bundle is None else (self.report, self.bundle)


class RowJournal:
    """The rows that finished, one tagged JSON line each, on disk before `append` returns. What a killed run leaves is here."""

    def __init__(self, run_directory: Path, proof: Proof) -> None:
        self.path = private_directory(run_directory) / ROWS
        self._lines = TaggedLines(self.path, proof)

    def append(self, record: Record) -> None:
        """Add one record. It is not tagged by anybody else, and never read back if it was changed."""
        self._lines.append(record)

    def read(self) -> list[Record]:
        """Every whole record, the last one of each row: see `lines`."""
        return list({record["record"]["rowId"]: record for record in self.lines()}.values())

    def lines(self) -> list[Record]:
        """Every whole record, in the order they were written. A torn line is a row that did not finish.

        Raises `ForeignError` for a line that this account's run did not write.
        """
        return self._lines.read()


def publish(
    document: Mapping[str, Any],
    *,
    report: Path,
    run_directory: Path,
    taint: Iterable[str] = (),
    key: Ed25519PrivateKey | None = None,
    derivation: Derivation | None = None,
) -> Published:
    """Put report and bundle in place, each atomically, if nothing stands against the document.

    Raises `ReportError` (exit 13) or `RedactionError` (exit 12): then nothing was written at `report` and the document is
    in the quarantine. The caller owes the taint list; this machine's own directories are added to it. With the report's
    `key` the bundle holds a signed statement per row, made of values of the report and nothing else.
    """
    found = objections(document, taint=_all_taint(taint, run_directory), derivation=derivation)
    if found:
        quarantine(document, report=report, run_directory=run_directory, found=found, key=key)
        _refuse(found)
    return _put(document, report=report, key=key)


def publish_records(
    records: Sequence[Record],
    *,
    make: Make,
    report: Path,
    run_directory: Path,
    key: Ed25519PrivateKey,
    taint: Iterable[str] = (),
    derivation: Derivation | None = None,
) -> tuple[Published, Settled]:
    """`publish` of the document that `make` assembles of `records`, each that cannot be published withheld.

    What was withheld is in the quarantine then. Raises like `publish` for what stands against the run itself.
    """
    every = _all_taint(taint, run_directory)
    settled = settle(records, make=make, ask=lambda document: objections(document, taint=every, derivation=derivation))
    against = [*settled.blocked, *(each for found in settled.withheld.values() for each in found)]
    if against:
        kept = [{"against": list(map(str, found)), **records[place]} for place, found in settled.withheld.items()]
        quarantine(settled.whole, report=report, run_directory=run_directory, found=against, key=key, rows=kept)
    if settled.blocked:
        _refuse(settled.blocked)
    return _put(settled.document, report=report, key=key), settled


def _put(document: Mapping[str, Any], *, report: Path, key: Ed25519PrivateKey | None) -> Published:
    if is_passed_through(report):
        put(report, report_bytes(document))
        return Published(report=report, bundle=None)
    bundle, replaced = bundle_path(report), report.exists()
    report.parent.mkdir(parents=True, exist_ok=True)
    put(bundle, zipped(document, key=key))
    put(report, report_bytes(document))
    return Published(report=report, bundle=bundle, replaced=replaced)


def _refuse(found: Sequence[Objection]) -> None:
    if hit := [each for each in found if each.rule is not None]:
        raise RedactionError(f"report not published: {len(hit)} forbidden value(s): {told(hit)}. Values are withheld")
    raise ReportError(f"the report does not validate: {told(found)}")


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


def quarantine(
    document: Mapping[str, Any],
    *,
    report: Path,
    run_directory: Path,
    found: Sequence[Objection],
    key: Ed25519PrivateKey | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Keep what may not be published where only its owner reads it: the document, where it was to go, and what was found.

    `rows` are records that were withheld. With the report's `key` it can be published later (`report.republish`).
    """
    folder = private_directory(private_directory(run_directory) / QUARANTINE)
    text = json.dumps(document, indent=2).encode()  # a NaN may be why it is here
    put(folder / REPORT, text, mode=0o600)
    if rows:
        put(folder / WITHHELD_ROWS, json.dumps(list(rows), indent=2).encode(), mode=0o600)
    run_id = document.get("runId")
    run_id = run_id if isinstance(run_id, str) and RUN_ID.fullmatch(run_id) else "unknown"
    why = {
        "report": str(report.absolute()),
        "runId": run_id,
        "sha256": sha256_hex(text),
        "hits": [{"path": each.path, "text": each.text, "rule": each.rule} for each in found],
    }
    if key is None:
        put(folder / WHY, json.dumps(why).encode(), mode=0o600)
    else:
        write_tagged(folder / WHY, why, Proof(key, run_id))
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


def _all_taint(taint: Iterable[str], run_directory: Path) -> tuple[str, ...]:
    return (*taint, *machine_paths(run_directory))
