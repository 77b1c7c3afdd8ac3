"""What a workload is to everybody else: material made on the host, and a trainer opened on it in the guest.

Knows the two halves' shapes and which module has which workload. The host half needs numpy only and draws
everything from a recorded seed; the guest half needs torch. Refuses to know of packages, keys, sockets and legs:
parts come in as memory and adapters go out as bytes, so both legs run exactly this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_glasshouse.workloads.resident import Resident

DeviceName = Literal["cuda", "cpu"]
WorkloadName = Literal["mlp", "lora"]
Facts = dict[str, Any]
Parts: TypeAlias = "Mapping[str, memoryview | Resident]"

PROLOGUE_STEPS = 32
"""Steps both legs take first, from the same weights and data, so that *same work* can be seen."""

GUEST_ENVIRONMENT: Mapping[str, str] = {
    # A leg never reaches for the network, and thread pools that nobody asked for are not started.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""What the environment of both legs should hold before Python starts."""


class NonFiniteLossError(GlasshouseError):
    """A loss was NaN or infinite: what was trained is worth nothing, and its speed is not a measurement."""


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The public model an adapter is trained on: pinned by `sha256`, lying in `directory` or to be laid down from `files`."""

    model_id: str
    revision: str | None
    sha256: str
    stand_in: bool
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    directory: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the host seals: `config` (canonical JSON), the data, and `initial` (safetensors)."""

    parts: Mapping[str, bytes] = field(repr=False)
    initial_sha256: str
    base: BaseModel | None
    facts: Facts


class Trainer(Protocol):
    """A workload on a device. One `step` is one unit: an epoch of mlp, an optimizer step of lora."""

    unit: str

    def initial_sha256(self) -> str:
        """The digest of the trainable tensors as they were loaded, computed from the model itself."""

    def prologue(self, steps: int = PROLOGUE_STEPS) -> list[str]:
        """Train `steps` units from the initial weights in the one order both legs share; the losses, exactly."""

    def reset(self, order_seed: int) -> None:
        """Back to the initial weights and an empty optimizer, with a data order of this leg's own."""

    def step(self) -> None:
        """One unit. Does not wait for the device."""

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""

    def check(self) -> str:
        """The last loss; raises `NonFiniteLossError` if any loss since the last reset was not finite."""

    def export(self) -> bytes:
        """What was trained, as safetensors."""

    def last_batch(self) -> list[memoryview]:
        """The samples last trained on, where they lie in the parts; none before the first step."""

    def close(self) -> None:
        """Zero and drop every tensor. Afterwards no view into the parts is left, so the caller can wipe and unmap them."""

    def facts(self) -> Facts:
        """What ran, for the record."""


def prepare(
    workload: WorkloadName,
    *,
    seed: int,
    model: str | None = None,
    data: str | None = None,
    rank: int | None = None,
    targets: Sequence[str] | None = None,
) -> Material:
    """The host's half: everything the package holds, drawn from `seed`. Never touches the network.

    Raises `ConfigurationError` when what a lora row names is something the user can put right.
    """
    if workload == "mlp":
        from pytest_glasshouse.workloads import mlp_material

        return mlp_material.prepare(seed=seed)
    if workload == "lora":
        from pytest_glasshouse.workloads import lora_material

        return lora_material.prepare(seed=seed, model=model, data=data, rank=rank, targets=targets)
    raise ConfigurationError(f"workload {workload!r}: expected mlp or lora")


def check(workload: WorkloadName, *, data: str | None = None) -> None:
    """Raise `ConfigurationError` for what `prepare` would lack on this machine, wherever the row runs: nobody rents for that."""
    if workload == "lora":
        from pytest_glasshouse.workloads import lora_material

        lora_material.check(data=data)


def open_trainer(name: str, parts: Parts, *, base_dir: Path | None = None, device: DeviceName) -> Trainer:
    """The guest's half: the workload on `device`, its tensors lying in `parts` where those lie on the device already.

    The caller keeps the parts mapped and unchanged until `close()`. Canary and other parts the workload does not
    know are left alone. Raises `IntegrityError` when the parts do not fit the model they are for.
    """
    if name == "mlp":
        from pytest_glasshouse.workloads.mlp import MlpTrainer

        return MlpTrainer(parts, device=device)
    if name == "lora":
        from pytest_glasshouse.workloads.lora import LoraTrainer

        if base_dir is None:
            raise ConfigurationError("workload lora: expected the directory of its base model; saw none")
        return LoraTrainer(parts, base_dir=base_dir, device=device)
    raise ConfigurationError(f"workload {name!r}: expected mlp or lora")
