"""The interface of a workload: the material that the host prepares, and the trainer that the guest opens on it.

A workload knows no packages, keys, sockets or legs: parts come in as memory and adapters go out as bytes, so that both legs run
the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.workloads.model_files import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.part_file import PartSource
    from pytest_glasshouse.wire.tensors import TensorEntry
    from pytest_glasshouse.workloads.model_files import ModelFile
    from pytest_glasshouse.workloads.resident import Resident
    from pytest_glasshouse.workloads.stand_in import StandInShape

DeviceName = Literal["cuda", "cpu"]
Facts: TypeAlias = "dict[str, Json]"
Parts: TypeAlias = "Mapping[str, memoryview | Resident]"

PROLOGUE_STEPS = 32
"""Steps that both legs train first, from the same weights and data: evidence for the invariant *same work*."""

GUEST_ENVIRONMENT: Mapping[str, str] = {
    # A leg never uses the network, and libraries start no thread pools of their own.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # No code that is compiled at run time: it would be loaded after a leg's code was measured, and costs a leg time.
    # torch 2.13 and newer give some products to Triton, and ask for a "1" and nothing else.
    "TORCH_DISABLE_NATIVE_JIT": "1",
    "USE_PYTORCH_KERNEL_CACHE": "0",
    # What the driver itself compiles for a GPU that is newer than torch stays in the process: a leg runs no code of another's.
    "CUDA_CACHE_DISABLE": "1",
}
"""Environment variables of both legs, set before Python starts."""


class NonFiniteLossError(GlasshouseError):
    """A loss was NaN or infinite: the training is worthless and its speed is not a measurement."""


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Where a model's files can be downloaded: `repo` at a commit, from the hub at `endpoint`."""

    endpoint: str
    repo: str
    commit: str


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The public model that an adapter is trained on: every file of it by size and SHA-256, and where the files are.

    The host has its config and tokenizer, in `directory` or in `content`. It has the weights too unless `weights` describes
    them: then a hub has, or the guest makes those of a stand-in. `shape` is a stand-in's.
    """

    model_id: str
    revision: str | None
    files: tuple[ModelFile, ...] = field(repr=False)
    content: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    directory: Path | None = None
    hub: HubSource | None = None
    shape: StandInShape | None = None
    weights: Mapping[str, TensorEntry] | None = field(default=None, repr=False)

    @cached_property
    def sha256(self) -> str:
        """The digest of the list of files, which pins the model."""
        return digest_of(self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def stand_in(self) -> bool:
        """Whether it takes the place of the model of this id."""
        return self.shape is not None

    @property
    def on_host(self) -> bool:
        """Whether the host has all files."""
        return self.weights is None


@dataclass(frozen=True, kw_only=True)
class Material:
    """The parts that the host seals: `config` (canonical JSON), the data, and `initial` (safetensors).

    `sealed` are parts of the package that no raw leg gets: the base model, where the row seals it.
    """

    parts: Mapping[str, bytes] = field(repr=False)
    sealed: Mapping[str, bytes | PartSource] = field(default_factory=dict, repr=False)
    initial_sha256: str
    base: BaseModel | None
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class SealedModel:
    """A model that was sealed ahead of the run, as its owner reads it: its small files, the heads of its weights, and its parts.

    `names` gives the part of each file, and `parts` each part's content, which is decrypted when the row's package is sealed.
    """

    base: BaseModel
    names: Mapping[str, str]
    parts: Mapping[str, bytes | PartSource] = field(repr=False)


class Trainer(Protocol):
    """A workload on a device. One `step` is one unit: an epoch of mlp, an optimizer step of lora."""

    unit: str

    def initial_sha256(self) -> str:
        """The digest of the trainable tensors as they were loaded, computed from the model itself."""

    def prologue(self, steps: int = PROLOGUE_STEPS) -> list[str]:
        """Train `steps` units from the initial weights, in the order that both legs share; returns the exact losses."""

    def repeat_prologue(self, steps: int) -> list[str]:
        """Train the prologue's first `steps` again, in between; afterwards everything is as it was before. Returns the losses."""

    def reset(self, order_seed: int) -> None:
        """Return to the initial weights and an empty optimizer, with this leg's own data order."""

    def step(self) -> None:
        """Train one unit. Does not wait for the device."""

    def synchronize(self) -> None:
        """Wait until the device has finished all work it was given."""

    def check(self) -> str:
        """The last loss; raises `NonFiniteLossError` if any loss since the last reset was not finite."""

    def sample_sha256(self) -> str:
        """A digest of a few of the trainable tensors' numbers, as the last step left them. Costs next to nothing."""

    def batches(self) -> dict[str, Json]:
        """How many batches were used since the last reset, by shape and dtypes (`used_batches`)."""

    def export(self) -> bytes:
        """The trained tensors, as safetensors."""

    def last_batch(self) -> list[memoryview]:
        """The last batch as views into the parts; empty before the first step."""

    def close(self) -> None:
        """Zero and drop every tensor. No view into the parts remains, so that the caller can wipe and unmap them."""

    def facts(self) -> Facts:
        """Device, versions and sizes, for the record."""
