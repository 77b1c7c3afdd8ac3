"""Re-derives a report from its own data. Nothing in a report is believed because it is written there.

The order: can it be read; its schema; the redaction rules; every row's findings, figures and words, and whether it is
the row that was signed for; the summary; the seals; the bundle's other files; and last whose keys signed it. Each fault
names its path.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.check.authenticity import Trust, unproven_signatures, witnessed
from pytest_glasshouse.check.legacy_results import NOT_VERIFIABLE, PublishedFound, check_published, is_published
from pytest_glasshouse.check.recompute import Derivation, differences, null_faults, record_faults
from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.invariants.revisions import newest
from pytest_glasshouse.report import bundle as bundles
from pytest_glasshouse.report.attempts import attempt_faults, other_attempts
from pytest_glasshouse.report.document import not_shown, observed_keys, policy_sha256, summary, tamper_passed
from pytest_glasshouse.report.environment import generated_by
from pytest_glasshouse.report.intoto import MEMBER, envelope_faults
from pytest_glasshouse.report.redaction import first_hits as hits
from pytest_glasshouse.report.schema import MOST_FAULTS, schema_faults
from pytest_glasshouse.report.seal import verify_seal
from pytest_glasshouse.wire.tokens import public_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Level(StrEnum):
    """How far a report's word goes; each contains the one before."""

    NOTHING = "nothing"
    CONSISTENT = "consistent"
    AUTHENTIC = "authentic"
    WITNESSED = "witnessed"

    @property
    def height(self) -> int:
        return list(Level).index(self)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something in the report that does not follow from the rest of it."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What checking found. `missing` says what stands between this level and the next ones.

    `published` is what was found in results of the shape from before there were reports, which reach no level.
    """

    faults: tuple[Fault, ...]
    level: Level
    missing: tuple[str, ...]
    rows: int
    excluded: int
    published: PublishedFound | None = None

    @property
    def sound(self) -> bool:
        return not self.faults


def check_file(
    path: Path,
    *,
    trust: Trust = Trust(),  # noqa: B008
    derivation: Derivation | None = None,
    published: bool = False,
) -> Checked:
    """Check a report or a bundle. Raises `ReportError`, which names the file, only when there is nothing to check."""
    data = bundles.read_report(path)
    try:
        return check_bytes(data, trust=trust, derivation=derivation, published=published)
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error


def check_bytes(
    data: bytes,
    *,
    trust: Trust = Trust(),  # noqa: B008
    derivation: Derivation | None = None,
    published: bool = False,
) -> Checked:
    """Check a report's or a bundle's bytes; where the reader says so (`published`), results from before there were reports.

    Never guessed: a report that lost the fields it is known by would pass for such results, of which nothing is shown.
    """
    files = {bundles.REPORT_MEMBER: data} if published else bundles.files_of(data)
    try:
        document = bundles.parsed(files[bundles.REPORT_MEMBER])
    except IntegrityError as error:
        return _nothing(Fault(path="$", text=f"not strict JSON ({error})"))
    if published:
        return _published(check_published(document))
    faults = [Fault(path=path, text=text) for path, _, text in (each.partition(": ") for each in schema_faults(document))]
    if is_published(document):
        faults.append(Fault(path="$", text="results from before there were reports are checked with --published, and only so"))
    if faults or not isinstance(document, dict):
        return _nothing(*faults, *islice(_changed_rows(document), MOST_FAULTS))
    faults += _document_faults(document, derivation or Derivation())
    if len(files) > 1:
        faults += _member_faults(document, files)
    return _judged(document, faults, trust)


def load_document(data: bytes) -> dict[str, Any]:
    """A report's or bundle's document, validated and nothing more. Raises `ReportError`."""
    from pytest_glasshouse.report.schema import validate

    text = bundles.files_of(data)[bundles.REPORT_MEMBER]
    try:
        return validate(bundles.parsed(text))
    except IntegrityError as error:
        raise ReportError(f"not strict JSON ({error})") from error


def read_document(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A file's bytes and its document, validated and nothing more. Raises `ReportError`, which names the file."""
    data = bundles.read_report(path)
    try:
        return data, load_document(data)
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error


