"""Rows of ours whose legs take turns, and the null rows beside them: one of each kind for every GPU that was published on.

Eight or nine pairs of 20 s in each of six rounds is the design the simulation arrived at; the target is what each leg is
timed in one round. Two 7B models do not fit beside each other on 16 GB: there whole lifecycles alternate.
"""

from __future__ import annotations

from pytest_glasshouse.rows.published import QWEN_LARGE, QWEN_SMALL
from pytest_glasshouse.rows.spec import Gpu, RowSpec

_TARGET_S = 180.0
_WARMUP_S = 20.0
_ROUNDS = 6


def _mlp(gpu: Gpu, *, null: bool = False) -> RowSpec:
    return RowSpec(
        name=f"{gpu}-{'null' if null else 'interleaved'}",
        workload="mlp",
        gpu=gpu,
        order="interleaved",
        target_s=_TARGET_S,
        warmup_s=_WARMUP_S,
        rounds=_ROUNDS,
        null=null,
    )


def _lora(gpu: Gpu, model: str, size: str, *, null: bool = False, resident: bool = True) -> RowSpec:
    return RowSpec(
        name=f"{gpu}-qwen{size}-{'null' if null else 'interleaved'}",
        workload="lora",
        gpu=gpu,
        order="interleaved",
        target_s=_TARGET_S,
        warmup_s=_WARMUP_S,
        rounds=_ROUNDS,
        model=model,
        null=null,
        resident=resident,
    )


INTERLEAVED_ROWS: tuple[RowSpec, ...] = (
    _mlp("h100"),
    _mlp("pro6000"),
    _mlp("a4000"),
    _mlp("anygpu"),
    _lora("h100", QWEN_LARGE, "7b"),
    _lora("a4000", QWEN_LARGE, "7b", resident=False),
    _lora("rtx4090", QWEN_SMALL, "0.5b"),
    _lora("rtx3090", QWEN_SMALL, "0.5b"),
    _lora("anygpu", QWEN_SMALL, "0.5b"),
)

NULL_ROWS: tuple[RowSpec, ...] = (
    _mlp("h100", null=True),
    _mlp("pro6000", null=True),
    _mlp("a4000", null=True),
    _mlp("anygpu", null=True),
    _lora("rtx4090", QWEN_SMALL, "0.5b", null=True),
    _lora("rtx3090", QWEN_SMALL, "0.5b", null=True),
    _lora("anygpu", QWEN_SMALL, "0.5b", null=True),
)
