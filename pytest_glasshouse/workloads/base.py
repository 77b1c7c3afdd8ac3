"""The interface of a workload: the material that the host prepares, and the trainer that the guest opens on it.

This module knows packages, keys, sockets and legs no more than a workload does: parts come in as memory and adapters go out as
bytes, so that both legs run the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from pytest_glasshouse.errors import GlasshouseError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_glasshouse.workloads.resident import Resident

DeviceName = Literal["cuda", "cpu"]
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
