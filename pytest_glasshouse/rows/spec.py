"""`RowSpec`, the declaration that a row's test is parametrized with. How a row is carried out is not in it.

`row_id` is computed from the content, so that rows of the same work have the same id and a row that an option changed has
another one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Protocol, TypedDict, TypeVar, get_args

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.rows.leg_order import MOST_ROUNDS

Order = Literal["raw-first", "protected-first", "interleaved"]
Gpu = Literal["h100", "pro6000", "a4000", "rtx4090", "rtx3090", "anygpu"]
WorkloadName = Literal["mlp", "lora"]
RowKind = Literal["smoke", "sustained", "null"]
Preset = Literal["quick", "standard", "publish"]
ModelSource = Literal["there", "hub", "pushed"]
Base = Literal["pinned", "sealed"]

#: Required fields with a fixed set of values.
_CHOICES: Mapping[str, object] = {"workload": WorkloadName, "gpu": Gpu, "order": Order}

#: The GPU a row names, as NVML spells it. `anygpu` names none.
GPU_MODELS: dict[str, str] = {
    "h100": "NVIDIA H100 80GB HBM3",
    "pro6000": "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    "a4000": "NVIDIA RTX A4000",
    "rtx4090": "NVIDIA GeForce RTX 4090",
    "rtx3090": "NVIDIA GeForce RTX 3090",
}

#: The GPU model of a pod without a GPU, which only a simulated provider may have.
SIMULATED_GPU = "simulated (CPU)"

#: Rows whose legs train at least this long are marked `sustained`.
SUSTAINED_S = 900

#: The most other parameters that a row's test may have, and the longest name or text of one.
MOST_PARAMETERS = 32
LONGEST_PARAMETER = 120

#: Fields that only an interleaved row may set, and their values elsewhere.
_INTERLEAVED: Mapping[str, object] = {"preset": None, "cut": False, "null": False, "resident": True}

#: Fields that only a lora row may set, and their values in the published rows.
_LORA: Mapping[str, object] = {"rank": 4, "targets": ("q_proj", "v_proj"), "alpha": None}
#: Fields added later than these that only a lora row may set, and their defaults.
_BASE: Mapping[str, object] = {"base": "pinned"}
#: The largest rank of an adapter: a larger one would hardly be smaller than the layer it adapts.
_LARGEST_RANK = 1024
#: How many GPUs a leg may have. A batch of mlp is shared out evenly.
_GPUS = (1, 2, 4, 8)
_ONE_GPU: Mapping[str, object] = {"gpus": 1, "nodes": 1}
#: Fields that the first rows did not have, and their defaults: they count in a row's id only where they differ.
_ADDED_LATER: Mapping[str, object] = {**_INTERLEAVED, **_LORA, **_BASE, **_ONE_GPU, "parameters": ()}
_NEVER = object()
_LARGEST_ALPHA = 1 << 16
_MOST_TARGETS = 16
_TARGET = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")

OutcomeT_co = TypeVar("OutcomeT_co", covariant=True)


class RowRunner(Protocol[OutcomeT_co]):
    """Carries a row out: the object that the `allocation` fixture returns."""

    def carry_out(self, row: RowSpec, protected: Any, raw: Any) -> OutcomeT_co: ...


class AdapterShape(TypedDict):
    """The adapter a row trains. Without `alpha`, it is twice the rank."""

    rank: int
    targets: list[str]
    alpha: NotRequired[int]


class AdapterRecord(TypedDict, total=False):
    """The adapter, where it is another than the published rows'."""

    adapter: AdapterShape


@dataclass(frozen=True, kw_only=True)
class Published:
    """The published result of a row. `overhead_pct` is the printed figure; None where no raw leg was published."""

    source: str
    overhead_pct: float | None = None
    order: Order | None = None
    label: str | None = None


