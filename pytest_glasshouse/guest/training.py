"""The part both legs share: load, prologue, reset, warm up, train, export. The one definition of raw.

The protected leg differs only in what it does around this module; `context` records what each leg sees of its own
process, so that any other difference is found.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.guest.base_files import opened
from pytest_glasshouse.guest.loaded_code import executable_maps
from pytest_glasshouse.wire import evidence, floe, tokens
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.tensors import tensor_digest
from pytest_glasshouse.workloads import cuda
from pytest_glasshouse.workloads.loop import alone, measure
from pytest_glasshouse.workloads.registry import open_trainer, prepare
from pytest_glasshouse.workloads.segments import SegmentPlan, measure_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.guest.control import ControlTurns
    from pytest_glasshouse.guest.ranks import Ranks
    from pytest_glasshouse.rows.spec import WorkloadName
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import TrainingPlan
    from pytest_glasshouse.workloads.base import DeviceName, Parts, Trainer
    from pytest_glasshouse.workloads.segments import TurnTaker

PROLOGUE_STEPS = 32
#: The first of them are run again at the end: by then the arithmetic must be what it was.
EPILOGUE_STEPS = 8

_IMPORTS = {
    "mlp": ("torch", "pytest_glasshouse.workloads.mlp"),
    "lora": ("torch", "transformers", "peft", "pytest_glasshouse.workloads.lora"),
}

#: A model that is nowhere: the stand-in takes its place.
_NO_MODEL = "glasshouse/nowhere"
#: Packages that transformers and peft import where they find them, though no training uses them: 32 MiB of each leg's memory.
_NOT_NEEDED = ("scipy", "boto3", "jinja2")

#: Variables in which legs may differ: each names the leg's own directory, or the port where its ranks met.
_OWN = ("HOME", "TMPDIR", "PWD", "MASTER_PORT")


def hide_unneeded() -> None:
    """Have packages that no training uses look as if they were not installed, in a process that only trains."""
    for name in _NOT_NEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def import_training(workload: str, device: DeviceName) -> None:
    """Load everything that training will load, before anything is measured, in both legs alike.

    A GPU's libraries and kernels too: a library that is loaded after the measurement would count as a change, and what is
    loaded in the first step would be in its time.
    """
    import_modules(workload)
    if device == "cuda":
        cuda.CUDA.init()
        _train_once(workload, device)


def import_modules(workload: str) -> None:
    """The part of it that uses no device and starts no thread: what a launcher may have done before it forks a leg."""
    for name in _IMPORTS[workload]:
        importlib.import_module(name)
    # Crypto libraries load lazily; one use in both legs keeps that out of the training's time and leaves the legs with
    # the same modules and libraries.
    signer, opener = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    tokens.verify(tokens.sign({}, key=signer, typ="rehearsal"), key=signer.public_key(), typ="rehearsal")
    evidence.SUITE.decrypt(evidence.SUITE.encrypt(b"rehearsal", opener.public_key(), info=b""), opener, info=b"")
    floe.decrypt(bytes(32), b"", floe.encrypt(bytes(32), b"", b"rehearsal"))


def _train_once(workload: str, device: DeviceName) -> None:
    """Train one unit on public material, in a way that leaves nothing: CUDA's libraries load each kernel when it is first used.

    A lora row trains the stand-in model, from memory: neither the row's model nor its directory is known here.
    """
    material = prepare(cast("WorkloadName", workload), seed=0, model=_NO_MODEL, sealed=workload == "lora")
    content = {**material.parts, **material.sealed}
    parts = {name: memoryview(bytes(part)) for name, part in content.items() if isinstance(part, bytes)}
    trainer = open_trainer(workload, parts, device=device)
    try:
        _run_once(trainer)
    finally:
        trainer.close()


def _run_once(trainer: Trainer) -> None:
    trainer.prologue(1)
    trainer.repeat_prologue(1)
    trainer.reset(0)
    trainer.step()
    trainer.synchronize()
    trainer.check()
    trainer.export()
    trainer.sample_sha256()
    trainer.last_batch()
    trainer.facts()


def base_sha256(claims: Mapping[str, Json]) -> str | None:
    """The digest of the base model a manifest's (verified) claims pin; None for a workload without one."""
    workload = claims["workload"]
    base = workload.get("base") if isinstance(workload, dict) else None
    return str(base["sha256"]) if isinstance(base, dict) else None


