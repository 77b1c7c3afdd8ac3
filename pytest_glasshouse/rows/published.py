"""The rows that ship: those that were published, under their GPU, order and target, and this project's own.

This module knows what was published and where; it does not know how a row is run. The published overhead is in
`RowSpec.published` for comparison and is never an expected value. Rows published without an order run raw-first, and their
`published.order` is None. The two functional rows were published without a raw leg; here they run both legs.

The project's own rows are sequential rows of each workload for any GPU, one of them on a Llama, interleaved and null rows for
every GPU that was published on, and a row whose base model is sealed.
"""

from __future__ import annotations

from pytest_glasshouse.rows.interleaving import DEFAULT_PRESET, with_preset_rounds
from pytest_glasshouse.rows.spec import Gpu, Order, Published, RowSpec

#: Models at a commit. The published results name none; these are the commits that public code pins most.
QWEN_SMALL = "Qwen/Qwen2.5-0.5B-Instruct@7ae557604adf67be50417f59c2c2f167def9a775"
QWEN_LARGE = "Qwen/Qwen2.5-7B-Instruct@a09a35458c702b33eeacc393d103063234e8bc28"
LLAMA_SMALL = "meta-llama/Llama-3.2-1B@4e20de362430cd3b72f300e6b0f18e50e7166e08"
_QWEN = {"0.5b": QWEN_SMALL, "7b": QWEN_LARGE}

SAME_INSTANCE = "same-instance-overhead.json"
H100_REPEAT = "h100-same-instance-repeat.txt"
WALL_CLOCK = "qwen-lora-wallclock.txt"
FUNCTIONAL = "same-instance-overhead.txt"

#: Eight or nine pairs of 20 s in each of six rounds is what the simulation found best; the target is the time that each leg
#: is measured in one round.
_INTERLEAVED_TARGET_S = 180.0
_INTERLEAVED_WARMUP_S = 20.0


def _mlp(
    gpu: Gpu, target_s: float, order: Order, overhead_pct: float, *, on: str, source: str = SAME_INSTANCE, smoke: bool = False
) -> RowSpec:
    return RowSpec(
        name=f"{gpu}-{target_s:g}s-{order}",
        workload="mlp",
        gpu=gpu,
        order=order,
        target_s=target_s,
        provider=on,
        smoke=smoke,
        published=Published(source=source, overhead_pct=overhead_pct, order=order),
    )


def _lora(
    gpu: Gpu,
    size: str,
    order: Order | None,
    overhead_pct: float | None,
    *,
    seconds: float | None = None,
    steps: int | None = None,
    on: str = "runpod",
    source: str = WALL_CLOCK,
    label: str | None = None,
) -> RowSpec:
    target = f"{seconds:g}s" if seconds is not None else f"{steps}step{'' if steps == 1 else 's'}"
    return RowSpec(
        name="-".join(filter(None, (gpu, f"qwen{size}", target, order))),
        workload="lora",
        gpu=gpu,
        order=order or "raw-first",
        target_s=seconds,
        steps=steps,
        provider=on,
        model=_QWEN[size],
        published=Published(source=source, overhead_pct=overhead_pct, order=order, label=label),
    )


def _interleaved(gpu: Gpu, size: str | None = None, *, null: bool = False, resident: bool = True, gpus: int = 1) -> RowSpec:
    """An interleaved or a null row: lora on the model of this size, or mlp."""
    kind = "null" if null else "interleaved"
    row = RowSpec(
        name="-".join(filter(None, (gpu if gpus == 1 else f"{gpu}x{gpus}", size and f"qwen{size}", kind))),
        workload="lora" if size else "mlp",
        gpu=gpu,
        order="interleaved",
        target_s=_INTERLEAVED_TARGET_S,
        warmup_s=_INTERLEAVED_WARMUP_S,
        preset=DEFAULT_PRESET,
        model=_QWEN[size] if size else None,
        null=null,
        resident=resident,
        gpus=gpus,
    )
    return with_preset_rounds(row)


PUBLISHED_MLP: tuple[RowSpec, ...] = (
    _mlp("h100", 60, "protected-first", 10.46, on="runpod", smoke=True),
    _mlp("h100", 60, "raw-first", -29.67, on="runpod", smoke=True),
    _mlp("h100", 900, "protected-first", -2.99, on="runpod"),
    _mlp("h100", 1800, "raw-first", 18.05, on="runpod"),
    _mlp("h100", 1800, "protected-first", 2.58, on="runpod", source=H100_REPEAT),
    _mlp("a4000", 60, "raw-first", -0.41, on="vastai", smoke=True),
    _mlp("a4000", 60, "protected-first", -0.88, on="vastai", smoke=True),
    _mlp("a4000", 900, "raw-first", -7.39, on="vastai"),
    _mlp("a4000", 1800, "raw-first", -0.88, on="vastai"),
    _mlp("pro6000", 900, "raw-first", 2.68, on="runpod"),
    _mlp("pro6000", 1800, "raw-first", 14.63, on="runpod"),
)

