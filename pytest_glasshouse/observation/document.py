"""The observation of a row: everything that was seen while it ran, as the report holds it.

An observation is plain JSON and is never changed: findings carry digests of its parts, and whoever has the report computes them
again. `check_observation` checks the types where a report is read; readers rely on them. A leg's notes grow while it runs, so
any of them may be missing. Times are nanoseconds of the guest's monotonic clock unless a name says otherwise.
"""

# Annotations are evaluated here: `NotRequired` counts only then.
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

from pytest_glasshouse.observation.trained import Callback, Started
from pytest_glasshouse.rows.interleaving import InterleavingPlan
from pytest_glasshouse.rows.leg_order import Role
from pytest_glasshouse.rows.spec import AdapterRecord, WorkloadName
from pytest_glasshouse.wire.host_messages import SegmentPlanRecord
from pytest_glasshouse.wire.typed import check_typed

#: Plain facts that are published and compared, and not computed with.
Facts: TypeAlias = dict[str, Any]


class AllocationSeen(TypedDict):
    """The allocation the row ran on. `referenceSource` says where the expected code digests came from.

    `otherGpuProcesses` used the GPU when it was made, with that much of its memory; absent where there were none.
    """

    provider: str
    name: str
    providerInstanceId: str
    gpuModel: str
    gpuUuid: str | None
    archiveSha256: str
    referenceSource: str
    priceUsdPerHour: NotRequired[str | float | None]
    otherGpuProcesses: NotRequired[int]
    otherGpuMemoryMib: NotRequired[int]


class Keys(TypedDict):
    """The public keys everything in the observation is verified with."""

    server: str
    owner: str
    attestationServer: Literal["embedded", "outside"]


class SamplingPlan(TypedDict):
    """How the rounds of a row are chosen, drawn and estimated; older plans have none and are judged as they were.

    `rowSec` is the time that the first round cuts into rounds and pairs. `looks` are the rounds after which
    the row is judged under `limitPct` and may end, with error spent by `spending` as the exponent of their share of the last.
    """

    version: Literal["2"]
    rowSec: NotRequired[str]
    looks: NotRequired[list[int]]
    spending: NotRequired[str]
    limitPct: NotRequired[str]


class Plan(AdapterRecord):
    """What was about to be run; its digest was given to the attestation server before a key was asked for.

    `selectedRowId` is the row's id in the plan of the run, where the row had to be changed: its legs did not fit on the device.
    """

    attemptId: NotRequired[str]
    rowId: str
    selectedRowId: NotRequired[str]
    provider: str
    dryRun: bool
    simulated: bool
    workload: str
    modelId: str | None
    namedGpuModel: str | None
    order: str
    rounds: int
    fixedOrder: bool
    seed: int
    marginPct: str
    targetSec: str | None
    stepBudget: int | None
    warmupSec: str
    strictMemory: NotRequired[bool]
    invariantsRevision: NotRequired[int]
    halfWidthPct: NotRequired[str]
    maxRounds: NotRequired[int]
    sampling: NotRequired[SamplingPlan]
    parameters: NotRequired[list[list[str]]]
    base: NotRequired[Literal["sealed"]]
    gpus: NotRequired[int]
    nodes: NotRequired[int]
    interleaving: NotRequired[InterleavingPlan]
    null: NotRequired[bool]
    subject: Facts


class MaterialSeen(TypedDict):
    """What was trained on. `facts` are the workload's own."""

    workload: WorkloadName
    standIn: bool
    initialSha256: str
    modelId: str | None
    baseSha256: str | None
    facts: Facts


class ModelArrival(TypedDict):
    """How the base model reached the guest: from where, its files and bytes, and the milliseconds until it was verified.

    `held` is where both legs load it from: sealed memory files of the agent, or files.
    """

    source: Literal["there", "hub", "pushed", "made"]
    held: Literal["memory", "files"]
    files: int
    bytes: int
    ms: int


class Greeting(TypedDict):
    """What a guest reports of itself."""

    allocation: str
    bootId: str
    agentNonce: str
    ak: str
    archiveSha256: str
    gpuModel: str
    gpuUuid: str | None
    driver: str | None
    torch: str | None
    python: str


class GuestSeen(Greeting):
    """The guest right before a leg, and which instances the provider listed then. `vouched` signs for the key of its agent."""

    leg: Role
    listed: list[str]
    vouched: NotRequired[str]


class Challenge(TypedDict):
    """The server's challenge to one session."""

    nonce: str
    issued_at: int
    expires_in: NotRequired[int]
    policy: NotRequired[str]


class TrainingPlanRecord(TypedDict):
    """What the leg was to train. `base_directory` is whether there is a base model, not where."""

    workload: str
    device: str
    warmup_ns: int
    target_ns: int | None
    steps: int | None
    order_seed: int
    base_directory: bool
    segments: NotRequired[SegmentPlanRecord | None]