def _nothing(*faults: Fault) -> Checked:
    return Checked(faults=faults, level=Level.NOTHING, missing=("it does not follow the schema",), rows=0, excluded=0)


def _published(found: PublishedFound) -> Checked:
    return Checked(
        faults=tuple(Fault(path=path, text=text) for path, text in found.faults),
        level=Level.NOTHING,
        missing=NOT_VERIFIABLE,
        rows=found.recomputed,
        excluded=found.excluded,
        published=found,
    )


def _document_faults(document: dict[str, Any], derivation: Derivation) -> Iterator[Fault]:
    ours = document["generatedBy"]["version"] == generated_by()["version"]
    revision = document["methodology"].get("invariantsRevision", 1)
    if revision > newest():
        yield Fault(
            path="$.methodology.invariantsRevision",
            text=f"judged by revision {revision} of the invariants; this version knows {newest()}: check it with a newer one",
        )
        return
    derivation = replace(derivation, words=ours, revision=revision)
    for hit in hits(document):
        yield Fault(path=hit.path, text=f"a value that must not be published (rule {hit.rule})")
    seen: dict[str, str] = {}
    for name in ("rows", "excludedResults", "nullRows"):
        for place, record in enumerate(document[name]):
            path = f"$.{name}[{place}]"
            if record["rowId"] in seen:
                yield Fault(path=f"{path}.rowId", text=f"the same row is at {seen[record['rowId']]}")
            seen.setdefault(record["rowId"], path)
            if name == "nullRows":
                faults = null_faults(record, derivation)
            else:
                faults = record_faults(name, record, document["methodology"], derivation)
            for below, text in (*faults, *attempt_faults(name, record)):
                yield Fault(path=f"{path}{below}", text=text)
            yield from _seal_faults(path, record, document)
    yield from (Fault(path=path, text=text) for path, text in derivation.bound(document))
    yield from _whole_faults(document)
    yield from _seal_faults("$", document, document)


def _whole_faults(document: dict[str, Any]) -> Iterator[Fault]:
    lists = {name: document[name] for name in ("rows", "excludedResults", "nullRows")}
    impossible = [
        f"$.{name}[{place}].lifecycle"
        for name in ("rows", "excludedResults")
        for place, record in enumerate(lists[name])
        if any(told["lifecycle"]["held"] > told["lifecycle"]["attempted"] for told in (record, *other_attempts(record)))
    ]
    if impossible:
        yield from (Fault(path=path, text="more held than were begun") for path in impossible)
        return
    expected = summary(lists, document["tamper"], document["summary"]["outstandingReleases"])
    for name, value in expected.items():
        if any(differences("", value, document["summary"].get(name))):
            yield Fault(path=f"$.summary.{name}", text=f"the records give {value}")
    if document["policySha256"] != policy_sha256(lists):
        yield Fault(path="$.policySha256", text="the rounds ran under another policy")
    if {**observed_keys(lists), "report": document["keys"]["report"]} != document["keys"]:
        yield Fault(path="$.keys", text="does not list the keys of the observations")
    if document["claims"]["notShown"] != not_shown(lists):
        yield Fault(path="$.claims.notShown", text="does not list what the findings leave unseen")
    for place, case in enumerate(document["tamper"]):
        passed = tamper_passed(case)
        if case["passed"] is not passed:
            yield Fault(path=f"$.tamper[{place}].passed", text=f"what the case met gives {passed}")
    yield from _attempt_faults(document)
    yield from _cleanup_faults(document)


def _attempt_faults(document: dict[str, Any]) -> Iterator[Fault]:
    """A measured row was measured as often as it tells, and begun so often, whatever number of attempts its run had."""
    attempts = document.get("attempts")
    if attempts is None:
        return
    measured = Counter(told["rowId"] for each in attempts for told in each["finished"] if told["outcome"] == "measured")
    begun = Counter(row_id for each in attempts for row_id in each["begun"])
    for place, row in enumerate(document["rows"]):
        told = [each["outcome"] for each in row.get("attempts", ())] or ["measured"]
        if not 1 <= measured[row["rowId"]] <= told.count("measured"):
            yield Fault(path=f"$.rows[{place}].rowId", text="the attempts do not say that it was measured once")
        if begun[row["rowId"]] > len(told) and ("attempts" in row or row["publishable"]):
            yield Fault(path=f"$.rows[{place}].attempts", text=f"the run began it {begun[row['rowId']]} times")
    if [each["attempt"] for each in attempts] != list(range(1, len(attempts) + 1)):
        yield Fault(path="$.attempts", text="an attempt is missing")


