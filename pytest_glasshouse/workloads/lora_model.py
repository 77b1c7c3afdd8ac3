"""Checks, without torch, whether a lora row can train on a base model, before anything is rented.

Reads a causal language model's directory: config, tokenizer, and tensor names and shapes from the head of its weights. The model
itself is loaded on the guest only. Every error names the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.tensors import head_bytes, parse_safetensors
from pytest_glasshouse.workloads.model_files import JSON_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.tensors import TensorEntry
    from pytest_glasshouse.workloads.base import BaseModel

#: Config fields for the number of positions.
_POSITIONS = ("max_position_embeddings", "n_positions")
#: Name endings of transformers' classes for causal language models.
_CAUSAL = ("ForCausalLM", "LMHeadModel")
#: Config fields for the model's width.
_WIDTHS = ("hidden_size", "n_embd", "d_model")
#: Architectures whose layers are transformers' `Conv1D`: weights are stored as [inputs, outputs], elsewhere as [outputs, inputs].
_TRANSPOSED = frozenset({"gpt2", "openai-gpt"})
#: The prefix of layer names in a model with its head, for files that were saved without one.
_BODY = {
    "gpt2": "transformer", "openai-gpt": "transformer", "gpt_neo": "transformer", "gptj": "transformer", "bloom": "transformer",
    "falcon": "transformer", "mpt": "transformer", "gpt_neox": "gpt_neox",
}  # fmt: skip
_BLOCKS = ("h.", "layers.", "decoder.layers.", "blocks.")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tokens_embed")
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
_MATRIX = 2
_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer that gets an adapter: its path in the whole model, and the sizes of its input and output."""

    path: str
    inputs: int
    outputs: int


def config_of(base: BaseModel, *, sequence_tokens: int) -> dict[str, Json]:
    """`config.json`. Raises `ConfigurationError` unless it is a causal LM with plain weights and room for a sequence."""
    try:
        config = parse_tolerant(file_of(base, "config.json"), limit=JSON_LIMIT)
    except IntegrityError:
        config = None
    if not isinstance(config, dict):
        raise ConfigurationError(f"model {base.model_id}: config.json: expected a JSON object; saw something else")
    if width_of(config) is None:
        raise ConfigurationError(f"model {base.model_id}: config.json: expected hidden_size (or n_embd, d_model); not there")
    classes = config.get("architectures")
    if isinstance(classes, list) and not any(isinstance(one, str) and one.endswith(_CAUSAL) for one in classes):
        seen = ", ".join(map(str, classes[:3]))[:100]
        raise ConfigurationError(
            f"model {base.model_id}: expected a causal language model ({' or '.join('...' + end for end in _CAUSAL)}); saw {seen}"
        )
    if config.get("quantization_config"):
        raise ConfigurationError(f"model {base.model_id}: expected plain weights; config.json says that they are quantized")
    positions = min((most for name in _POSITIONS if isinstance(most := config.get(name), int)), default=sequence_tokens)
    if positions < sequence_tokens:
        raise ConfigurationError(
            f"model {base.model_id}: config.json: expected room for the {sequence_tokens} tokens of a sequence; saw {positions}"
        )
    return config


def width_of(config: Mapping[str, Json]) -> int | None:
    """The size of the model's hidden state, by the first of its names in the config."""
    found = (config.get(name) for name in _WIDTHS)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None)


def tokenizer_of(base: BaseModel, config: Mapping[str, Json]) -> Any:
    """The tokenizer. Raises `ConfigurationError` if it truncates, pads, or has tokens without an embedding in the model."""
    from tokenizers import Tokenizer

    where = f"model {base.model_id}: tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(file_of(base, "tokenizer.json").decode())
    except Exception as error:  # noqa: BLE001  (the library raises nothing narrower)
        raise ConfigurationError(f"{where}: cannot be read ({str(error)[:120]})") from None
    for what, saved in (("truncation", tokenizer.truncation), ("padding", tokenizer.padding)):
        if saved is not None:
            # Training would silently use only the beginning of the text, or padding.
            raise ConfigurationError(
                f'{where}: expected no saved {what}; saw {_shortly(saved)}. Set "{what}" to null in that file, or save the '
                f"tokenizer after no_{what}()"
            )
    size = config.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigurationError(f"model {base.model_id}: config.json: expected vocab_size; not there")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= size:
        raise ConfigurationError(
            f"{where}: has token ids up to {largest}, and config.json says vocab_size {size}: the model has no embedding for all "
            "of them. Expected this model's own tokenizer"
        )
    return tokenizer


