"""The figures of a row, typed: of its rounds, its estimates and costs, its limit, its extension, its turns and covariates.

What older reports lack is `NotRequired`. An interval is `[low, high]`.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from pytest_glasshouse.observation.trained import WorkloadFacts
from pytest_glasshouse.overhead.null import NullKind
from pytest_glasshouse.rows.interleaving import InterleavingPlan
from pytest_glasshouse.rows.leg_order import LegName, Role


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

    kind: NullKind
    pct: float
    ci90Pct: list[float] | None
    roundLogRatios: list[float]


class EffectFigures(TypedDict):
    """The effect of order or position."""

    pct: float
    ci95Pct: list[float] | None


class SteadinessFigures(TypedDict):
    """Whether a leg's rate was steady."""

    leg: LegName
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

    leg: LegName
    phase: str
    meanSec: float
    ci95Sec: list[float] | None


class JobCostRecord(TypedDict):
    """The overhead of a whole job of so many hours."""

    hours: int
    pct: float
    ci95Pct: list[float] | None
    usd: float | None
    usdCi95: list[float] | None


class LimitFigures(TypedDict):
    """A row under the limit that its run was given."""

    limitPct: float
    judgement: str
    reason: str
    lower95Pct: float | None
    upper95Pct: float | None


class WorstRound(TypedDict):
    """The round with the largest overhead, and how many of all are more than the margin above their median."""

    round: int
    overheadPct: float
    slow: int
    rounds: int


class AllocationNullFigures(TypedDict):
    """Raw against raw between processes, over so many rounds of the row's allocation."""

    rounds: int
    pct: float
    ci90Pct: list[float] | None


class SegmentFigures(TypedDict):
    """One timed segment of an interleaved row."""

    round: int
    pair: int
    leg: Role
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


class EstimatesRecord(TypedDict, total=False):
    """The estimates, where every round is interleaved."""

    estimates: EstimateFigures


class CostFigures(TypedDict, total=False):
    """Fixed costs, and what whole jobs cost with them; older reports have none."""

    fixedCosts: list[FixedCost]
    totalCost: list[JobCostRecord]
    priceUsdPerHour: float | None


class UntimedFigures(TypedDict, total=False):
    """Figures outside the legs' time: the memory scan, and the plaintext's exposure."""

    scanSec: float
    exposureByteSec: int
    exposurePeakBytes: int


class CovariatesRecord(TypedDict, total=False):
    """The covariates, where any were sampled."""

    covariates: list[CovariateFigures]


class DesignRecord(TypedDict, total=False):
    """The interleaving of an interleaved row's plan."""

    interleaving: InterleavingPlan


class SteadyRecord(TypedDict, total=False):
    """Whether each leg's warm-up had settled, in an interleaved row."""

    steady: list[Steady]


class TurnsRecord(DesignRecord, SteadyRecord):
    """What an interleaved row has beside its figures; `segments` is empty for other rows."""

    segments: list[SegmentFigures]


class RoundsRecord(TypedDict):
    """The figures of each round."""

    roundFigures: list[RoundFigures]


class LimitBasis(RoundsRecord):
    """What the judgement under a limit needs of a row."""

    verdict: str
    marginPct: float
    fixedOrder: bool


class RowFigures(RoundsRecord, UntimedFigures, EstimatesRecord, CostFigures):
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
    overheadPct: float
    protectedAdapterSha256: str
    rawAdapterSha256: str
    protectedFinalLoss: float
    rawFinalLoss: float
    stopReason: str


class SealedRound(TypedDict):
    """One round of a row whose base is sealed."""

    round: int
    protectedUnits: int
    protectedElapsedSec: float
    protectedPerSec: float
    protectedSetupSec: float
    protectedWarmupSec: float
    protectedWarmupUnits: int
    protectedCpuSec: float
    protectedPhasesSec: dict[str, float]
    protectedAdapterSha256: str
    protectedFinalLoss: float
    protectedStopReason: str
    zeroizeSec: float | None


class SealedFigures(UntimedFigures):
    """Everything computed from the rounds of a row whose base is sealed."""

    unit: str
    protectedUnits: int
    protectedElapsedSec: float
    protectedPerSec: float
    protectedPerSecCi95: list[float] | None
    method: str
    protectedSetupSec: float
    protectedWarmupSec: float
    protectedCpuSecPerUnit: float
    protectedPhasesSec: dict[str, float]
    protectedPeakMemory: PeakMemory
    zeroizeSec: float | None
    protectedAdapterSha256: str
    protectedFinalLoss: float
    stopReason: str
    protectedRounds: list[SealedRound]


class JudgedFigures(TypedDict):
    """Interval, verdict and limit: what follows from the figures and the settings of the run."""

    roundsMeanPct: float
    overheadCi95Pct: list[float] | None
    overheadCi90Pct: list[float] | None
    nullQualifies: NotRequired[bool]
    allocationNull: NotRequired[AllocationNullFigures]
    worstRound: NotRequired[WorstRound]
    method: str
    verdict: str
    verdictReason: str
    moreRounds: int | None
    interpretation: str
    limit: LimitFigures | None


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
    roundsMeanPct: NotRequired[float]
    roundLogRatios: NotRequired[list[float]]
    qualifies: bool
