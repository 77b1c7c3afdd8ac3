"""Writes the report and its bundle, each atomically, or quarantines them.

A document that `check` would call faulty, or that holds what must not be published, goes to the quarantine in the run
directory, which only its owner can read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import RedactionError, ReportError
from pytest_glasshouse.publish.objections import Objection, examined, listed
from pytest_glasshouse.publish.withheld_records import withhold_records
from pytest_glasshouse.report.bundle import bundle_bytes
from pytest_glasshouse.report.paths import bundle_path, machine_paths
from pytest_glasshouse.report.run_directory import QUARANTINE, private_directory, write_tagged
from pytest_glasshouse.report.run_key import RUN_ID, TagKey
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.printable import counted
from pytest_glasshouse.wire.whole_file import is_passed_through, put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.publish.withheld_records import Make, PublishableReport
    from pytest_glasshouse.report.fields import Report

REPORT, WHY, WITHHELD_ROWS = "report.json", "why.json", "rows.json"


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """The paths of the report and its bundle. A report that is written to a pipe or device has no bundle."""

    report: Path
    bundle: Path | None
    replaced: bool = False
    """Whether an earlier report was replaced."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.report,) if self.bundle is None else (self.report, self.bundle)


def publish(
    document: Report,
    *,
    report: Path,
    run_directory: Path,
    taint: Iterable[str] = (),
    key: Ed25519PrivateKey | None = None,
    derivation: Derivation | None = None,
) -> PublishedFiles:
    """Write report and bundle if there are no objections to the document.

    Raises `ReportError` (exit 13) or `RedactionError` (exit 12): then nothing was written at `report` and the document is
    in the quarantine. The caller gives the taint list; this machine's own directories are added to it. With the report's
    `key` the bundle has a signed statement per row.
    """
    found = examined(document, taint=_all_taint(taint, run_directory), derivation=derivation)
    if found.objections:
        quarantine(document, report=report, run_directory=run_directory, found=found.objections, key=key)
        _refuse(found.objections)
    return _put(document, found.data, report=report, key=key)


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
    """As `publish`, of the document that `make` assembles from `records`; each record with objections is withheld.

    Withheld records are in the quarantine. Raises like `publish` for objections to the run itself.
    """
    every = _all_taint(taint, run_directory)
    data = b""

    def find(document: Report) -> list[Objection]:
        nonlocal data
        found = examined(document, taint=every, derivation=derivation)
        data = found.data
        return found.objections

    publishable = withhold_records(records, make=make, find=find)  # what is published was the last that was examined
    against = [*publishable.blocked, *(each for found in publishable.withheld.values() for each in found)]
    if against:
        withheld = [{"against": list(map(str, found)), **records[place]} for place, found in publishable.withheld.items()]
        quarantine(publishable.whole, report=report, run_directory=run_directory, found=against, key=key, rows=withheld)
    if publishable.blocked:
        _refuse(publishable.blocked)
    return _put(publishable.document, data, report=report, key=key), publishable


def _put(document: Report, data: bytes, *, report: Path, key: Ed25519PrivateKey | None) -> PublishedFiles:
    if is_passed_through(report):
        put(report, data)
        return PublishedFiles(report=report, bundle=None)
    bundle, replaced = bundle_path(report), report.exists()
    report.parent.mkdir(parents=True, exist_ok=True)
    put(bundle, bundle_bytes(document, key=key, written=data))
    put(report, data)
    return PublishedFiles(report=report, bundle=bundle, replaced=replaced)


def _refuse(found: Sequence[Objection]) -> None:
    if hit := [each for each in found if each.rule is not None]:
        raise RedactionError(f"report not published: {counted(len(hit), 'forbidden value')}: {listed(hit)}. Values are withheld")
    raise ReportError(f"the report does not validate: {listed(found)}")


def quarantine(
    document: Report,
    *,
    report: Path,
    run_directory: Path,
    found: Sequence[Objection],
    key: Ed25519PrivateKey | None = None,
    rows: Sequence[Mapping[str, object]] = (),
) -> Path:
    """Write to the quarantine: the document, the path of its report, the objections, and `rows`, the withheld records.

    With the report's `key` the document can be published later (`publish.republish`).
    """
    folder = private_directory(private_directory(run_directory) / QUARANTINE)
    text = json.dumps(document, indent=2).encode()  # NaN included: it may be the objection
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