class _KeywordOnly(type):
    """Reports a misspelt or missing field as a `ConfigurationError`, like an invalid value, instead of a `TypeError`."""

    if not TYPE_CHECKING:

        def __call__(cls, *positional: object, **given: object) -> object:
            fields = _fields_of(cls)
            row = f"row {given['name']!r}" if "name" in given else "a row"
            known = f"A row has {', '.join(fields)}"
            if positional:
                raise ConfigurationError(f"{row}: expected every field by its name; saw {len(positional)} without. {known}")
            if unknown := [name for name in given if name not in fields]:
                told = (
                    f"no field {name}.{f' Did you mean {close}?' if (close := _close(name, fields)) else ''}" for name in unknown
                )
                raise ConfigurationError(f"{row}: {' '.join(told)} {known}")
            if missing := [name for name, needed in fields.items() if needed and name not in given]:
                allowed = get_args(_CHOICES.get(missing[0]))
                expected = f"one of {', '.join(allowed)}" if allowed else "a name"
                more = f" (nor {', '.join(missing[1:])})" if missing[1:] else ""
                raise ConfigurationError(f"{row}: field {missing[0]}: expected {expected}; saw none{more}")
            return super().__call__(**given)


@cache
def _fields_of(row: Any) -> dict[str, bool]:
    """The fields of a row, and whether each must be given."""
    return {each.name: each.default is dataclasses.MISSING for each in dataclasses.fields(row)}


def _close(name: str, fields: Iterable[str]) -> str:
    """The field that a misspelt name probably means, such as one without its unit."""
    from difflib import get_close_matches

    fields = list(fields)
    begun = [field for field in fields if field.rpartition("_")[0] == name]
    return next(iter(begun or get_close_matches(name, fields, n=1, cutoff=0.5)), "")