def _cleanup_faults(document: dict[str, Any]) -> Iterator[Fault]:
    statuses = {each["name"]: each["status"] for each in document["cleanup"]["allocations"]}
    worst = next((word for word in ("leak", "unproven") if word in statuses.values()), "proven")
    if document["cleanup"]["status"] != worst:
        yield Fault(path="$.cleanup.status", text=f"the allocations give {worst}")
    for name in ("rows", "excludedResults", "nullRows"):
        for place, record in enumerate(document[name]):
            allocation = record["allocationName"]
            if allocation is None:
                continue
            if allocation not in statuses:
                yield Fault(path=f"$.{name}[{place}].allocationName", text="no cleanup is reported for this allocation")
            elif statuses[allocation] != "proven" and record.get("publishable"):
                yield Fault(path=f"$.{name}[{place}].publishable", text="the cleanup of its allocation is not proven")


def _seal_faults(path: str, body: dict[str, Any], document: dict[str, Any]) -> Iterator[Fault]:
    try:
        verify_seal(body, key=public_key(document["keys"]["report"]))
    except IntegrityError as error:
        yield Fault(path=f"{path}.seal", text=str(error))


def _changed_rows(document: Any) -> Iterator[Fault]:
    """The rows of a document that does not follow the schema whose own seals say that they were changed."""
    key = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(key, dict) or not isinstance(key.get("report"), str):
        return
    for name in ("rows", "excludedResults", "nullRows"):
        records = document.get(name)
        for place, record in enumerate(records if isinstance(records, list) else ()):
            if isinstance(record, dict):
                yield from _seal_faults(f"$.{name}[{place}]", record, document)


def _member_faults(document: dict[str, Any], files: dict[str, bytes]) -> Iterator[Fault]:
    expected = bundles.members(document)
    for name in sorted(name for name in files if name.endswith(f"/{MEMBER}")):
        yield from (Fault(path=f"bundle/{name}", text=text) for text in envelope_faults(document, name, files[name]))
    files = {name: data for name, data in files.items() if not name.endswith(f"/{MEMBER}")}
    for name in sorted(expected.keys() | files.keys()):
        if name not in files:
            yield Fault(path=f"bundle/{name}", text="is missing")
        elif name not in expected:
            yield Fault(path="bundle", text="holds a file that the report does not give")
        elif name != bundles.REPORT_MEMBER and files[name] != expected[name]:
            yield Fault(path=f"bundle/{name}", text="differs from what the report holds")


def _judged(document: dict[str, Any], faults: list[Fault], trust: Trust) -> Checked:
    level, missing = Level.NOTHING, ["it does not follow from its own data"]
    if not faults:
        unproven = list(unproven_signatures(document, trust))
        level, missing = (Level.CONSISTENT, unproven) if unproven else (Level.AUTHENTIC, [])
    if level is Level.AUTHENTIC:
        if witnessed(document, trust):
            level = Level.WITNESSED
        else:
            missing = ["no receipt is by a server that --trust names as a witness"]
            if document["nullRows"]:
                missing.append("a null row is witnessed where such a server affirmed its agent's evidence for a measured row")
    revision = document["methodology"].get("invariantsRevision", 1)
    if revision < newest():
        missing.append(f"judged by revision {revision} of the invariants, as when it was written; revision {newest()} judges now")
    missing += [f"not shown: {each}" for each in document["claims"]["notShown"]]
    return Checked(
        faults=tuple(faults),
        level=level,
        missing=tuple(missing),
        rows=len(document["rows"]),
        excluded=len(document["excludedResults"]),
    )
