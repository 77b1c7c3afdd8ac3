"""What a base model's files say of it, read without torch: whether a lora row can train on it, before anybody rents for that.

Knows a causal language model's directory: config, tokenizer, and the names and shapes at the head of its weights. What is
wrong is one sentence that names the file. Refuses to load the model: the guest does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.tensors import head_bytes, parse_safetensors
from pytest_glasshouse.workloads.model_files import JSON_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_glasshouse.wire.tensors import TensorEntry
    from pytest_glasshouse.workloads.base import BaseModel

#: Under which names a config has how far positions are learned.
_POSITIONS = ("max_position_embeddings", "n_positions")
#: What transformers calls classes that foretell the next token.
_CAUSAL = ("ForCausalLM", "LMHeadModel")
#: Under which names a config has the model's width.
_WIDTHS = ("hidden_size", "n_embd", "d_model")
#: Architectures whose layers are transformers' `Conv1D`: their weights lie [inputs, outputs], everybody else's the other way.
_TRANSPOSED = frozenset({"gpt2", "openai-gpt"})
#: What stands before a layer's name once the model has its head, where files were saved without one.
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
    """A layer that gets an adapter: its path in the whole model, and how many numbers go in and come out."""

    path: str
    inputs: int
    outputs: int


def config_of(base: BaseModel, *, sequence_tokens: int) -> dict[str, Any]:
    """`config.json` of a causal language model with plain weights, long enough for a sequence. Raises `ConfigurationError`."""
    config: Any
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
        told = ", ".join(map(str, classes[:3]))[:100]
        raise ConfigurationError(
            f"model {base.model_id}: expected a causal language model ({' or '.join('...' + end for end in _CAUSAL)}); saw {told}"
        )
    if config.get("quantization_config"):
        raise ConfigurationError(f"model {base.model_id}: expected plain weights; config.json says that they are quantized")
    positions = min((config[name] for name in _POSITIONS if isinstance(config.get(name), int)), default=sequence_tokens)
    if positions < sequence_tokens:
        raise ConfigurationError(
            f"model {base.model_id}: config.json: expected room for the {sequence_tokens} tokens of a sequence; saw {positions}"
        )
    return config


def width_of(config: Mapping[str, Any]) -> int | None:
    """The size of the model's hidden state, by whichever name the config has for it."""
    found = (config.get(name) for name in _WIDTHS)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None)


def tokenizer_of(base: BaseModel, config: Mapping[str, Any]) -> Any:
    """The tokenizer, which cuts and fills nothing and knows no token that the model has no embedding for.

    Raises `ConfigurationError`.
    """
    from tokenizers import Tokenizer

    where = f"model {base.model_id}: tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(file_of(base, "tokenizer.json").decode())
    except Exception as error:  # noqa: BLE001  (the library raises nothing narrower)
        raise ConfigurationError(f"{where}: cannot be read ({str(error)[:120]})") from None
    for what, saved in (("truncation", tokenizer.truncation), ("padding", tokenizer.padding)):
        if saved is not None:
            # It would train on the beginning of the text, or on what fills it up, and nobody would see it.
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


def layers_of(base: BaseModel, config: Mapping[str, Any], targets: Sequence[str]) -> tuple[Layer, ...]:
    """The layers called one of `targets`, from the first to the last. Raises `ConfigurationError`, naming what there is."""
    tensors = tensors_of(base)
    _same_vocabulary(base, config, tensors)
    body = _BODY.get(str(config.get("model_type")), "model")
    headless = not any(name.startswith(f"{body}.") for name in tensors) and any(name.startswith(_BLOCKS) for name in tensors)
    weights = {name.removesuffix(".weight"): entry for name, entry in tensors.items() if name.endswith(".weight")}
    # Only what is there once per block: an embedding or a head is adapted in other ways.
    inner = {path: entry for path, entry in weights.items() if any(part.isdecimal() for part in path.split("."))}
    found: dict[tuple[Any, ...], Layer] = {}
    met: set[str] = set()
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
        met.add(target)
        key = (_order(path.removesuffix(target)), targets.index(target))
        found[key] = Layer(path=f"{body}.{path}" if headless else path, inputs=inputs, outputs=outputs)
    if missing := [each for each in targets if each not in met]:
        names = sorted({path.rpartition(".")[2] for path, entry in inner.items() if len(entry.shape) == _MATRIX})
        raise ConfigurationError(
            f"model {base.model_id} ({config.get('model_type')}): no layer is called {' or '.join(missing)}, which the row's "
            f"adapter is for; it has {', '.join(names[:_NAMED]) or 'none'}. Name some of them in the row's targets"
        )
    return tuple(found[key] for key in sorted(found))


def file_of(base: BaseModel, name: str) -> bytes:
    """One of the model's files, wherever they lie."""
    return base.files[name] if base.directory is None else (base.directory / name).read_bytes()


def tensors_of(base: BaseModel) -> dict[str, TensorEntry]:
    """Name, type and shape of every tensor that loading would read."""
    if base.directory is None:
        return parse_safetensors(base.files["model.safetensors"])
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
        told = parse_tolerant(index.read_bytes(), limit=JSON_LIMIT)
        named = sorted(set(cast("Any", told)["weight_map"].values()))
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
            # What is no such file claims any length.
            head += file.read(min(head_bytes(head), total) - len(head)) if len(head) == 8 else b""  # noqa: PLR2004
        return parse_safetensors(head, total=total)
    except (OSError, IntegrityError) as error:
        why = error.strerror if isinstance(error, OSError) else error.detail
        raise ConfigurationError(
            f"model {base.model_id}: {path.name}: expected a whole safetensors file; {why}. Was it downloaded to its end?"
        ) from None


def _same_vocabulary(base: BaseModel, config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> None:
    for name, entry in tensors.items():
        path = name.removesuffix(".weight")
        if path.rpartition(".")[2] in _EMBEDDINGS and len(entry.shape) == _MATRIX and entry.shape[0] != config["vocab_size"]:
            raise ConfigurationError(
                f"model {base.model_id}: expected {path} to have {config['vocab_size']} rows, as config.json says; saw "
                f"{entry.shape[0]}. Are its files of one model?"
            )


def _order(path: str) -> tuple[tuple[int, int, str], ...]:
    """Layer 10 comes after layer 9."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in path.split("."))


def _shortly(saved: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in saved.items() if isinstance(value, int | str))[:80]
