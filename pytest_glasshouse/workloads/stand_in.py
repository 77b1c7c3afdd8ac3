"""Qwen2 models with random weights, used where the named model is not available: a tiny one, and ones of a real model's shape.

They are loaded by the same code as real ones. Needs `tokenizers`, and numpy where weights are made, no torch. The weights have a
fixed seed and are the same bytes everywhere, so that those of the large shapes, which a guest makes, are pinned here.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.workloads.base import BaseModel
from pytest_glasshouse.workloads.corpus import read_corpus
from pytest_glasshouse.workloads.model_files import ModelFile, listed_content
from pytest_glasshouse.workloads.random_weights import RandomFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.wire.canonical import Json

SEED = 20_240_519
#: Tokens of the tokenizer, which is the same for every shape: a model may have more.
_VOCABULARY = 768
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

#: Qwen2's pattern for splitting text before merging.
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, kw_only=True)
class StandInShape:
    """The sizes of a Qwen2 model, and how its weights are drawn.

    `exponent` is that of the smallest magnitude (`RandomFile`), `sha256` the digests of its files of weights, in their order;
    none where they are computed from the weights, which takes as long as to make them.
    """

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    vocabulary: int = _VOCABULARY
    positions: int = 32768
    rope_theta: float = 1e6
    tied: bool = True
    exponent: int = -7
    largest_file: int = 4 << 30
    sha256: tuple[str, ...] = field(default=(), repr=False)

    @property
    def title(self) -> str:
        """What the record calls it."""
        return f"stand-in: Qwen2, {self.layers} layers, hidden {self.hidden}, random weights"


# Larger weights than the usual 0.02: an adapter on a model this small must be able to change its loss.
TINY = StandInShape(
    name="tiny", layers=2, hidden=64, inner=176, heads=4, key_heads=2, positions=512, rope_theta=1e4, exponent=-5,
)  # fmt: skip

#: Every shape, by the name that `--glasshouse-stand-in` takes: the tiny one, and those of Qwen2.5.
SHAPES: Mapping[str, StandInShape] = {
    shape.name: shape
    for shape in (
        TINY,
        StandInShape(name="0.5b", layers=24, hidden=896, inner=4864, heads=14, key_heads=2, vocabulary=151936,
            sha256=("3aa973b695ceeb70761b76608557d46413110847eb8e4c871e2c84a36af41212",),
        ),
        StandInShape(
            name="7b", layers=28, hidden=3584, inner=18944, heads=28, key_heads=4, vocabulary=152064, tied=False,
            sha256=(
                "0911c86ad880e43857d07af72194a89d17cce91ef9512c554c2fa523986061e4",
                "b570a75d9810b05c8bf74095963f3515d615a8478aa883c5d9d8ca14ca439161",
                "ff09960d443c639381cdecd62de9fdf21412be09a48f83922359302f4a54afbd",
                "b87a2dc7308e746c8418f70424bc474571a508e18bcf5c115d803978de91bf2c",
            ),
        ),
    )
}  # fmt: skip


def shape_named(name: str) -> StandInShape:
    """The shape of this name. Raises `ConfigurationError`."""
    if name not in SHAPES:
        raise ConfigurationError(f"stand-in {name!r}: expected one of {', '.join(SHAPES)}")
    return SHAPES[name]


def base(model_id: str, revision: str | None, shape: StandInShape = TINY, *, in_guest: bool = False) -> BaseModel:
    """The stand-in of a model. With `in_guest` its weights are made where they are needed, and never on the host."""
    if in_guest:
        small, weights = small_files(shape), weight_files(shape)
        files = (*listed_content(small), *pinned(shape))
        return BaseModel(
            model_id=model_id, revision=revision, shape=shape, files=tuple(sorted(files)), content=small,
            weights={name: entry for file in weights for name, entry in file.entries().items()},
        )  # fmt: skip
    content = make(shape)
    return BaseModel(model_id=model_id, revision=revision, shape=shape, files=listed_content(content), content=content)


@functools.cache
def make(shape: StandInShape = TINY) -> Mapping[str, bytes]:
    """The files of the model's directory, all in memory."""
    return {**small_files(shape), **{file.name: b"".join(file.pieces()) for file in weight_files(shape)}}


@functools.cache
def pinned(shape: StandInShape) -> tuple[ModelFile, ...]:
    """The files of weights by size and SHA-256."""
    files = weight_files(shape)
    digests = shape.sha256 or tuple(file.sha256() for file in files)
    return tuple(ModelFile(name=file.name, size=file.size, sha256=each) for file, each in zip(files, digests, strict=True))


@functools.cache
def weight_files(shape: StandInShape) -> tuple[RandomFile, ...]:
    """The files of weights: one, or as many as keep each within `largest_file` bytes."""
    ones, groups, size = set[str](), list[dict[str, tuple[int, ...]]]([{}]), 0
    for name, dimensions in _tensors(shape).items():
        if name.endswith("norm.weight"):
            ones.add(name)
        bytes_of = 2 * math.prod(dimensions)
        if groups[-1] and size + bytes_of > shape.largest_file:
            groups.append({})
            size = 0
        groups[-1][name] = dimensions
        size += bytes_of
    count = len(groups)
    names = ["model.safetensors"] if count == 1 else [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    return tuple(
        RandomFile(name=name, seed=SEED, exponent=shape.exponent, tensors=tensors, ones=frozenset(ones & tensors.keys()))
        for name, tensors in zip(names, groups, strict=True)
    )


def _tensors(shape: StandInShape) -> dict[str, tuple[int, ...]]:
    hidden, inner, keys = shape.hidden, shape.inner, shape.hidden // shape.heads * shape.key_heads
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.q_proj.bias": (hidden,),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.v_proj.bias": (keys,),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, hidden)}
    for number in range(shape.layers):
        tensors |= {f"model.layers.{number}.{name}": dimensions for name, dimensions in layer.items()}
    tensors["model.norm.weight"] = (hidden,)
    return tensors if shape.tied else {**tensors, "lm_head.weight": (shape.vocabulary, hidden)}


def small_files(shape: StandInShape) -> Mapping[str, bytes]:
    """All files but the weights."""
    tokenizer_config: dict[str, Json] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": shape.positions,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_prefix_space": False,
    }
    files = {
        "config.json": _json(_config(shape)),
        "tokenizer.json": tokenizer(read_corpus()).encode(),
        "tokenizer_config.json": _json(tokenizer_config),
    }
    weights = weight_files(shape)
    if len(weights) > 1:
        named: dict[str, Json] = {tensor: file.name for file in weights for tensor in file.tensors}
        total = sum(file.size - len(file.head) for file in weights)
        files["model.safetensors.index.json"] = _json({"metadata": {"total_size": total}, "weight_map": named})
    return files


def _config(shape: StandInShape) -> dict[str, Json]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.key_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "dtype": "bfloat16",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }


def _json(value: Mapping[str, Json]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


@functools.cache
def tokenizer(corpus: str) -> str:
    """A tokenizer of Qwen2's kind, trained on `corpus`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # One line at a time, so that the merges depend on counts alone.
    made.train_from_iterator(corpus.splitlines(keepends=True), trainer=trainer)
    return str(made.to_str())