PUBLISHED_LORA: tuple[RowSpec, ...] = (
    _lora("rtx4090", "0.5b", "raw-first", 0.86, seconds=900, label="0.5B 15m"),
    _lora("rtx4090", "0.5b", "raw-first", -0.45, seconds=1800, label="0.5B 30m"),
    _lora("rtx3090", "0.5b", "raw-first", 0.81, seconds=3600, label="0.5B 60m"),
    _lora("a4000", "7b", None, 0.59, steps=256, label="7B smoke"),
    _lora("a4000", "7b", None, 1.11, seconds=900, label="7B 15m"),
    _lora("a4000", "7b", None, 0.26, seconds=1800, label="7B 30m"),
    _lora("h100", "7b", None, 0.77, seconds=1800, label="7B 30m H100"),
    _lora("h100", "7b", "protected-first", -0.73, steps=30000, label="7B 30k-step H100 protected-first"),
    _lora("a4000", "0.5b", "raw-first", 9.86, steps=8, source=SAME_INSTANCE),
    _lora("a4000", "0.5b", "raw-first", -7.79, steps=16, on="vastai", source=SAME_INSTANCE),
    _lora("a4000", "0.5b", "protected-first", -6.15, steps=16, on="vastai", source=SAME_INSTANCE),
)

#: Published without a raw leg and so without an overhead. The first was published without a GPU.
FUNCTIONAL_LORA: tuple[RowSpec, ...] = (
    _lora("anygpu", "0.5b", None, None, steps=32, on="mock", source=FUNCTIONAL),
    _lora("rtx4090", "7b", None, None, steps=1, source=SAME_INSTANCE),
)

ANYGPU_MLP: tuple[RowSpec, ...] = (
    RowSpec(name="anygpu-60s-raw-first", workload="mlp", gpu="anygpu", order="raw-first", target_s=60, smoke=True),
    RowSpec(name="anygpu-60s-protected-first", workload="mlp", gpu="anygpu", order="protected-first", target_s=60),
)

ANYGPU_LORA: tuple[RowSpec, ...] = (
    RowSpec(
        name="anygpu-qwen0.5b-60s-protected-first",
        workload="lora",
        gpu="anygpu",
        order="protected-first",
        target_s=60,
        model=QWEN_SMALL,
        smoke=True,
    ),
    RowSpec(
        name="anygpu-qwen0.5b-60s-raw-first", workload="lora", gpu="anygpu", order="raw-first", target_s=60, model=QWEN_SMALL
    ),
    RowSpec(
        name="anygpu-qwen0.5b-3600s-raw-first",
        workload="lora",
        gpu="anygpu",
        order="raw-first",
        target_s=3600,
        model=QWEN_SMALL,
    ),
    RowSpec(
        name="anygpu-llama1b-3600s-raw-first",
        workload="lora",
        gpu="anygpu",
        order="raw-first",
        target_s=3600,
        model=LLAMA_SMALL,
    ),
)

PUBLISHED_ROWS = PUBLISHED_MLP + PUBLISHED_LORA

#: What `benchmarks/test_mlp.py` and `benchmarks/test_lora.py` are parametrized with.
MLP_ROWS = PUBLISHED_MLP + ANYGPU_MLP
LORA_ROWS = PUBLISHED_LORA + FUNCTIONAL_LORA + ANYGPU_LORA

INTERLEAVED_ROWS: tuple[RowSpec, ...] = (
    _interleaved("h100"),
    _interleaved("pro6000"),
    _interleaved("a4000"),
    _interleaved("anygpu"),
    _interleaved("h100", "7b"),
    # Two 7B models do not fit on 16 GB: whole lifecycles alternate.
    _interleaved("a4000", "7b", resident=False),
    _interleaved("rtx4090", "0.5b"),
    _interleaved("rtx3090", "0.5b"),
    _interleaved("anygpu", "0.5b"),
    *(_interleaved("h100", size, gpus=gpus) for gpus in (2, 8) for size in (None, "7b")),
)

NULL_ROWS: tuple[RowSpec, ...] = (
    _interleaved("h100", null=True),
    _interleaved("pro6000", null=True),
    _interleaved("a4000", null=True),
    _interleaved("anygpu", null=True),
    _interleaved("rtx4090", "0.5b", null=True),
    _interleaved("rtx3090", "0.5b", null=True),
    _interleaved("anygpu", "0.5b", null=True),
    *(_interleaved("h100", size, null=True, gpus=gpus) for gpus in (2, 8) for size in (None, "7b")),
)

#: What ships and needs nothing of the user: every row but those whose model has to be on the machine that starts them.
ALL_ROWS = MLP_ROWS + LORA_ROWS + INTERLEAVED_ROWS + NULL_ROWS
SMOKE_ROWS = tuple(row for row in ALL_ROWS if row.smoke)

SEALED_ROWS: tuple[RowSpec, ...] = (
    RowSpec(
        name="anygpu-qwen0.5b-60s-sealed",
        workload="lora",
        gpu="anygpu",
        order="protected-first",
        target_s=60,
        model=QWEN_SMALL,
        base="sealed",
    ),
)
