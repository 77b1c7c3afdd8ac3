"""The rows of a report, typed: a measured row, an excluded one and a null row, and how a row's record travels to the report.

What older reports lack is `NotRequired`. An interval is `[low, high]`.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias, TypedDict

from pytest_glasshouse.observation.document import AdapterShape, CacheState, InterleavingPlan, Observation, WorkloadFacts

ListName = Literal["rows", "nullRows", "excludedResults"]
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


class LifecycleCount(TypedDict):
    """How many protected lifecycles were begun, and in how many of them everything held."""

    attempted: int
    held: int


class AttemptFields(TypedDict):
    """What one attempt at a row left."""

    outcome: str
    reason: NotRequired[str]
    overheadPct: NotRequired[float]
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


class AttemptEntry(AttemptFields):
    """One of several attempts at a row, numbered from 1. The row's record is that of the one that `stands`."""

    attempt: int
    stands: bool
    startedAt: str | None


class PeakMemory(TypedDict):
    """The largest memory a leg used, or why it is not known."""

    bytes: int | None
    reason: str | None


class RoundFigures(TypedDict):
    """The figures of one round."""

    round: int
    order: list[str]
    protectedUnits: int
    protectedElapsedSec: float
    protectedPerSec: float
    protectedSetupSec: float
    protectedWarmupSec: float
    protectedWarmupUnits: int
    protectedCpuSec: float
    protectedAdapterSha256: str
    protectedFinalLoss: float
    protectedStopReason: str
    rawUnits: int
    rawElapsedSec: float
    rawPerSec: float
    rawSetupSec: float
    rawWarmupSec: float
    rawWarmupUnits: int
    rawCpuSec: float
    rawAdapterSha256: str
    rawFinalLoss: float
    rawStopReason: str
    zeroizeSec: float | None
    overheadPct: float


class OutlierPairs(TypedDict):
    """How many pairs have an outlier in either leg."""

    protected: int
    raw: int
    p: float | None


class NullFigures(TypedDict):
    """A comparison of raw with raw inside a measured row."""

    kind: Literal["split halves", "second raw leg"]
    pct: float
    ci90Pct: list[float] | None
    roundLogRatios: list[float]


class EffectFigures(TypedDict):
    """The effect of order or position."""

    pct: float
    ci95Pct: list[float] | None


class SteadinessFigures(TypedDict):
    """Whether a leg's rate was steady."""

    leg: Literal["protected", "raw"]
    state: Literal["steady", "warming up", "slowing down", "no steady state", "too short to say"]
    driftPct: float | None


class EstimateFigures(TypedDict):
    """The estimates of an interleaved row."""

    trimmedPct: float
    trimmedCi95Pct: list[float] | None
    trimmedCi90Pct: list[float] | None
    agree: bool | None
    outlierPairs: OutlierPairs
    nulls: list[NullFigures]
    minimumDetectablePct: float | None
    betweenRoundsPct: float | None
    withinRoundsPct: float | None
    processStartPct: float | None
    orderEffect: EffectFigures | None
    positionEffect: EffectFigures | None
    pairs: int
    effectivePairs: float
    autocorrelation: float | None
    commonAutocorrelation: float | None
    steadiness: list[SteadinessFigures]


class FixedCost(TypedDict):
    """What one phase of a leg takes, however long the job is."""

    leg: Literal["protected", "raw"]
    phase: str
    meanSec: float
    ci95Sec: list[float] | None


class JobCost(TypedDict):
    """The overhead of a whole job of so many hours."""

    hours: int
    pct: float
    ci95Pct: list[float] | None
    usd: float | None
    usdCi95: list[float] | None


class LimitFigures(TypedDict):
    """A row under the limit that its run was given."""

    limitPct: float
    judgement: Literal["within the limit", "over the limit", "inconclusive"]
    reason: str
    lower95Pct: float | None
    upper95Pct: float | None


class ExtensionFigures(TypedDict):
    """How far a row was extended after its first rounds."""

    halfWidthPct: float
    firstRounds: int
    firstCi95Pct: list[float] | None
    spreadPct: float
    wanted: int
    rounds: int


class SegmentFigures(TypedDict):
    """One timed segment of an interleaved row."""

    round: int
    pair: int
    leg: Literal["protected", "raw", "raw2"]
    position: int
    units: int
    elapsedSec: float
    cpuSec: NotRequired[float]
    washUnits: NotRequired[int]
    washSec: NotRequired[float]
    turnSec: NotRequired[float]
    turnCpuSec: NotRequired[float]
    othersCpuSec: NotRequired[float]


class Steady(TypedDict):
    """By leg, whether its warm-up ended because the rate had settled; null where it ended by the clock alone."""

    round: int
    protected: NotRequired[bool | None]
    raw: NotRequired[bool | None]
    raw2: NotRequired[bool | None]


class CovariateMeans(TypedDict):
    """The means of a leg's covariates over its turns."""

    samples: int
    smClockMhz: NotRequired[float | None]
    memoryClockMhz: NotRequired[float | None]
    temperatureC: NotRequired[float | None]
    powerMilliwatt: NotRequired[float | None]
    otherProcesses: NotRequired[float | None]
    loadMilli: NotRequired[float | None]
    busyMilli: NotRequired[float | None]
    stealMilli: NotRequired[float | None]