class LoadedCode(TypedDict):
    """Digests of the code a leg had loaded."""

    images: str
    system: str
    hooks: str
    foreign: str
    bytecode: str


class CacheState(TypedDict):
    """What was done to the page cache before a leg."""

    state: Literal["pre-read"]
    files: int
    bytes: int


class Spawned(TypedDict):
    """The agent's event when it has started a leg."""

    kind: str
    cache: CacheState


class Exit(TypedDict):
    """The agent's last event about a leg: its signed exit."""

    exit: str
    exit_status: int


class Stretches(TypedDict):
    """The agent's event about a leg's timed stretches, which it signs."""

    stretches: str


class Head(TypedDict):
    """A leg's event: the head of its journal, signed."""

    head: str


class TurnBegun(TypedDict):
    """The agent's event when it gives a turn: which of how many, and to which leg."""

    turn: int
    turns: int
    leg: Role


class Failure(TypedDict):
    """Why a leg failed."""

    reason: str
    detail: str


class Refusal(TypedDict):
    """Why the attestation server refused."""

    reason: str


class HostTimes(TypedDict, total=False):
    """The host's clock from the round's beginning: before the leg was started, and when its signed exit had arrived."""

    startNs: int
    exitNs: int


class LegNotes(TypedDict, total=False):
    """What every leg leaves. `exit` is the agent's signed exit, `stretches` what it signed of the leg's timed stretches.

    `adapterFigures` is what the owner found out about the adapter (`workloads.adapter_figures`). Of a leg of several ranks this
    is the first one, and `ranks` are the others.
    """

    trainingPlan: TrainingPlanRecord
    timeline: dict[str, int]
    host: HostTimes
    images: LoadedCode | None
    cache: CacheState | None
    failed: Failure | None
    exit: str
    stretches: str
    adapterSha256: str | None
    adapterFigures: dict[str, str]
    ranks: "list[RankNotes]"


class RankNotes(TypedDict, total=False):
    """A rank of a leg other than the first, whose notes are the leg's: what its agent and itself signed, as for a leg.

    A protected leg's has a journal and a head, a raw leg's `started` and `callback`.
    """

    rank: int
    timeline: dict[str, int]
    images: LoadedCode | None
    failed: Failure | None
    exit: str
    stretches: str
    journal: list[str]
    head: str
    started: Started | None
    callback: Callback | None


class ProtectedNotes(LegNotes, total=False):
    """A protected leg: tokens of owner, agent, leg and server, and its journal's lines as they were written."""

    manifest: str
    policy: Facts
    policySha256: str
    plan: str
    grant: str
    ak: str
    proof: str
    challenge: Challenge
    evidence: str
    releaseLog: list[str]
    devices: dict[str, Facts]
    result: str
    journal: list[str]
    head: str
    receipt: str
    refusal: Refusal
    completeRefusal: Refusal
    sealedAdapterSha256: str
    terminated: str


class RawNotes(LegNotes, total=False):
    """A raw leg."""

    started: Started | None
    callback: Callback | None


class CovariatesSeen(TypedDict):
    """Samples of the machine while the legs took turns: a value for each of `fields`, null for the `reasons` given."""

    fields: list[str]
    samples: list[list[int | None]]
    reasons: dict[str, str]


class MarksSeen(TypedDict):
    """The attestation server's marks of a round: `[nonce, t_us]` in its order, and the agents' signed accounts of them.

    The first is of no border: the round began then. An account is of `turns`, or of a leg that trains in one go.
    """

    times: list[list[str | int]]
    agent: dict[str, str]


class RoundNotes(TypedDict):
    """One round. `turns` are the turns as drawn, `borders` the agent's signed account of them.

    Of legs over several nodes this is the first node's part, and `nodes` are the others', of the same form.
    """

    round: int
    nonce: str
    order: list[Role]
    guest: list[GuestSeen]
    protected: ProtectedNotes | None
    raw: RawNotes | None
    raw2: NotRequired[RawNotes | None]
    turns: NotRequired[list[Role]]
    borders: NotRequired[str]
    marks: NotRequired[MarksSeen]
    nodes: NotRequired["list[RoundNotes]"]
    covariates: NotRequired[CovariatesSeen]


class Observation(TypedDict, total=False):
    """Everything seen of one row; empty where nothing was begun, or where it was withheld from publication.

    `didNotFit` are the rounds of a first attempt whose legs did not fit on the device beside each other.
    """

    allocation: AllocationSeen
    keys: Keys
    plan: Plan
    material: MaterialSeen
    rounds: list[RoundNotes]
    didNotFit: list[RoundNotes]
    baseModel: ModelArrival


def check_observation(value: object, where: str) -> Observation:
    """`value`, which is JSON, as an observation. Raises `ProtocolError` with the path of what has another type."""
    return check_typed(value, Observation, where)
