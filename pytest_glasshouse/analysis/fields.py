"""The rows of a report, typed: measured, sealed, excluded and null, and how a row's record travels to the report.

What older reports lack is `NotRequired`. An interval is `[low, high]`.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias, TypedDict, final

from pytest_glasshouse.analysis.figure_fields import (
    CovariateFigures,
    CovariatesRecord,
    DataOrderSeeds,
    JudgedFigures,
    NullDifference,
    RowFigures,
    SealedFigures,
    SegmentFigures,
    Steady,
    TurnsRecord,
    WorkloadFactsRecord,
)
from pytest_glasshouse.analysis.round_fields import CutRecord, ExtensionRecord, SequentialRecord
from pytest_glasshouse.observation.document import Observation
from pytest_glasshouse.observation.reading import CacheRecord, JournalRecord, StrictMemoryRecord
from pytest_glasshouse.rows.interleaving import InterleavingPlan
from pytest_glasshouse.rows.spec import AdapterRecord

ListName = Literal["rows", "sealedRows", "nullRows", "excludedResults"]
ExcludedAs = Literal["excluded", "failed", "error", "lost", "infrastructure"]


class FindingRecord(TypedDict):
    """One invariant's finding."""

    invariant: str
    finding: Literal["held", "broken", "unseen"]
    reason: str
    evidence: str
    expected: str
    seen: str
    todo: str


class NotHeld(TypedDict):
    """A finding of another attempt that was not held."""

    invariant: str
    finding: Literal["held", "broken", "unseen"]
    reason: str


class Waived(TypedDict):
    """An invariant this run did not require, and why."""

    invariant: str
    reason: str


class Work(TypedDict):
    """What `asDeclared` compares: order, rounds and target."""

    order: str
    rounds: int
    targetSec: NotRequired[float]
    stepBudget: NotRequired[int | None]


class AllocationFields(TypedDict):
    """The allocation a row ran on."""

    provider: str
    providerInstanceId: str
    allocationName: str
    gpuModel: str
    gpuUuid: str | None


class OptionalAllocationFields(TypedDict):
    """The allocation a row ran on; null where it never had one."""

    provider: str | None
    providerInstanceId: str | None
    allocationName: str | None
    gpuModel: str | None
    gpuUuid: str | None


class LifecycleCount(TypedDict):
    """How many protected lifecycles were begun, and in how many of them everything held."""

    attempted: int
    held: int


class AttemptFields(TypedDict):
    """What one attempt at a row left."""

    outcome: str
    reason: NotRequired[str]
    overheadPct: NotRequired[float]
    roundsMeanPct: NotRequired[float]
    overheadCi95Pct: NotRequired[list[float] | None]
    differencePct: NotRequired[float]
    verdict: NotRequired[str]
    notHeld: list[NotHeld]
    provider: str | None
    providerInstanceId: str | None
    allocationName: str | None
    lifecycle: LifecycleCount
    serverAttempt: int | None
    observationSha256: str | None


class StartedAttempt(AttemptFields):
    """One of a row's `attempts`, without its number and whether it stands."""

    startedAt: str | None


class AttemptEntry(StartedAttempt):
    """One of several attempts at a row, numbered from 1. The row's record is that of the one that `stands`."""

    attempt: int
    stands: bool


class ParametersRecord(TypedDict, total=False):
    """The other parameters of the row's test, where it has any."""

    parameters: dict[str, str]


class BaseRecord(TypedDict, total=False):
    """How the base model is protected, where the package holds it."""

    base: Literal["sealed"]


class GpusRecord(TypedDict, total=False):
    """How many GPUs a leg had, and over how many nodes they were spread, where that is more than one."""

    gpus: int
    nodes: int


class Scaling(TypedDict):
    """Units per second for each GPU, and seconds in collectives for each rank; null where they were not observed."""

    gpus: int
    protectedPerSecPerGpu: float
    rawPerSecPerGpu: float
    protectedCollectiveSec: list[float | None]
    rawCollectiveSec: list[float | None]


class ScalingRecord(TypedDict, total=False):
    """The scaling figures of a row on several GPUs."""

    scaling: Scaling


class AddedLater(TypedDict, total=False):
    """What a record gets on its way to the report: the attempts at the row, where there were several, and its seal."""

    attempts: list[AttemptEntry]
    seal: str