def layers_of(base: BaseModel, config: Mapping[str, Json], targets: Sequence[str]) -> tuple[Layer, ...]:
    """The layers named in `targets`, from first to last. Raises `ConfigurationError`, which lists the layers there are."""
    tensors = tensors_of(base)
    _same_vocabulary(base, config, tensors)
    body = _BODY.get(str(config.get("model_type")), "model")
    headless = not any(name.startswith(f"{body}.") for name in tensors) and any(name.startswith(_BLOCKS) for name in tensors)
    weights = {name.removesuffix(".weight"): entry for name, entry in tensors.items() if name.endswith(".weight")}
    # Only layers of numbered blocks: embeddings and heads are adapted in other ways.
    inner = {path: entry for path, entry in weights.items() if any(part.isdecimal() for part in path.split("."))}
    found: dict[tuple[object, ...], Layer] = {}
    matched: set[str] = set()
    for path, entry in inner.items():
        target = next((each for each in targets if path == each or path.endswith(f".{each}")), None)
        if target is None:
            continue
        if len(entry.shape) != _MATRIX or entry.dtype not in _FLOATS:
            raise ConfigurationError(
                f"model {base.model_id}: {path}: expected a matrix of floats, which an adapter can be put beside; saw "
                f"{entry.dtype} of shape {list(entry.shape)}"
            )
        outputs, inputs = reversed(entry.shape) if str(config.get("model_type")) in _TRANSPOSED else entry.shape
        matched.add(target)
        key = (_order(path.removesuffix(target)), targets.index(target))
        found[key] = Layer(path=f"{body}.{path}" if headless else path, inputs=inputs, outputs=outputs)
    if missing := [each for each in targets if each not in matched]:
        names = sorted({path.rpartition(".")[2] for path, entry in inner.items() if len(entry.shape) == _MATRIX})
        raise ConfigurationError(
            f"model {base.model_id} ({config.get('model_type')}): no layer is called {' or '.join(missing)}, which the row's "
            f"adapter is for; it has {', '.join(names[:_NAMED]) or 'none'}. Name some of them in the row's targets"
        )
    return tuple(found[key] for key in sorted(found))


def file_of(base: BaseModel, name: str) -> bytes:
    """One of the model's files."""
    return base.content[name] if base.directory is None else (base.directory / name).read_bytes()


def weight_files(base: BaseModel) -> tuple[str, ...]:
    """The names of the files of weights that loading reads, in the order of their names."""
    if base.directory is None:
        return tuple(sorted(file.name for file in base.files if file.name.endswith(".safetensors")))
    if (base.directory / "model.safetensors").is_file():
        return ("model.safetensors",)
    return tuple(_shards(base, base.directory / "model.safetensors.index.json"))


def tensors_of(base: BaseModel) -> dict[str, TensorEntry]:
    """Every tensor that loading would read, by name."""
    if base.weights is not None:
        return dict(base.weights)
    if base.directory is None:
        return parse_safetensors(base.content["model.safetensors"])
    whole, index = base.directory / "model.safetensors", base.directory / "model.safetensors.index.json"
    if whole.is_file():
        return _head(base, whole)
    if not index.is_file():
        raise ConfigurationError(f"model {base.model_id}: expected model.safetensors or model.safetensors.index.json; not there")
    tensors: dict[str, TensorEntry] = {}
    for name in _shards(base, index):
        tensors |= _head(base, base.directory / name)
    return tensors


def _shards(base: BaseModel, index: Path) -> Iterable[str]:
    try:
        content: Any = parse_tolerant(index.read_bytes(), limit=JSON_LIMIT)
        named = sorted(set(content["weight_map"].values()))
    except (IntegrityError, KeyError, TypeError, AttributeError):
        named = []
    if not named:
        raise ConfigurationError(f"model {base.model_id}: {index.name}: expected a weight_map; saw something else")
    return named


def _head(base: BaseModel, path: Path) -> dict[str, TensorEntry]:
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            # A file of another format may claim any length.
            head += file.read(min(head_bytes(head), total) - len(head)) if len(head) == 8 else b""  # noqa: PLR2004
        return parse_safetensors(head, total=total)
    except (OSError, IntegrityError) as error:
        why = error.strerror if isinstance(error, OSError) else error.detail
        raise ConfigurationError(
            f"model {base.model_id}: {path.name}: expected a whole safetensors file; {why}. Was it downloaded to its end?"
        ) from None


def _same_vocabulary(base: BaseModel, config: Mapping[str, Json], tensors: Mapping[str, TensorEntry]) -> None:
    for name, entry in tensors.items():
        path = name.removesuffix(".weight")
        if path.rpartition(".")[2] in _EMBEDDINGS and len(entry.shape) == _MATRIX and entry.shape[0] != config["vocab_size"]:
            raise ConfigurationError(
                f"model {base.model_id}: expected {path} to have {config['vocab_size']} rows, as config.json says; saw "
                f"{entry.shape[0]}. Are its files of one model?"
            )


def _order(path: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key by which layer 10 comes after layer 9."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in path.split("."))


def _shortly(saved: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in saved.items() if isinstance(value, int | str))[:80]