@dataclass(frozen=True, kw_only=True)
class TrainedLeg:
    """The result of one leg: figures for its report and the exported adapter."""

    adapter: bytes
    adapter_sha256: str
    body: dict[str, Json]


def train(
    plan: TrainingPlan,
    parts: Parts,
    *,
    base_sha256: str | None,
    on_started: Callable[[dict[str, Json]], None],
    on_progress: Callable[[dict[str, Json]], None],
    turns: TurnTaker,
    on_trained: Callable[[Trainer], None] | None = None,
    ranks: Ranks | None = None,
) -> TrainedLeg:
    """Train one leg from `parts` and release every tensor before returning.

    `on_started` gets the digest of the weights really loaded; `on_progress` is called at most once a second;
    `on_trained` once, after measurement and export, before the trainer is closed. `turns` starts the segments of a plan that
    has them, and drains the leg's messages. Of several `ranks`, all call this, and each gets its own result.
    Raises `NonFiniteLossError` when a loss was not finite; the trainer is closed then, too. Raises
    `IntegrityError("base")` when the base model that the agent verified is not the one of `base_sha256`, or its files changed
    since.
    """
    began = time.perf_counter_ns()
    trainer: Trainer | None = None
    try:
        with opened(plan["base"], base_sha256) as (base_dir, base):
            shared: dict[str, Any] = {} if ranks is None else {"ranks": ranks.group}
            trainer = open_trainer(plan["workload"], parts, base_dir=base_dir, device=plan["device"], **shared)
        if base is not None:
            base.check()  # what was loaded is what was verified
        loaded = time.perf_counter_ns()
        on_started({"initial": trainer.initial_sha256(), "order_seed": plan["order_seed"], "device": plan["device"]})
        trained = _run(plan, trainer, load_ns=loaded - began, on_progress=on_progress, turns=turns, ranks=ranks)
        if base is not None:
            base.check()  # and did not change since: tensors may still be mapped from the files
        if on_trained is not None:
            on_trained(trainer)
    except BaseException as error:
        # The frames of what failed hold tensors, which are zeroed as freed memory or not at all.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise
    else:
        return trained
    finally:
        if trainer is not None:
            trainer.close()


def _run(
    plan: TrainingPlan,
    trainer: Trainer,
    *,
    load_ns: int,
    on_progress: Callable[[dict[str, Json]], None],
    turns: TurnTaker,
    ranks: Ranks | None,
) -> TrainedLeg:
    turns.repeat_with(trainer.repeat_prologue)
    before_prologue = time.perf_counter_ns()
    prologue = trainer.prologue(PROLOGUE_STEPS)
    trainer.check()
    batches = {"prologue": trainer.batches()}
    trainer.reset(plan["order_seed"])
    trainer.synchronize()
    after_prologue = time.perf_counter_ns()
    measured = _measured(plan, trainer, on_progress=on_progress, turns=turns, agree=alone if ranks is None else ranks.agree)
    if ranks is not None:
        measured["collective_ns"] = cast("ControlTurns", turns).collective_ns
    batches["training"] = trainer.batches()
    before_export = time.perf_counter_ns()
    adapter = trainer.export()
    after_export = time.perf_counter_ns()
    epilogue = trainer.prologue(EPILOGUE_STEPS)
    phases: dict[str, Json] = {
        "load_ns": load_ns,
        "prologue_ns": after_prologue - before_prologue,
        "export_ns": after_export - before_export,
    }
    return TrainedLeg(
        adapter=adapter,
        adapter_sha256=tensor_digest(adapter),
        body={
            **measured,
            "prologue": list(prologue),
            "epilogue": list(epilogue),
            "batches": {**batches},
            "phases": phases,
            "facts": trainer.facts(),
            "context": context(),
        },
    )


