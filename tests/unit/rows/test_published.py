"""The published grid, row by row, against the published table in the tests' own data."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.plugin.markers import MARKERS
from pytest_glasshouse.rows import LORA_ROWS, MLP_ROWS, SEALED_ROWS, RowSpec
from pytest_glasshouse.rows.published import FUNCTIONAL_LORA, INTERLEAVED_ROWS, NULL_ROWS, PUBLISHED_ROWS
from pytest_glasshouse.rows.spec import GPU_MODELS

DATA = Path(__file__).parents[2] / "data" / "published_rows.json"
#: The names of GPUs as published, which are not always spelled as NVML spells them.
GPUS = {model: gpu for gpu, model in GPU_MODELS.items()} | {"RTX A4000": "a4000", "NVIDIA H100": "h100", None: "anygpu"}


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return content


def as_published(row: RowSpec) -> tuple[Any, ...]:
    assert row.published is not None
    published = row.published
    return (
        published.source, row.workload, row.provider, row.gpu, published.order,
        row.target_s, row.steps, _repository(row), published.overhead_pct, published.label,
    )  # fmt: skip


def _repository(row: RowSpec) -> str | None:
    """The row's model without the commit, which no publication names."""
    return row.model and row.model.partition("@")[0]


def test_every_model_of_the_grid_is_pinned_to_a_commit() -> None:
    """A branch moves: two runs of one row would train two models."""
    models = {row.model for row in (*LORA_ROWS, *INTERLEAVED_ROWS, *NULL_ROWS, *SEALED_ROWS) if row.workload == "lora"}
    assert len(models) == 3
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", str(model)) for model in models)


def test_every_published_row_is_in_the_grid_with_its_own_figures(table: dict[str, Any]) -> None:
    """A number copied wrongly would be compared with for years."""
    expected = [
        (
            entry["source"], {"mlp": "mlp", "qwen-lora": "lora"}[entry["workload"]], entry["provider"],
            GPUS[entry["gpuModel"]], entry["order"], entry.get("targetSec"), entry.get("stepBudget"),
            entry.get("model"), entry["overheadPct"], entry.get("label"),
        )
        for entry in table["rows"]
    ]  # fmt: skip
    assert len(expected) == 22
    assert Counter(map(as_published, PUBLISHED_ROWS)) == Counter(expected)


def test_functional_rows_are_in_the_grid_without_an_overhead(table: dict[str, Any]) -> None:
    expected = [
        (entry["source"], "lora", GPUS[entry.get("gpuModel")], None, entry["stepBudget"], entry["model"], None)
        for entry in table["functionalRows"]
    ]
    seen = [(s, w, gpu, order, steps, m, pct) for s, w, _, gpu, order, _, steps, m, pct, _ in map(as_published, FUNCTIONAL_LORA)]
    assert seen == expected


def test_row_published_without_an_order_runs_raw_first_with_a_note() -> None:
    unordered = [row for row in PUBLISHED_ROWS if row.published and row.published.order is None]
    assert {row.order for row in unordered} == {"raw-first"}
    assert len(unordered) == 4


def test_names_and_row_ids_are_unique() -> None:
    rows = MLP_ROWS + LORA_ROWS + SEALED_ROWS
    assert len({row.name for row in rows}) == len({row.row_id for row in rows}) == len(rows)


def test_smoke_is_one_row_of_each_workload_for_any_gpu_and_the_short_published_ones() -> None:
    smoke = {row.name: row for row in MLP_ROWS + LORA_ROWS if row.smoke}
    assert sorted(smoke) == [
        "a4000-60s-protected-first",
        "a4000-60s-raw-first",
        "anygpu-60s-raw-first",
        "anygpu-qwen0.5b-60s-protected-first",
        "h100-60s-protected-first",
        "h100-60s-raw-first",
    ]
    assert {row.order for row in smoke.values() if row.gpu == "anygpu"} == {"raw-first", "protected-first"}


def test_a_sealed_row_is_chosen_by_its_own_marker() -> None:
    """It has no overhead, and needs its model on the machine that starts it: nobody means it by `h100 and qwen` or by `smoke`."""
    assert {row.marks for row in SEALED_ROWS} == {("anygpu", "sealed")}
    assert "sealed" in MARKERS


@pytest.mark.parametrize("row", MLP_ROWS + LORA_ROWS + SEALED_ROWS, ids=lambda row: str(row.name))
def test_row_is_equal_after_json(row: RowSpec) -> None:
    assert RowSpec.from_json(json.loads(json.dumps(row.to_json()))) == row