@dataclass(frozen=True, kw_only=True)
class RowSpec(metaclass=_KeywordOnly):
    """One benchmark row. Exactly one of `target_s` (seconds) and `steps` (units of the workload) is set.

    Raises `ConfigurationError`, which names row and field, for an invalid, an unknown or a missing field.
    """

    name: str
    workload: WorkloadName
    gpu: Gpu
    order: Order
    target_s: float | None = None
    steps: int | None = None
    warmup_s: float = 5.0
    rounds: int = 1
    provider: str = "mock"
    """The provider that the row was published on, used by `--provider row`."""
    model: str | None = None
    """Hub id, with or without a commit (`ORG/NAME@COMMIT`), or directory of a causal LM (lora rows)."""
    model_source: ModelSource | None = None
    """How the model reaches a rented guest (lora rows): `there`, from the `hub`, or `pushed`; None: the first that can."""
    base: Base = "pinned"
    """How the model is protected (lora rows). `pinned`: its files lie on the guest, pinned by digest: for a public model.
    `sealed`: its weights are in the sealed package and in no file of the guest: for one that the guest's owner must not have.
    Such a row has no raw leg, which would give the weights away, and so no overhead; its order is `protected-first`."""
    data: str | None = None
    """Path of a text file to train on instead of the packaged corpus (lora rows)."""
    rank: int = 4
    """The adapter's rank (lora rows)."""
    alpha: int | None = None
    """The adapter's alpha (lora rows); twice the rank unless it is given."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the layers that get an adapter (lora rows): `("qkv_proj",)` for Phi-3, `("c_attn",)` for GPT-2."""
    margin_pct: float = 1.0
    preset: Preset | None = None
    """The time of an interleaved row, which goes into rounds of few pairs."""
    cut: bool = False
    """Whether the row has as many rounds as its preset's time holds, by what its first one cost; else `rounds` of them."""
    null: bool = False
    """Raw against raw: measures what the allocation shows where nothing differs (interleaved rows)."""
    resident: bool = True
    """Whether both legs of an interleaved row fit on the device together; otherwise whole lifecycles alternate."""
    gpus: int = 1
    """How many GPUs a leg trains on in all: data-parallel, as many ranks, each on a GPU of its own. On a machine without a GPU
    they are processes on its CPU."""
    nodes: int = 1
    """Over how many machines the GPUs of a leg are spread, as many on each (`slurm` only, and legs one after the other)."""
    smoke: bool = False
    published: Published | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    """The other parameters of the row's test, name and text, sorted by name. Set by the plugin: a test of the same row with
    other parameters is another row."""

    def __post_init__(self) -> None:
        refused: dict[str, str] = {}
        self.__dict__["_refused"] = refused
        try:
            self._check()
        except (TypeError, ValueError):
            # A later check met a value that an earlier one had refused.
            if not refused:
                raise
        finally:
            del self.__dict__["_refused"]
        if refused:
            told = (
                f"field {field}: expected {expected}; saw {getattr(self, field, None)!r}" for field, expected in refused.items()
            )
            raise ConfigurationError(f"row {self.name!r}: {'; '.join(told)}")

    def _check(self) -> None:
        """Every check, also after one has failed: all fields that are wrong are told at once."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            self._refuse("name", "1 to 80 of A-Z a-z 0-9 _ . -, starting with a letter or digit")
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in get_args(allowed):
                self._refuse(field, "one of " + ", ".join(get_args(allowed)))
        if (self.target_s is None) == (self.steps is None):
            self._refuse("target_s", "exactly one of target_s (seconds) and steps")
        self._number("target_s", self.target_s, above=0.0)
        self._number("warmup_s", self.warmup_s, least=0.0)
        self._number("margin_pct", self.margin_pct, above=0.0)
        self._whole("steps", self.steps)
        if self._whole("rounds", self.rounds) and self.rounds > MOST_ROUNDS:
            self._refuse("rounds", f"at most {MOST_ROUNDS}")
        self._whole("gpus", self.gpus)
        if self.gpus not in _GPUS:
            self._refuse("gpus", "one of " + ", ".join(map(str, _GPUS)))
        self._nodes()
        self._interleaved()
        self._lora()
        self._parameters()
        if self.workload == "lora" and not self.model:
            self._refuse("model", "a hub id or a directory, for a lora row")
        if self.workload == "mlp" and (self.model or self.data):
            self._refuse("model" if self.model else "data", "nothing, for an mlp row")

    def _nodes(self) -> None:
        if self._whole("nodes", self.nodes) and self.gpus % self.nodes:
            self._refuse("nodes", f"a divisor of the {self.gpus} GPUs")
        if self.nodes != 1 and self.order == "interleaved":
            self._refuse("nodes", "1, for an interleaved row")

    def _interleaved(self) -> None:
        if self.preset is not None and self.preset not in get_args(Preset):
            self._refuse("preset", "one of " + ", ".join(get_args(Preset)))
        if self.cut and (self.preset is None or self.target_s is None or not self.resident):
            self._refuse("cut", "False, for a row without a preset, of whole lifecycles or with a target in steps")
        for field, usual in _INTERLEAVED.items():
            if self.order != "interleaved" and getattr(self, field) != usual:
                self._refuse(field, f"{usual!r}, for a row that is not interleaved")

    def _lora(self) -> None:
        if self._whole("rank", self.rank) and self.rank > _LARGEST_RANK:
            self._refuse("rank", f"at most {_LARGEST_RANK}")
        if self._whole("alpha", self.alpha) and self.alpha is not None and self.alpha > _LARGEST_ALPHA:
            self._refuse("alpha", f"at most {_LARGEST_ALPHA}")
        names = self.targets
        if (
            not isinstance(names, tuple | list)
            or not 0 < len(names) <= _MOST_TARGETS
            or not all(isinstance(name, str) and _TARGET.fullmatch(name) for name in names)
            or len(set(names)) != len(names)
        ):
            self._refuse("targets", f"1 to {_MOST_TARGETS} names of layers, each once, such as ('q_proj', 'v_proj')")
        else:
            # The order has no effect, so it must not change the row id.
            object.__setattr__(self, "targets", tuple(sorted(names)))
        if self.model_source is not None and (self.workload == "mlp" or self.model_source not in get_args(ModelSource)):
            self._refuse("model_source", "nothing, or for a lora row one of " + ", ".join(get_args(ModelSource)))
        for field, usual in {**_LORA, **_BASE}.items():
            if self.workload == "mlp" and getattr(self, field) != usual:
                self._refuse(field, "nothing, for an mlp row")

        self._sealed()

    def _sealed(self) -> None:
        if self.base not in get_args(Base):
            self._refuse("base", "one of " + ", ".join(get_args(Base)))
        if self.base == "sealed" and self.order != "protected-first":
            self._refuse("order", "protected-first, for a row whose base is sealed: it has no raw leg")
        if self.base == "sealed" and self.model_source is not None:
            self._refuse("model_source", "nothing, for a row whose base is sealed: no file of it is brought to the guest")
        if self.base == "sealed" and self.gpus != 1:
            self._refuse("gpus", "1, for a row whose base is sealed")

    def _parameters(self) -> None:
        given = self.parameters
        pairs = isinstance(given, tuple) and all(isinstance(each, tuple) and len(each) == 2 for each in given)  # noqa: PLR2004
        texts = pairs and all(isinstance(text, str) and 0 < len(text) <= LONGEST_PARAMETER for each in given for text in each)
        if not texts or len(given) > MOST_PARAMETERS or list(given) != sorted(dict(given).items()):
            self._refuse("parameters", f"at most {MOST_PARAMETERS} pairs of short texts, each name once, sorted by name")

    def _refuse(self, field: str, expected: str) -> None:
        """Note what was expected of a field; what is noted first of it stays."""
        self.__dict__["_refused"].setdefault(field, expected)

    def _number(self, field: str, value: object, *, above: float | None = None, least: float | None = None) -> None:
        if value is None and field == "target_s":
            return
        bound = f"above {above:g}" if above is not None else f"at least {least:g}"
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or (above is not None and value <= above)
            or (least is not None and value < least)
        ):
            self._refuse(field, f"a finite number {bound}")

    def _whole(self, field: str, value: object) -> bool:
        """Whether the field is a whole number, or may be and is None."""
        if value is None and field in ("steps", "alpha"):
            return True
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._refuse(field, "a whole number of at least 1")
            return False
        return True

    @property
    def gpu_model(self) -> str | None:
        """The GPU this row names, as NVML spells it; None for a row for any GPU."""
        return GPU_MODELS.get(self.gpu)

    @property
    def sealed(self) -> bool:
        """Whether the row's base model is in its package, which is confidential: there is no raw leg and no overhead."""
        return self.base == "sealed"

    @property
    def adapter(self) -> AdapterRecord:
        """The `adapter` member of plans and records; empty for the published rows' adapter."""
        if all(getattr(self, field) == usual for field, usual in _LORA.items()):
            return {}
        shape: AdapterShape = {"rank": self.rank, "targets": list(self.targets)}
        if self.alpha is not None:
            shape["alpha"] = self.alpha
        return {"adapter": shape}

    @cached_property
    def row_id(self) -> str:
        """Name and the first 12 hex digits of the SHA-256 of the row's content, without `published`, `smoke` and `model_source`.

        Fields that were added later (interleaving, adapter, base, GPUs, nodes, parameters) count only where they differ from
        their default, so that older rows keep their ids.
        """
        unused = {"published", "smoke", "model_source"}
        content = {
            name: value
            for name in _fields_of(RowSpec)
            if name not in unused and ((value := getattr(self, name)) != _ADDED_LATER.get(name, _NEVER))
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"

    @property
    def marks(self) -> tuple[str, ...]:
        """The markers this row carries, from its fields."""
        if self.gpus > 1:
            # Nobody who says `h100 and mlp` means to pay for eight of them.
            return ("multigpu",)
        # A sealed row is chosen by its own marker only: it has no overhead, and needs its model on the machine that starts it.
        workload = "sealed" if self.sealed else {"mlp": "mlp", "lora": "qwen"}[self.workload]
        kinds = (["smoke"] if self.smoke else []) + (["sustained"] if (self.target_s or 0) >= SUSTAINED_S else [])
        kinds += ["null"] if self.null else []
        return (self.gpu, workload, *kinds)

    def run(self, allocation: RowRunner[OutcomeT_co], protected_runtime: Any, raw_runner: Any) -> OutcomeT_co:
        """Carry out both legs on `allocation`, in this row's order and rounds.

        A leg that fails or a guest that is lost does not raise: the outcome says how the row ended, and
        `row_report.record` writes it. A `GlasshouseError` means that the tool itself failed.
        """
        return allocation.carry_out(self, protected_runtime, raw_runner)

    def to_json(self) -> dict[str, object]:
        """The row as plain JSON values, for a message to another process; `from_json` reads it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RowSpec:
        """The row that `to_json` wrote. Raises `ConfigurationError` like the constructor."""
        published = content.get("published")
        restored = {
            "published": Published(**published) if published else None,
            "parameters": tuple((name, text) for name, text in content.get("parameters", ())),
        }
        return cls(**{**content, **restored})
