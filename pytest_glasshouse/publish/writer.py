"""The report to disk once, whole, or not at all.

What `check` would call faulty, or what must not leave, is not published: it goes to the quarantine in the run directory,
which only its owner can read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import RedactionError, ReportError
from pytest_glasshouse.publish.objections import Objection, listed, objections
from pytest_glasshouse.publish.withheld_records import withhold_records
from pytest_glasshouse.report.bundle import bundle_bytes, report_bytes
from pytest_glasshouse.report.paths import bundle_path, machine_paths
from pytest_glasshouse.report.run_directory import QUARANTINE, private_directory, write_tagged
from pytest_glasshouse.report.run_key import RUN_ID, TagKey
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.whole_file import is_passed_through, put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.analysis.record import Record
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.publish.withheld_records import Make, PublishableReport

REPORT, WHY, WITHHELD_ROWS = "report.json", "why.json", "rows.json"


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """Where the report and its bundle are. A report that is written through (a pipe, a device) has no bundle beside it."""

    report: Path
    bundle: Path | None
    replaced: bool = False
    """Whether another report stood there before."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.report,) if self.bundle is None else (self.report, self.bundle)


def publish(
    document: Mapping[str, Any],
    *,
    report: Path,
    run_directory: Path,
    taint: Iterable[str] = (),
    key: Ed25519PrivateKey | None = None,
    derivation: Derivation | None = None,
) -> PublishedFiles:
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
) -> tuple[PublishedFiles, PublishableReport]:
    """`publish` of the document that `make` assembles of `records`, each that cannot be published withheld.

    What was withheld is in the quarantine then. Raises like `publish` for what stands against the run itself.
    """
    every = _all_taint(taint, run_directory)
    settled = withhold_records(records, make=make, ask=lambda document: objections(document, taint=every, derivation=derivation))
    against = [*settled.blocked, *(each for found in settled.withheld.values() for each in found)]
    if against:
        kept = [{"against": list(map(str, found)), **records[place]} for place, found in settled.withheld.items()]
        quarantine(settled.whole, report=report, run_directory=run_directory, found=against, key=key, rows=kept)
    if settled.blocked:
        _refuse(settled.blocked)
    return _put(settled.document, report=report, key=key), settled


def _put(document: Mapping[str, Any], *, report: Path, key: Ed25519PrivateKey | None) -> PublishedFiles:
    if is_passed_through(report):
        put(report, report_bytes(document))
        return PublishedFiles(report=report, bundle=None)
    bundle, replaced = bundle_path(report), report.exists()
    report.parent.mkdir(parents=True, exist_ok=True)
    put(bundle, bundle_bytes(document, key=key))
    put(report, report_bytes(document))
    return PublishedFiles(report=report, bundle=bundle, replaced=replaced)


def _refuse(found: Sequence[Objection]) -> None:
    if hit := [each for each in found if each.rule is not None]:
        raise RedactionError(f"report not published: {len(hit)} forbidden value(s): {listed(hit)}. Values are withheld")
    raise ReportError(f"the report does not validate: {listed(found)}")


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
        write_tagged(folder / WHY, why, TagKey(key, run_id))
    return folder


def _all_taint(taint: Iterable[str], run_directory: Path) -> tuple[str, ...]:
    return (*taint, *machine_paths(run_directory))