class CovariateFigures(TypedDict):
    """The covariates of one round."""

    round: int
    samples: int
    reasons: dict[str, str]
    legs: dict[str, CovariateMeans]


class DataOrderSeeds(TypedDict):
    """The seed of each leg's data order."""

    round: int
    protected: int
    raw: int


class WorkloadFactsRecord(TypedDict):
    """What each leg reported of what it trained."""

    round: int
    protected: WorkloadFacts | None
    raw: WorkloadFacts | None


class JournalRecord(TypedDict):
    """A round's journal: how many lines the observation has of it, and its head."""

    round: int
    lines: int
    headSha256: str | None


class RowFigures(TypedDict):
    """Everything computed from the rounds alone."""

    unit: str
    protectedUnits: int
    protectedElapsedSec: float
    protectedPerSec: float
    protectedSetupSec: float
    protectedWarmupSec: float
    protectedCpuSecPerUnit: float
    protectedPhasesSec: dict[str, float]
    protectedPeakMemory: PeakMemory
    rawUnits: int
    rawElapsedSec: float
    rawPerSec: float
    rawSetupSec: float
    rawWarmupSec: float
    rawCpuSecPerUnit: float
    rawPhasesSec: dict[str, float]
    rawPeakMemory: PeakMemory
    zeroizeSec: float | None
    scanSec: NotRequired[float]
    exposureByteSec: NotRequired[int]
    exposurePeakBytes: NotRequired[int]
    overheadPct: float
    protectedAdapterSha256: str
    rawAdapterSha256: str
    protectedFinalLoss: float
    rawFinalLoss: float
    stopReason: str
    roundFigures: list[RoundFigures]
    estimates: NotRequired[EstimateFigures]
    fixedCosts: NotRequired[list[FixedCost]]
    totalCost: NotRequired[list[JobCost]]
    priceUsdPerHour: NotRequired[float | None]


class JudgedFigures(TypedDict):
    """Interval, verdict and limit: what follows from the figures and the settings of the run."""

    roundsMeanPct: float
    overheadCi95Pct: list[float] | None
    overheadCi90Pct: list[float] | None
    nullQualifies: NotRequired[bool]
    method: str
    verdict: str
    verdictReason: str
    moreRounds: int | None
    interpretation: str
    limit: LimitFigures | None


class RowIdentity(TypedDict):
    """What every row has."""

    rowId: str
    name: str
    gpuUuid: str | None
    workload: str
    modelId: str | None
    adapter: NotRequired[AdapterShape]
    parameters: NotRequired[dict[str, str]]
    attempts: NotRequired[list[AttemptEntry]]
    rounds: int
    observation: Observation
    dryRun: bool
    simulated: bool
    seal: NotRequired[str]


class RowAsRun(RowIdentity):
    """What measured and excluded rows have: how the row was run, what was found, and whether it may be published."""

    asDeclared: bool
    overridden: list[str]
    declared: Work | None
    namedGpuModel: str | None
    order: str
    targetSec: NotRequired[float]
    stepBudget: NotRequired[int | None]
    fixedOrder: bool
    warmupSec: float
    findings: list[FindingRecord]
    waived: list[Waived]
    attestation: str
    runtimeState: str
    rawCallback: str
    sameAllocation: bool | None
    lifecycle: LifecycleCount
    publishable: bool
    unpublishableBecause: list[str]


class MeasuredRow(RowAsRun, RowFigures, JudgedFigures):
    """A row of `rows`."""

    provider: str
    providerInstanceId: str
    allocationName: str
    gpuModel: str
    extension: NotRequired[ExtensionFigures]
    marginPct: float
    seed: int | None
    treatment: list[str]
    standIn: bool
    cacheState: NotRequired[CacheState]
    covariates: NotRequired[list[CovariateFigures]]
    strictMemory: NotRequired[bool]
    dataOrderSeeds: list[DataOrderSeeds]
    workloadFacts: list[WorkloadFactsRecord]
    interleaving: NotRequired[InterleavingPlan]
    steady: NotRequired[list[Steady]]
    segments: list[SegmentFigures]
    journal: list[JournalRecord]


class ExcludedRow(RowAsRun):
    """A row of `excludedResults`: it has no rate and no overhead."""

    provider: str | None
    providerInstanceId: str | None
    allocationName: str | None
    gpuModel: str | None
    roundsCompleted: int
    outcome: ExcludedAs
    reason: str
    decision: str
    verdict: str


class NullDifference(TypedDict):
    """The difference of two raw legs."""

    unit: str
    firstUnits: int
    secondUnits: int
    firstElapsedSec: float
    secondElapsedSec: float
    differencePct: float
    differenceCi90Pct: list[float] | None
    differenceCi95Pct: NotRequired[list[float] | None]
    qualifies: bool


class NullRow(RowIdentity, NullDifference):
    """A row of `nullRows`: raw against raw."""

    provider: str
    providerInstanceId: str
    allocationName: str
    gpuModel: str
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


RowRecord: TypeAlias = MeasuredRow | ExcludedRow | NullRow


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


#: A record as it travels from the test to the report: the name of its list and the object that goes there.
Record: TypeAlias = MeasuredRecord | ExcludedRecord | NullRecord