class RowIdentity(AdapterRecord, BaseRecord, ParametersRecord):
    """What identifies every row."""

    rowId: str
    name: str
    workload: str
    modelId: str | None
    rounds: int


class RowCommon(RowIdentity, AddedLater):
    """What every row has."""

    observation: Observation
    dryRun: bool
    simulated: bool


class RowAsRun(RowIdentity, GpusRecord):
    """How a row was run, and whether that is how its test declares it."""

    asDeclared: bool
    overridden: list[str]
    declared: Work | None
    namedGpuModel: str | None
    order: str
    targetSec: NotRequired[float]
    stepBudget: NotRequired[int | None]
    fixedOrder: bool
    warmupSec: float


class FindingStates(TypedDict):
    """States that follow from four of a row's findings."""

    attestation: str
    runtimeState: str
    rawCallback: str
    sameAllocation: bool | None


class RowFound(RowAsRun, RowCommon):
    """What rows with a protected leg have: what was found, and whether it may be published."""

    findings: list[FindingRecord]
    waived: list[Waived]
    lifecycle: LifecycleCount
    publishable: bool
    unpublishableBecause: list[str]


class RowJudged(RowFound, FindingStates):
    """What measured and excluded rows have."""


@final
class MeasuredRow(
    RowJudged,
    AllocationFields,
    RowFigures,
    JudgedFigures,
    ExtensionRecord,
    CutRecord,
    SequentialRecord,
    CacheRecord,
    CovariatesRecord,
    StrictMemoryRecord,
    TurnsRecord,
    ScalingRecord,
):
    """A row of `rows`."""

    marginPct: float
    seed: int | None
    treatment: list[str]
    standIn: bool
    dataOrderSeeds: list[DataOrderSeeds]
    workloadFacts: list[WorkloadFactsRecord]
    journal: list[JournalRecord]


class Exclusion(TypedDict):
    """Why a row was not measured, and what was decided about it."""

    outcome: ExcludedAs
    reason: str
    decision: str


@final
class ExcludedRow(RowJudged, OptionalAllocationFields, Exclusion):
    """A row of `excludedResults`: it has no rate and no overhead."""

    roundsCompleted: int
    verdict: str


@final
class NullRow(RowCommon, AllocationFields, NullDifference, CutRecord, GpusRecord):
    """A row of `nullRows`: raw against raw."""

    marginPct: float
    namedGpuModel: NotRequired[str | None]
    order: NotRequired[str]
    warmupSec: NotRequired[float]
    seed: NotRequired[int | None]
    interleaving: NotRequired[InterleavingPlan]
    steady: NotRequired[list[Steady]]
    segments: NotRequired[list[SegmentFigures]]
    findings: NotRequired[list[FindingRecord]]
    covariates: NotRequired[list[CovariateFigures]]
    asDeclared: NotRequired[bool]
    overridden: NotRequired[list[str]]
    declared: NotRequired[Work | None]
    fixedOrder: NotRequired[bool]
    targetSec: NotRequired[float]
    stepBudget: NotRequired[int | None]


@final
class SealedRow(RowFound, AllocationFields, SealedFigures, CacheRecord, StrictMemoryRecord):
    """A row of `sealedRows`: a confidential package, so a protected leg only, and no overhead."""

    confidential: Literal[True]
    attestation: str
    runtimeState: str
    sameAllocation: bool | None
    seed: int | None
    treatment: list[str]
    standIn: bool
    journal: list[JournalRecord]


RowRecord: TypeAlias = MeasuredRow | SealedRow | ExcludedRow | NullRow


class MeasuredRecord(TypedDict):
    """The record of a measured row on its way to the report."""

    list: Literal["rows"]
    record: MeasuredRow


class ExcludedRecord(TypedDict):
    """The record of an excluded row on its way to the report."""

    list: Literal["excludedResults"]
    record: ExcludedRow


class NullRecord(TypedDict):
    """The record of a null row on its way to the report."""

    list: Literal["nullRows"]
    record: NullRow


class SealedRecord(TypedDict):
    """The record of a row whose base is sealed, on its way to the report."""

    list: Literal["sealedRows"]
    record: SealedRow


#: A record as it travels from the test to the report: the name of its list and the object that goes there.
Record: TypeAlias = MeasuredRecord | SealedRecord | ExcludedRecord | NullRecord
