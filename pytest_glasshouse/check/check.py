"""Derives a report again from its own data; no stated value is taken on trust.

In this order: strict JSON; schema and types; redaction rules; every row's findings, figures and sentences, and whether it is the
row that was signed for; the summary; the seals; the bundle's other members; and last whose keys signed it. Each fault has a path.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.allocation_null import allocation_nulls
from pytest_glasshouse.check.authenticity import Trust, unproven_signatures
from pytest_glasshouse.check.legacy_results import NOT_VERIFIABLE, LegacyChecked, check_legacy, is_legacy
from pytest_glasshouse.check.recompute import Derivation, differences, null_faults, record_faults, sealed_faults
from pytest_glasshouse.check.witnessed import attempts_elsewhere, unwitnessed
from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.invariants.revisions import newest
from pytest_glasshouse.report import bundle as bundles
from pytest_glasshouse.report.attempts import attempt_faults, other_attempts
from pytest_glasshouse.report.attestation_root import attestation_root
from pytest_glasshouse.report.document import not_shown, observed_keys, policy_sha256, summary
from pytest_glasshouse.report.environment import generated_by
from pytest_glasshouse.report.fields import LISTS, every_row
from pytest_glasshouse.report.intoto import MEMBER, envelope_faults
from pytest_glasshouse.report.redaction import hits
from pytest_glasshouse.report.schema import MOST_FAULTS, schema_faults
from pytest_glasshouse.report.seal import verify_seal
from pytest_glasshouse.tamper.result import TamperResult
from pytest_glasshouse.wire.cleanup_status import worst_cleanup
from pytest_glasshouse.wire.tokens import public_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_glasshouse.analysis.fields import MeasuredRow, SealedRow
    from pytest_glasshouse.report.fields import Report


#: Most forbidden values that are looked for in a report.
_MOST_HITS = 100


class Level(StrEnum):
    """How much of a report is shown to be true; each level includes the one before."""

    NOTHING = "nothing"
    CONSISTENT = "consistent"
    AUTHENTIC = "authentic"
    WITNESSED = "witnessed"

    @property
    def height(self) -> int:
        """The place in this order."""
        return list(Level).index(self)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A part of the report that does not follow from the rest of it."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The result of a check. `missing` lists why the next levels are not reached.

    `legacy` is the result for files of the format from before there were reports, which reach no level.
    """

    faults: tuple[Fault, ...]
    level: Level
    missing: tuple[str, ...]
    rows: int
    excluded: int
    legacy: LegacyChecked | None = None

    @property
    def sound(self) -> bool:
        return not self.faults


def check_file(
    path: Path,
    *,
    trust: Trust = Trust(),  # noqa: B008
    derivation: Derivation | None = None,
    legacy: bool = False,
) -> Checked:
    """Check a report or a bundle. Raises `ReportError`, which names the file, when it cannot be read at all."""
    data = bundles.read_report(path)
    try:
        return check_bytes(data, trust=trust, derivation=derivation, legacy=legacy)
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error


def check_bytes(
    data: bytes,
    *,
    trust: Trust = Trust(),  # noqa: B008
    derivation: Derivation | None = None,
    legacy: bool = False,
) -> Checked:
    """Check a report's or a bundle's bytes, or with `legacy` results from before there were reports.

    The format is never guessed: a report without its identifying fields would pass as legacy results, which need no evidence.
    """
    files = {bundles.REPORT_MEMBER: data} if legacy else bundles.members_of(data)
    try:
        document = bundles.parse_report(files[bundles.REPORT_MEMBER])
    except IntegrityError as error:
        return _nothing(Fault(path="$", text=f"not strict JSON ({error})"))
    if legacy:
        return _legacy(check_legacy(document))
    faults = [
        Fault(path=path, text=text) for path, _, text in (each.partition(": ") for each in schema_faults(document, finite=True))
    ]
    if is_legacy(document):
        faults.append(Fault(path="$", text="results from before there were reports are checked with --published, and only so"))
    derivation = derivation or Derivation()
    if not faults:
        faults += [Fault(path=path, text=text) for path, text in derivation.malformed(document)]
    if faults:
        return _nothing(*faults, *islice(_changed_rows(document), MOST_FAULTS))
    return _judged(document, _faults(document, files, derivation), trust)


def faults_of(document: Report, data: bytes, *, derivation: Derivation | None = None) -> list[Fault]:
    """The faults of what `load_document` read from these bytes: they are not read again."""
    derivation = derivation or Derivation()
    malformed = [Fault(path=path, text=text) for path, text in derivation.malformed(document)]
    return malformed or _faults(document, bundles.members_of(data), derivation)


def _faults(document: Report, files: dict[str, bytes], derivation: Derivation) -> list[Fault]:
    forbidden = "a value that must not be published"
    faults = [Fault(path=hit.path, text=f"{forbidden} (rule {hit.rule})") for hit in hits(document, most=_MOST_HITS)]
    faults += document_faults(document, derivation)
    if len(files) > 1:
        faults += _member_faults(document, files)
    return faults


