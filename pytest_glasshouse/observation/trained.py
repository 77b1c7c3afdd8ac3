"""What a leg says of its training: when it begins, and when it is over. All of it is the leg's own word.

Part of the observation (`observation.document`); the second witnesses of it are judged in `invariants.witnessed`.
"""

# Annotations are evaluated here: `NotRequired` counts only then.
from typing import Literal, NotRequired, TypedDict


class Started(TypedDict):
    """What a leg reports when it begins to train."""

    initial: str
    order_seed: int
    device: str


class Context(TypedDict):
    """The process a leg trained in: digests and counts of its environment, libraries and modules, and its limits."""

    environment: str
    environment_names: list[str]
    libraries: str
    library_count: int
    modules: str
    module_count: int
    nice: int
    affinity: list[int]
    limits: dict[str, list[str]]


class Phases(TypedDict):
    """A leg's own times."""

    load_ns: int
    prologue_ns: int
    export_ns: int


class WorkloadFacts(TypedDict):
    """What ran, as the workload reports it. Every workload names its device."""

    device: str
    deviceUuid: NotRequired[str | None]
    dtype: NotRequired[str]
    pythonVersion: NotRequired[str]
    torchVersion: NotRequired[str]
    threads: NotRequired[int]
    trainableParameters: NotRequired[int]
    totalParameters: NotRequired[int]
    peakMemoryBytes: NotRequired[int | None]
    peakMemorySource: NotRequired[str]
    batchesPerUnit: NotRequired[dict[str, int]]
    adapterDtype: NotRequired[str]
    transformersVersion: NotRequired[str]
    peftVersion: NotRequired[str]


class Trained(TypedDict):
    """What a leg reports when its training is over: in a raw leg's callback, and in a protected leg's journal.

    `epilogue` are the losses of the prologue's first steps, run again after the training. A segment is
    `[turn, units, elapsed_ns, cpu_ns, wash_units, wash_ns, wash_cpu_ns]`. A checkpoint is `[steps, loss, digest]`: all steps so
    far, and a digest of a few of the weights. `collective_ns` is the time that a rank of several spent in collectives within the
    timed stretches; 0 on a GPU, where they are only queued. `batches` are those used in prologue and training, by shape and
    dtypes. `gpu_ns` is each timed stretch by the GPU's clock, `[steps, stretch, turn]` (`workloads.loop.GpuTimes`); null on a
    CPU.
    """

    units: int
    elapsed_ns: int
    warmup_units: int
    warmup_ns: int
    cpu_ns: int
    stop_reason: Literal["time", "steps"]
    final_loss: str
    prologue: list[str]
    phases: Phases
    facts: WorkloadFacts
    context: Context
    epilogue: NotRequired[list[str]]
    checkpoints: NotRequired[list[list[int | str]]]
    steady: NotRequired[bool]
    segments: NotRequired[list[list[int]]]
    collective_ns: NotRequired[int]
    batches: NotRequired[dict[Literal["prologue", "training"], dict[str, int]]]
    gpu_ns: NotRequired[list[list[int]] | None]


class Callback(Trained):
    """A raw leg's only message about its result."""

    nonce: str
    status: str
    adapter: str
    opened_at_ns: int
    initial: str
    order_seed: int
    device: str
