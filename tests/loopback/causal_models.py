"""Small causal language models as their repositories are: random weights in several files, and the stand-in's real tokenizer.

Made with numpy in milliseconds, in bfloat16 as published ones are. `transformers` loads them, and a lora row can be prepared from them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_glasshouse.workloads import stand_in

if TYPE_CHECKING:
    import numpy as np

Family = Literal["qwen2", "llama", "mistral", "gemma", "qwen3", "phi3"]
FAMILIES: tuple[Family, ...] = get_args(Family)
#: The layers that a row adapts, where they are not `LORA`'s.
TARGETS: Mapping[Family, tuple[str, ...]] = {"phi3": ("qkv_proj",)}

_VOCABULARY, _HIDDEN, _INNER, _LAYERS = 768, 64, 176, 2
_HEADS, _KEY_HEADS, _HEAD = 4, 2, 16
_CLASSES: Mapping[Family, str] = {
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "gemma": "GemmaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
_MORE: Mapping[Family, Mapping[str, Any]] = {
    "qwen2": {"use_sliding_window": False},
    "llama": {"attention_bias": False, "mlp_bias": False},
    "mistral": {"sliding_window": None, "head_dim": _HEAD},
    "gemma": {"hidden_act": "gelu_pytorch_tanh", "head_dim": _HEAD},
    "qwen3": {"attention_bias": False, "head_dim": _HEAD},
    "phi3": {"original_max_position_embeddings": 512, "partial_rotary_factor": 1.0, "sliding_window": None},
}
#: Families whose output layer is their embedding.
_TIED: frozenset[Family] = frozenset({"qwen2", "qwen3", "gemma"})
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@functools.cache
def causal_lm(family: Family = "qwen2", *, shards: int = 2, seed: int = 11) -> Mapping[str, bytes]:
    """The files of such a model's repository, by name. Another seed makes other weights."""
    config = {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": _HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": _INNER,
        "max_position_embeddings": 512,
        "num_attention_heads": _HEADS,
        "num_hidden_layers": _LAYERS,
        "num_key_value_heads": _KEY_HEADS,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "tie_word_embeddings": family in _TIED,
        "use_cache": True,
        "vocab_size": _VOCABULARY,
        **_MORE[family],
    }
    return {
        ".gitattributes": _ATTRIBUTES,
        "README.md": f"---\nlicense: apache-2.0\n---\n\nRandom weights in the form of {family}.\n".encode(),
        "config.json": _json(config),
        "generation_config.json": _json({"bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": False}),
        **_tokenizer(family),
        **_weights(_tensors(family, seed), shards),
    }


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    """Make a directory of a model's files."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _tokenizer(family: Family) -> dict[str, bytes]:
    """Byte pairs learnt from the package's corpus, with the tokens and the template of a chat model."""
    from pytest_glasshouse.workloads.corpus import read_corpus

    return {
        "tokenizer.json": stand_in.tokenizer(read_corpus()).encode(),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "Qwen2Tokenizer" if family in {"qwen2", "qwen3"} else "PreTrainedTokenizerFast",
                "model_max_length": 512,
                "bos_token": None,
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
                "add_prefix_space": False,
                "clean_up_tokenization_spaces": False,
                "chat_template": _CHAT_TEMPLATE,
            }
        ),
    }


def _shapes(family: Family) -> dict[str, tuple[int, ...]]:
    queries, keys = _HEADS * _HEAD, _KEY_HEADS * _HEAD
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, _HIDDEN)}
    for layer in range(_LAYERS):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        if family == "phi3":
            shapes[f"{attention}.qkv_proj.weight"] = (queries + 2 * keys, _HIDDEN)
            shapes[f"{mlp}.gate_up_proj.weight"] = (2 * _INNER, _HIDDEN)
        else:
            for name, outputs in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
                shapes[f"{attention}.{name}.weight"] = (outputs, _HIDDEN)
                if family == "qwen2":
                    shapes[f"{attention}.{name}.bias"] = (outputs,)
            for name in ("gate_proj", "up_proj"):
                shapes[f"{mlp}.{name}.weight"] = (_INNER, _HIDDEN)
        if family == "qwen3":
            shapes |= {f"{attention}.q_norm.weight": (_HEAD,), f"{attention}.k_norm.weight": (_HEAD,)}
        shapes[f"{attention}.o_proj.weight"] = (_HIDDEN, queries)
        shapes[f"{mlp}.down_proj.weight"] = (_HIDDEN, _INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (_HIDDEN,)
    shapes["model.norm.weight"] = (_HIDDEN,)
    if family not in _TIED:
        shapes["lm_head.weight"] = (_VOCABULARY, _HIDDEN)
    return shapes


def _tensors(family: Family, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    rng = np.random.default_rng(seed)
    # Gemma's norms are stored as what is added to one.
    norm = np.zeros if family == "gemma" else np.ones
    return {
        name: norm(shape, dtype=np.float32) if "norm" in name else rng.normal(0.0, 0.08, shape).astype(np.float32)
        for name, shape in _shapes(family).items()
    }


def _weights(tensors: Mapping[str, np.ndarray[Any, Any]], shards: int) -> dict[str, bytes]:
    if shards == 1:
        return {"model.safetensors": _safetensors(tensors)}
    files, place, names = {}, {}, list(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        inside = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        place.update(dict.fromkeys(inside, file))
        files[file] = _safetensors({name: tensors[name] for name in inside})
    total = sum(2 * tensor.size for tensor in tensors.values())
    return {**files, "model.safetensors.index.json": _json({"metadata": {"total_size": total}, "weight_map": place})}


def _safetensors(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """As the library writes them, but in bfloat16, which numpy does not have."""
    import numpy as np

    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, tensor in tensors.items():
        bits = tensor.view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
        head[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(rounded)]}
        body += rounded
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(body)