def load_document(data: bytes) -> Report:
    """A report's or bundle's document, which has the schema. Raises `ReportError`."""
    from pytest_glasshouse.report.schema import validate

    text = bundles.members_of(data)[bundles.REPORT_MEMBER]
    try:
        return validate(bundles.parse_report(text))
    except IntegrityError as error:
        raise ReportError(f"not strict JSON ({error})") from error


def read_document(path: Path, *, derivation: Derivation | None = None) -> tuple[bytes, Report]:
    """A file's bytes and its document: it has the schema, and its observations have their types.

    Raises `ReportError`, which names the file.
    """
    data = bundles.read_report(path)
    try:
        document = load_document(data)
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error
    for place, text in (derivation or Derivation()).malformed(document):
        raise ReportError(f"{path}: {place}: {text}")
    return data, document


def _nothing(*faults: Fault) -> Checked:
    return Checked(faults=faults, level=Level.NOTHING, missing=("it does not follow the schema",), rows=0, excluded=0)


def _legacy(found: LegacyChecked) -> Checked:
    return Checked(
        faults=tuple(Fault(path=path, text=text) for path, text in found.faults),
        level=Level.NOTHING,
        missing=NOT_VERIFIABLE,
        rows=found.recomputed,
        excluded=found.excluded,
        legacy=found,
    )


def document_faults(document: Report, derivation: Derivation) -> Iterator[Fault]:
    """What does not follow, in a document that has the schema and holds nothing that must not be published."""
    ours = document["generatedBy"]["version"] == generated_by()["version"]
    revision = document["methodology"].get("invariantsRevision", 1)
    if revision > newest():
        yield Fault(
            path="$.methodology.invariantsRevision",
            text=f"judged by revision {revision} of the invariants; this version knows {newest()}: check it with a newer one",
        )
        return
    derivation = replace(derivation, sentences=ours, revision=revision)
    seen: dict[str, str] = {}
    written: dict[str, list[bytes]] = {}
    nulls = allocation_nulls(document["nullRows"], document["rows"])
    for path, name, record in every_row(document):
        if record["rowId"] in seen:
            yield Fault(path=f"{path}.rowId", text=f"the same row is at {seen[record['rowId']]}")
        seen.setdefault(record["rowId"], path)
        if "differencePct" in record:
            faults = null_faults(record, derivation)
        elif "protectedRounds" in record:
            faults = sealed_faults(record, derivation)
        else:
            limit = document["methodology"]["maxOverheadPct"]
            null = None if record["allocationName"] is None else nulls.get(record["allocationName"])
            faults = record_faults(record, derivation, max_overhead_pct=limit, null=null)
        for below, text in (*faults, *attempt_faults(record)):
            yield Fault(path=f"{path}{below}", text=text)
        yield from _seal_faults(path, record, document["keys"]["report"], written=written.setdefault(name, []))
    yield from (Fault(path=path, text=text) for path, text in derivation.binding_faults(document))
    if derivation.devices is not None:
        yield from (Fault(path=path, text=text) for path, text in derivation.devices(document))
    yield from _whole_faults(document)
    rows: Counter[str] = Counter(name for _, name, _ in every_row(document))
    lists = {name: b"[" + b",".join(texts) + b"]" for name, texts in written.items() if len(texts) == rows[name]}
    yield from _seal_faults("$", document, document["keys"]["report"], lists=lists)


def _whole_faults(document: Report) -> Iterator[Fault]:
    impossible = [
        f"{path}.lifecycle"
        for path, _, record in every_row(document)
        if "lifecycle" in record
        and any(
            each["held"] > each["attempted"]
            for each in (record["lifecycle"], *(other["lifecycle"] for other in other_attempts(record)))
        )
    ]
    if impossible:
        yield from (Fault(path=path, text="more lifecycles held than were begun") for path in impossible)
        return
    expected = summary(document, document["tamper"], document["summary"]["outstandingReleases"])
    stated: Mapping[str, object] = document["summary"]
    for name, value in expected.items():
        if any(differences("", value, stated.get(name))):
            yield Fault(path=f"$.summary.{name}", text=f"the records give {value}")
    if document["policySha256"] != policy_sha256(document):
        yield Fault(path="$.policySha256", text="the rounds ran under another policy")
    if document["attestationRoot"] != (root := attestation_root(document)):
        yield Fault(path="$.attestationRoot", text=f"the rounds give {root}")
    if {**observed_keys(document), "report": document["keys"]["report"]} != document["keys"]:
        yield Fault(path="$.keys", text="does not list the keys of the observations")
    if document["claims"]["notShown"] != not_shown(document):
        yield Fault(path="$.claims.notShown", text="does not list what the findings leave unseen")
    for place, case in enumerate(document["tamper"]):
        passed = TamperResult.from_json(case).passed
        if case["passed"] is not passed:
            yield Fault(path=f"$.tamper[{place}].passed", text=f"the case's outcome gives {passed}")
    yield from _attempt_faults(document)
    yield from _cleanup_faults(document)


