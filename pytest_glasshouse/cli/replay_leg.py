"""The process that trains one leg again: a task on standard input, what came out of it on standard output."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.wire.tensors import tensor_digest
from pytest_glasshouse.workloads.base import PROLOGUE_STEPS
from pytest_glasshouse.workloads.registry import open_trainer, prepare

if TYPE_CHECKING:
    from pytest_glasshouse.cli.replay import Task, TrainedAgain
    from pytest_glasshouse.rows.spec import WorkloadName
    from pytest_glasshouse.workloads.base import BaseModel


def train_again(task: Task) -> TrainedAgain:
    """Prepare the material as the host did, and train as the leg did. Raises `GlasshouseError` where something is not here."""
    import torch

    from pytest_glasshouse.workloads.corpus import CORPUS_NAME

    if task["data"] not in (None, CORPUS_NAME):
        raise GlasshouseError(f"it trained on a text of the user's own, {task['data']}, which is not in the report")
    material = prepare(
        cast("WorkloadName", task["workload"]), seed=task["seed"], model=task["model"], rank=task["rank"],
        targets=task["targets"], alpha=task["alpha"], stand_in=task["standIn"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="glasshouse-replay-") as room:
        directory = None if material.base is None else _directory(material.base, Path(room))
        parts = {name: memoryview(bytearray(part)) for name, part in material.parts.items()}
        trainer = open_trainer(task["workload"], parts, base_dir=directory, device="cpu")
        prologue = trainer.prologue(PROLOGUE_STEPS)
        trainer.reset(task["orderSeed"])
        for _ in range(task["steps"]):
            trainer.step()
        trainer.check()
        adapter = trainer.export()
        trainer.close()
    return {
        "refused": "",
        "initialSha256": material.initial_sha256,
        "baseSha256": None if material.base is None else material.base.sha256,
        "torch": torch.__version__,
        "prologue": prologue,
        "adapterSha256": tensor_digest(adapter),
    }


def _directory(base: BaseModel, room: Path) -> Path:
    if base.directory is not None and base.on_host:
        return base.directory
    if not base.on_host:
        raise GlasshouseError(f"the weights of {base.model_id} are not on this machine; download them first")
    for name, content in base.content.items():
        (room / name).write_bytes(content)
    return room


def main() -> int:
    """The process."""
    task: Task = json.load(sys.stdin)
    try:
        trained = train_again(task)
    except GlasshouseError as error:
        trained = {
            "refused": str(error), "initialSha256": "", "baseSha256": None, "torch": "", "prologue": [], "adapterSha256": "",
        }  # fmt: skip
    print(json.dumps(trained))  # noqa: T201  (the answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
