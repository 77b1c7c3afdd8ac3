"""The `config` part of each workload's material: the host writes it, the trainer reads it.

Floats are texts, because the package's canonical JSON holds integers only.
"""

# Annotations are evaluated: `check_typed` reads them.
from typing import Literal, NotRequired, TypedDict


class SgdSettings(TypedDict):
    """The optimizer of mlp."""

    name: Literal["sgd"]
    learningRate: str
    momentum: str
    weightDecay: str


class MlpConfig(TypedDict):
    """What an mlp trainer needs beside its tensors."""

    workload: Literal["mlp"]
    unit: Literal["epochs"]
    seed: int
    sizes: dict[str, int]
    optimizer: SgdSettings


class LoraSettings(TypedDict):
    """The adapter: its rank, its alpha and the names of the layers that get one."""

    rank: int
    alpha: int
    targets: list[str]


class AdamSettings(TypedDict):
    """The optimizer of lora."""

    name: Literal["adamw"]
    learningRate: str
    clipNorm: str


class TokenizerProbe(TypedDict):
    """A text, and its ids by the host's tokenizer."""

    text: str
    ids: list[int]


class BaseIdentity(TypedDict):
    """Which base model the material was made for. `parts` names, by file, the parts that hold it, where the package does."""

    modelId: str
    revision: str | None
    sha256: str
    standIn: bool
    parts: NotRequired[dict[str, str]]


class LoraConfig(TypedDict):
    """What a lora trainer needs beside its tensors."""

    workload: Literal["lora"]
    unit: Literal["steps"]
    seed: int
    sequenceTokens: int
    lora: LoraSettings
    optimizer: AdamSettings
    base: BaseIdentity
    probe: TokenizerProbe
