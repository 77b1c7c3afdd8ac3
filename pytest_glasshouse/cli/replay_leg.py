"""The process that trains one leg again: a task on standard input, what came out of it on standard output."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.wire.foreign_text import foreign_text
from pytest_glasshouse.wire.tensors import tensor_digest
from pytest_glasshouse.workloads import cuda, stand_in
from pytest_glasshouse.workloads.base import PROLOGUE_STEPS
from pytest_glasshouse.workloads.checkpoints import short_digest
from pytest_glasshouse.workloads.registry import open_trainer, prepare

if TYPE_CHECKING:
    from pytest_glasshouse.cli.replay import Task, TrainedAgain
    from pytest_glasshouse.rows.spec import WorkloadName
    from pytest_glasshouse.workloads.base import BaseModel, DeviceName


def train_again(task: Task) -> TrainedAgain:
    """Prepare the material as the host did, and train as the leg did. Raises `GlasshouseError` where something is not here."""
    import torch

    from pytest_glasshouse.workloads.corpus import CORPUS_NAME

    device = _device(task["device"])

    if task["data"] not in (None, CORPUS_NAME):
        raise GlasshouseError(f"it trained on a text of the user's own, {task['data']}, which is not in the report")
    material = prepare(
        cast("WorkloadName", task["workload"]), seed=task["seed"], model=task["model"], rank=task["rank"],
        targets=task["targets"], alpha=task["alpha"], stand_in=task["standIn"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="glasshouse-replay-") as room:
        directory = None if material.base is None else _directory(material.base, Path(room))
        parts = {name: memoryview(bytearray(part)) for name, part in material.parts.items()}
        trainer = open_trainer(task["workload"], parts, base_dir=directory, device=device)
        prologue = trainer.prologue(PROLOGUE_STEPS)
        trainer.reset(task["orderSeed"])
        wanted = {*task["checkpoints"]}
        checkpoints: list[list[int | str]] = []
        for steps in range(1, task["steps"] + 1):
            trainer.step()
            if steps in wanted:
                trainer.synchronize()
                checkpoints.append([steps, trainer.check(), short_digest(trainer)])
        trainer.synchronize()
        trainer.check()
        adapter = trainer.export()
        trainer.close()
    return {
        "refused": "",
        "initialSha256": material.initial_sha256,
        "baseSha256": None if material.base is None else material.base.sha256,
        "torch": torch.__version__,
        "prologue": prologue,
        "checkpoints": checkpoints,
        "adapterSha256": tensor_digest(adapter),
    }


def _device(name: str) -> DeviceName:
    """The device to train on, for a leg that trained on `name`. Raises `GlasshouseError` where this machine has no such GPU."""
    if name == "cpu":
        return "cpu"
    try:
        cuda.CUDA.init()
        here = cuda.CUDA.name()
    except (RuntimeError, AssertionError) as error:
        raise GlasshouseError(f"it trained on {name}, and torch has no GPU here: {foreign_text(error, limit=200)}") from None
    if here != name:
        raise GlasshouseError(f"it trained on {name}; the GPU here is {here}")
    return "cuda"


def _directory(base: BaseModel, room: Path) -> Path:
    if base.directory is not None and base.on_host:
        return base.directory
    files = base.content
    if not base.on_host:
        if base.shape is None:
            raise GlasshouseError(f"the weights of {base.model_id} are not on this machine; download them first")
        files = stand_in.make(base.shape)  # as the guest made them: the same bytes everywhere
    for name, content in files.items():
        (room / name).write_bytes(content)
    return room


def main() -> int:
    """The process."""
    task: Task = json.load(sys.stdin)
    try:
        trained = train_again(task)
    except GlasshouseError as error:
        trained = {
            "refused": str(error), "initialSha256": "", "baseSha256": None, "torch": "", "prologue": [], "checkpoints": [],
            "adapterSha256": "",
        }  # fmt: skip
    print(json.dumps(trained))  # noqa: T201  (the answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
