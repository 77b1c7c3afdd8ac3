"""The same ranks without the product: torch's own launcher's contract, the trainer, and nothing around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.leg_environment import rank_environment
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT
from pytest_glasshouse.workloads.registry import prepare
from tests.limits import HANG_S
from tests.loopback.ports import reserve_port

if TYPE_CHECKING:
    from pytest_glasshouse.rows.spec import RowSpec


def trained_raw(row: RowSpec, order_seed: int, directory: Path) -> set[str]:
    """The digests of the adapters of two ranks, started as torch's launcher starts them."""
    material = prepare(row.workload, seed=7, model=row.model)
    for name, content in material.parts.items():
        (directory / "parts").mkdir(parents=True, exist_ok=True)
        (directory / "parts" / name).write_bytes(content)
    base = None if material.base is None else directory / "base"
    if material.base is not None and base is not None:
        base.mkdir()
        for name, content in material.base.content.items():
            (base / name).write_bytes(content)
    task = {
        "workload": row.workload, "parts": str(directory / "parts"), "base": None if base is None else str(base),
        "order_seed": order_seed, "steps": row.steps,
    }  # fmt: skip
    port = reserve_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.rounds.raw_rank"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **GUEST_ENVIRONMENT, **rank_environment(rank, 2, port)},
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write(json.dumps(task))
        rank.stdin.close()
        rank.stdin = None
    return {rank.communicate(timeout=HANG_S)[0].strip() for rank in ranks}
