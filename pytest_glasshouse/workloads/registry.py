"""Which module implements which workload.

The host's half (`prepare`, `check`) needs numpy and draws everything from a recorded seed; the guest's half (`open_trainer`)
needs torch. Each module is imported when its workload is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_glasshouse.rows.spec import WorkloadName
    from pytest_glasshouse.workloads.base import DeviceName, Material, Parts, SealedModel, Trainer
    from pytest_glasshouse.workloads.data_parallel import DataParallel


def prepare(
    workload: WorkloadName,
    *,
    seed: int,
    model: str | None = None,
    data: str | None = None,
    rank: int | None = None,
    targets: Sequence[str] | None = None,
    alpha: int | None = None,
    online: bool = False,
    sealed: bool | SealedModel = False,
    stand_in: str | None = None,
) -> Material:
    """The host's half: all parts of the package, drawn from `seed`. Uses the network only if `online`, to ask a model hub.

    With `sealed` a lora row's base model is among them. With `stand_in`, a shape's name, a lora row gets random weights of it.

    Raises `ConfigurationError` when a lora row's model, data or adapter cannot be used.
    """
    if workload == "mlp":
        from pytest_glasshouse.workloads import mlp_material

        return mlp_material.prepare(seed=seed)
    if workload == "lora":
        from pytest_glasshouse.workloads import lora_material

        return lora_material.prepare(
            seed=seed, model=model, data=data, rank=rank, targets=targets, alpha=alpha, online=online, sealed=sealed,
            stand_in=stand_in,
        )  # fmt: skip
    raise ConfigurationError(f"workload {workload!r}: expected mlp or lora")


def check(workload: WorkloadName, *, data: str | None = None) -> None:
    """Raise `ConfigurationError` if `prepare` lacks a package or a text on this machine. Called before anything is rented."""
    if workload == "lora":
        from pytest_glasshouse.workloads import lora_material

        lora_material.check(data=data)


def open_trainer(
    name: str, parts: Parts, *, base_dir: Path | None = None, device: DeviceName, ranks: DataParallel | None = None
) -> Trainer:
    """The guest's half: the workload on `device`, as one of several `ranks` or alone.

    Its tensors are views into `parts` where those are on the device already. The caller must keep the parts mapped and unchanged
    until `close()`. Parts that the workload does not know, such as the canary, are ignored. Raises `IntegrityError` when the
    parts do not fit the model.
    """
    if name == "mlp":
        from pytest_glasshouse.workloads.mlp import MlpTrainer

        return MlpTrainer(parts, device=device, ranks=ranks)
    if name == "lora":
        from pytest_glasshouse.workloads.lora import LoraTrainer

        return LoraTrainer(parts, base_dir=base_dir, device=device, ranks=ranks)
    raise ConfigurationError(f"workload {name!r}: expected mlp or lora")
