"""The rows of `make gpu` that `benchmarks/` does not have at this length. Collected only where this file is named.

`GPU_ROWS` is a JSON object: the GPU that rows name, `seconds` and `warmup` of each leg and round, `rounds` of the interleaved row
and of the null row, `steps` of the lora row.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.invariants import ALL, NULL, assert_held
from pytest_glasshouse.rows import RowSpec
from pytest_glasshouse.rows.published import QWEN_LARGE

if TYPE_CHECKING:
    from pytest_glasshouse.plugin.fixtures import RowReport

SIZES: dict[str, Any] = {"gpu": "anygpu", "seconds": 4.0, "warmup": 1.0, "rounds": 6, "null_rounds": 2, "steps": 40}
SIZES |= json.loads(os.environ.get("GPU_ROWS", "{}"))

_IN_TURNS: dict[str, Any] = {
    "workload": "mlp", "gpu": SIZES["gpu"], "order": "interleaved", "target_s": SIZES["seconds"], "warmup_s": SIZES["warmup"],
}  # fmt: skip
INTERLEAVED = RowSpec(name="gpu-mlp-interleaved", rounds=SIZES["rounds"], **_IN_TURNS)
RAW_TWICE = RowSpec(name="gpu-mlp-null", rounds=SIZES["null_rounds"], null=True, **_IN_TURNS)
LARGE = RowSpec(
    name="gpu-lora-large", workload="lora", gpu=SIZES["gpu"], order="protected-first", steps=SIZES["steps"],
    warmup_s=SIZES["warmup"], model=QWEN_LARGE,
)  # fmt: skip


@pytest.mark.parametrize("row", [INTERLEAVED, LARGE], ids=lambda row: row.name)
def test_row(row: RowSpec, allocation: Any, protected_runtime: Any, raw_runner: Any, row_report: RowReport) -> None:
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(outcome, *ALL)


@pytest.mark.parametrize("row", [RAW_TWICE], ids=lambda row: row.name)
def test_null(row: RowSpec, allocation: Any, protected_runtime: Any, raw_runner: Any, row_report: RowReport) -> None:
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(outcome, *NULL)
