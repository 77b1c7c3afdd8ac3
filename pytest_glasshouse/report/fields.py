"""A whole report, typed: what `assemble` writes and what the schema promises to a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from pytest_glasshouse.analysis.fields import ExcludedRow, LifecycleCount, ListName, MeasuredRow, NullRow, RowRecord, SealedRow
from pytest_glasshouse.tamper.result import TamperRecord
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.cleanup_status import CleanupStatus
from pytest_glasshouse.wire.run_plan import TallyRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LISTS: tuple[ListName, ...] = ("rows", "sealedRows", "excludedResults", "nullRows")


class GeneratedBy(TypedDict):
    """The program that made the report."""

    name: str
    version: str


class Subject(TypedDict):
    """What the run judges."""

    name: str
    version: str | None
    wheelSha256: str | None
    gitCommit: str | None
    dirty: bool | None


class Environment(TypedDict):
    """The host: interpreter, system and the versions of the packages that took part."""

    python: str
    implementation: str
    system: str
    release: str
    machine: str
    cpuCount: int | None
    packages: dict[str, str]


class Formulas(TypedDict):
    """How every figure is computed: the same in all reports of one version."""

    formula: str
    totals: str
    interval: str
    lifecycleBound: str
    minRounds: int
    invariantsRevision: NotRequired[int]


class Methodology(Formulas):
    """The formulas, and what the run was asked for."""

    order: str
    provider: str
    preset: str | None
    seed: int | None
    marginPct: float
    maxOverheadPct: float | None


class Claims(TypedDict):
    """What the report claims, what it does not, and what its own findings leave unseen."""

    claimed: list[str]
    notClaimed: list[str]
    notShown: list[str]


class LifecycleSummary(LifecycleCount):
    """All lifecycles, with the lower end of the share that held."""

    lower95: float | None


class OutstandingRelease(TypedDict):
    """A key that was released and whose exit evidence did not come back."""

    sub: str
    nonce: str
    manifestSha256: str
    releasedAt: int
    deadline: int


class Summary(TypedDict):
    """Counts over all rows."""

    selected: int
    measured: int
    excluded: int
    failed: int
    error: int
    lost: int
    infrastructure: int
    nullMeasured: NotRequired[int]
    nullQualifying: NotRequired[int]
    sealedMeasured: NotRequired[int]
    dryRun: int
    publishable: int
    measuredOnNamedGpu: int
    tamperPassed: int
    tamperAttempted: int
    lifecycle: LifecycleSummary
    outstandingReleases: list[OutstandingRelease]


class CleanupRecord(TypedDict):
    """The state of one allocation by the provider's listing, after the last row on it."""

    provider: str
    name: str
    providerInstanceId: str | None
    status: CleanupStatus
    reason: str


class CleanupSection(TypedDict):
    """The worst status, and every allocation's."""

    status: CleanupStatus
    allocations: list[CleanupRecord]


class FinishedRow(TypedDict):
    """A row that an attempt of the run finished."""

    rowId: str
    outcome: str


class RunAttempt(TypedDict):
    """One of several attempts of a run: the rows it kept, began and finished."""

    attempt: int
    startedAt: str
    kept: list[str]
    begun: list[str]
    finished: list[FinishedRow]


class ObservedKeys(TypedDict):
    """The public keys of the servers and owners that the observations name."""

    servers: list[str]
    owners: list[str]


class ReportKeys(ObservedKeys):
    """Those, and the report's own public key."""

    report: str


class RowLists(TypedDict):
    """The lists of rows. `sealedRows` is absent where there are none."""

    rows: list[MeasuredRow]
    sealedRows: NotRequired[list[SealedRow]]
    nullRows: list[NullRow]
    excludedResults: list[ExcludedRow]


def protected_rows(document: RowLists) -> list[MeasuredRow | SealedRow | ExcludedRow]:
    """The rows that have, or were to have, a protected leg."""
    return [*document["rows"], *document.get("sealedRows", ()), *document["excludedResults"]]


def every_row(document: RowLists) -> Iterator[tuple[str, ListName, RowRecord]]:
    """Path, list and record of every row."""
    for name in LISTS:
        rows: Sequence[RowRecord] = document.get(name, ())
        yield from ((f"$.{name}[{place}]", name, row) for place, row in enumerate(rows))


_Schema = TypedDict("_Schema", {"$schema": NotRequired[str]})


class Report(RowLists, _Schema):
    """The document. `seal` signs everything else in it."""

    schemaVersion: str
    runId: str
    createdAt: str
    generatedBy: GeneratedBy
    subject: Subject
    policySha256: str | None
    attestationRoot: Literal["software", "hardware"]
    environment: Environment
    methodology: Methodology
    claims: Claims
    tamper: list[TamperRecord]
    summary: Summary
    cleanup: CleanupSection
    attempts: NotRequired[list[RunAttempt]]
    tallies: NotRequired[list[TallyRecord]]
    keys: ReportKeys
    extra: dict[str, Json]
    seal: NotRequired[str]