def _attempt_faults(document: Report) -> Iterator[Fault]:
    """A row's own attempts must agree with those of the run: how often it was begun, and how often measured."""
    attempts = document.get("attempts")
    if attempts is None:
        return
    measured = Counter(row["rowId"] for each in attempts for row in each["finished"] if row["outcome"] == "measured")
    begun = Counter(row_id for each in attempts for row_id in each["begun"])
    standing: list[tuple[str, MeasuredRow | SealedRow]] = [
        *((f"$.rows[{place}]", row) for place, row in enumerate(document["rows"])),
        *((f"$.sealedRows[{place}]", row) for place, row in enumerate(document.get("sealedRows", ()))),
    ]
    for path, row in standing:
        outcomes = [each["outcome"] for each in row.get("attempts", ())] or ["measured"]
        if not 1 <= measured[row["rowId"]] <= outcomes.count("measured"):
            yield Fault(path=f"{path}.rowId", text="the attempts do not say that it was measured once")
        if begun[row["rowId"]] > len(outcomes) and ("attempts" in row or row["publishable"]):
            yield Fault(path=f"{path}.attempts", text=f"the run began it {begun[row['rowId']]} times")
    if [each["attempt"] for each in attempts] != list(range(1, len(attempts) + 1)):
        yield Fault(path="$.attempts", text="an attempt is missing")


def _cleanup_faults(document: Report) -> Iterator[Fault]:
    statuses = {each["name"]: each["status"] for each in document["cleanup"]["allocations"]}
    if document["cleanup"]["status"] != (status := worst_cleanup(statuses.values())):
        yield Fault(path="$.cleanup.status", text=f"the allocations give {status}")
    for path, _, record in every_row(document):
        allocation = record["allocationName"]
        if allocation is None:
            continue
        if allocation not in statuses:
            yield Fault(path=f"{path}.allocationName", text="no cleanup is reported for this allocation")
        elif statuses[allocation] != "proven" and record.get("publishable"):
            yield Fault(path=f"{path}.publishable", text="the cleanup of its allocation is not proven")


def _seal_faults(
    path: str,
    body: Mapping[str, object],
    key: str,
    *,
    lists: Mapping[str, bytes] | None = None,
    written: list[bytes] | None = None,
) -> Iterator[Fault]:
    """The fault of a seal. `lists` as in `verify_seal`; the canonical form of what is sealed well is added to `written`."""
    try:
        text = verify_seal(body, key=public_key(key), lists=lists)
    except IntegrityError as error:
        yield Fault(path=f"{path}.seal", text=str(error))
    else:
        if written is not None:
            written.append(text)


def _changed_rows(document: object) -> Iterator[Fault]:
    """Rows whose own seal does not verify, in a document that fails the schema."""
    keys = document.get("keys") if isinstance(document, dict) else None
    key = keys.get("report") if isinstance(keys, dict) else None
    if not isinstance(document, dict) or not isinstance(key, str):
        return
    for name in LISTS:
        records = document.get(name)
        for place, record in enumerate(records if isinstance(records, list) else ()):
            if isinstance(record, dict):
                yield from _seal_faults(f"$.{name}[{place}]", record, key)


def _member_faults(document: Report, files: dict[str, bytes]) -> Iterator[Fault]:
    expected = bundles.members(document)
    for name in sorted(name for name in files if name.endswith(f"/{MEMBER}")):
        yield from (Fault(path=f"bundle/{name}", text=text) for text in envelope_faults(document, name, files[name]))
    files = {name: data for name, data in files.items() if not name.endswith(f"/{MEMBER}")}
    for name in sorted(expected.keys() | files.keys()):
        if name not in files:
            yield Fault(path=f"bundle/{name}", text="is missing")
        elif name not in expected:
            yield Fault(path="bundle", text="has a file that does not follow from the report")
        elif name != bundles.REPORT_MEMBER and files[name] != expected[name]:
            yield Fault(path=f"bundle/{name}", text="differs from the report's data")


def _judged(document: Report, faults: list[Fault], trust: Trust) -> Checked:
    level, missing = Level.NOTHING, ["it does not follow from its own data"]
    if not faults:
        unproven = list(unproven_signatures(document, trust))
        level, missing = (Level.CONSISTENT, unproven) if unproven else (Level.AUTHENTIC, [])
    if level is Level.AUTHENTIC:
        missing = list(islice(unwitnessed(document, trust), MOST_FAULTS))
        level = Level.AUTHENTIC if missing else Level.WITNESSED
        missing += attempts_elsewhere(document)
    revision = document["methodology"].get("invariantsRevision", 1)
    if revision < newest():
        missing.append(f"judged by revision {revision} of the invariants, as when it was written; revision {newest()} judges now")
    missing += [f"not shown: {each}" for each in document["claims"]["notShown"]]
    return Checked(
        faults=tuple(faults),
        level=level,
        missing=tuple(missing),
        rows=len(document["rows"]) + len(document.get("sealedRows", ())),
        excluded=len(document["excludedResults"]),
    )
