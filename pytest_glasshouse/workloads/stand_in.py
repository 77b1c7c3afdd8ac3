"""A small Qwen2 model and tokenizer, used where the named model is not available.

It is loaded by the same code as a real one. Needs numpy and `tokenizers`, no torch. Its weights have a fixed seed, so that it is
the same model on every machine with the same libraries.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from pytest_glasshouse.wire.canonical import Json

NAME = "stand-in: Qwen2, 2 layers, hidden 64, random weights"

_SEED = 20_240_519
_VOCABULARY = 768
_HIDDEN, _INNER, _LAYERS = 64, 176, 2
_HEADS, _KEY_HEADS = 4, 2
_POSITIONS = 512
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

#: Qwen2's pattern for splitting text before merging.
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CONFIG: Mapping[str, Json] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": _HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": _INNER,
    "max_position_embeddings": _POSITIONS,
    "num_attention_heads": _HEADS,
    "num_hidden_layers": _LAYERS,
    "num_key_value_heads": _KEY_HEADS,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": _VOCABULARY,
}


@functools.cache
def make(corpus: str) -> Mapping[str, bytes]:
    """The files of the model's directory; the tokenizer is trained on `corpus`."""
    from safetensors.numpy import save

    tokenizer_config: dict[str, Json] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": _POSITIONS,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_prefix_space": False,
    }
    return {
        "config.json": _json(CONFIG),
        "model.safetensors": save(_weights(), metadata={"format": "pt"}),
        "tokenizer.json": _tokenizer(corpus).encode(),
        "tokenizer_config.json": _json(tokenizer_config),
    }


def _json(value: Mapping[str, Json]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _tokenizer(corpus: str) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # One line at a time, so that the merges depend on counts alone.
    tokenizer.train_from_iterator(corpus.splitlines(keepends=True), trainer=trainer)
    return str(tokenizer.to_str())


def _weights() -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    rng = np.random.default_rng(_SEED)
    keys = _HIDDEN // _HEADS * _KEY_HEADS

    def drawn(*shape: int) -> np.ndarray[Any, Any]:
        # Wider than the usual 0.02: an adapter on a model this small must be able to change its loss.
        return rng.normal(0.0, 0.08, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": drawn(_VOCABULARY, _HIDDEN)}
    for layer in range(_LAYERS):
        for name, shape in (
            ("self_attn.q_proj.weight", (_HIDDEN, _HIDDEN)),
            ("self_attn.q_proj.bias", (_HIDDEN,)),
            ("self_attn.k_proj.weight", (keys, _HIDDEN)),
            ("self_attn.k_proj.bias", (keys,)),
            ("self_attn.v_proj.weight", (keys, _HIDDEN)),
            ("self_attn.v_proj.bias", (keys,)),
            ("self_attn.o_proj.weight", (_HIDDEN, _HIDDEN)),
            ("mlp.gate_proj.weight", (_INNER, _HIDDEN)),
            ("mlp.up_proj.weight", (_INNER, _HIDDEN)),
            ("mlp.down_proj.weight", (_HIDDEN, _INNER)),
        ):
            weights[f"model.layers.{layer}.{name}"] = drawn(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(_HIDDEN, dtype=np.float32)
    weights["model.norm.weight"] = np.ones(_HIDDEN, dtype=np.float32)
    return weights