def _measured(
    plan: TrainingPlan,
    trainer: Trainer,
    *,
    on_progress: Callable[[dict[str, Json]], None],
    turns: TurnTaker,
    agree: Callable[[int], int],
) -> dict[str, Json]:
    """The timed part: one run, or the segments of an interleaved round with their sums."""

    def report(units: int, elapsed_ns: int, loss: str) -> None:
        on_progress({"units": units, "elapsed_ns": elapsed_ns, "loss": loss})

    device = cuda.clock_of(plan["device"])
    if (segments := plan["segments"]) is None:
        whole = measure(
            trainer,
            warmup_s=plan["warmup_ns"] / 1e9,
            target_s=None if plan["target_ns"] is None else plan["target_ns"] / 1e9,
            steps=plan["steps"],
            on_progress=report,
            edges=turns,
            agree=agree,
            device=device,
        )
        return {
            "units": whole.units,
            "elapsed_ns": whole.elapsed_ns,
            "warmup_units": whole.warmup_units,
            "warmup_ns": whole.warmup_ns,
            "cpu_ns": whole.cpu_ns,
            "stop_reason": whole.stop_reason,
            "final_loss": whole.final_loss,
            "gpu_ns": None if whole.gpu is None else [[*whole.gpu.to_json()]],
            "checkpoints": whole.checkpoints.to_json(),
        }
    segment_ns = segments["segment_ns"]
    parts = measure_segments(
        trainer,
        plan=SegmentPlan(
            warmup_s=plan["warmup_ns"] / 1e9,
            warmup_limit_s=segments["warmup_limit_ns"] / 1e9,
            washout_s=segments["washout_ns"] / 1e9,
            segment_s=None if segment_ns is None else segment_ns / 1e9,
            segment_steps=segments["segment_steps"],
        ),
        turns=turns,
        on_progress=report,
        agree=agree,
        device=device,
    )
    return {
        "units": sum(each.units for each in parts.segments),
        "elapsed_ns": sum(each.elapsed_ns for each in parts.segments),
        "warmup_units": parts.warmup_units,
        "warmup_ns": parts.warmup_ns,
        "steady": parts.steady,
        "cpu_ns": sum(each.cpu_ns for each in parts.segments),
        "stop_reason": "time" if plan["steps"] is None else "steps",
        "final_loss": parts.final_loss,
        "gpu_ns": None if parts.gpu is None else [[*each.to_json()] for each in parts.gpu],
        "checkpoints": parts.checkpoints.to_json(),
        "segments": [[*each.to_json()] for each in parts.segments],
    }


def context() -> dict[str, Json]:
    """What must be equal in both legs: environment, limits, affinity, priority, mapped libraries, loaded modules.

    Digests and plain numbers only: a path of the guest may not be published.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OWN}
    limits: dict[str, Json] = {
        name: list(map(str, resource.getrlimit(getattr(resource, name))))
        for name in sorted(vars(resource))
        if name.startswith("RLIMIT_")
    }
    libraries = sorted(executable_maps())
    modules = sorted(name for name, module in list(sys.modules.items()) if module is not None)
    return {
        "environment": sha256_hex(canonical(environment)),
        "environment_names": [*sorted(environment)],
        "limits": limits,
        "affinity": [*sorted(os.sched_getaffinity(0))],
        "nice": os.nice(0),
        "libraries": sha256_hex("\n".join(libraries).encode()),
        "library_count": len(libraries),
        "modules": sha256_hex("\n".join(modules).encode()),
        "module_count": len(modules),
    }
