"""One rank that trains raw with nothing of ours around it but the trainer: started as torch's own launcher starts ranks.

Standard input is JSON: the workload, the directory of its parts (a file each) and of its base model, the seed of the order and
the steps. Writes the digest of the adapter.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pytest_glasshouse.guest.training import PROLOGUE_STEPS, hide_unneeded
from pytest_glasshouse.wire.tensors import tensor_digest
from pytest_glasshouse.workloads.data_parallel import DataParallel
from pytest_glasshouse.workloads.registry import open_trainer


def main() -> None:
    """Train as one rank of RANK and WORLD_SIZE."""
    hide_unneeded()
    task = json.load(sys.stdin)
    parts = {path.name: memoryview(path.read_bytes()) for path in Path(task["parts"]).iterdir()}
    ranks = DataParallel.join(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), listener=None, device="cpu")
    base = None if task["base"] is None else Path(task["base"])
    trainer = open_trainer(task["workload"], parts, base_dir=base, device="cpu", ranks=ranks)
    trainer.prologue(PROLOGUE_STEPS)
    trainer.reset(task["order_seed"])
    for _ in range(task["steps"]):
        trainer.step()
    trainer.check()
    sys.stdout.write(tensor_digest(trainer.export()))
    ranks.close()


if __name__ == "__main__":
    main()
