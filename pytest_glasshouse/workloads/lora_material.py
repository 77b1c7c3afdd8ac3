"""The host's half of lora: the base model resolved, real text packed into token ids, the initial adapter drawn.

Knows numpy, `tokenizers` and the local hub cache, no torch. Never reaches for the network: a model that is neither a
directory nor in the cache is replaced by the stand-in, and the facts say so.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.tensors import tensor_digest
from pytest_glasshouse.workloads import stand_in
from pytest_glasshouse.workloads.base import BaseModel, Material
from pytest_glasshouse.workloads.corpus import CORPUS_NAME, read_corpus
from pytest_glasshouse.workloads.model_files import digest_of_files, verify_base

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

SEQUENCE_TOKENS = 64
LORA: Mapping[str, Any] = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}

_LEAST_SEQUENCES = 8
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_BILLIONS = re.compile(r"(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_LARGE_BILLIONS = 2.0
_LARGE_HIDDEN = 2048

#: Encoded by both sides. A fixed public sentence, not the sealed text: a round trip of the data would leave
#: copies of it in the guest's heap.
PROBE = "The quick brown fox jumps over the lazy dog, 1234567890 times; it's naïve?\n"


def check(*, data: str | None) -> None:
    """Raise `ConfigurationError` for what `prepare` lacks on this machine: packages, or a text that can be read."""
    _need_train_extra()
    if data is not None:
        _read_text(Path(data))


def prepare(*, seed: int, model: str | None, data: str | None) -> Material:
    """Resolve `model`, pack the text, draw the adapter. Raises `ConfigurationError` for what the user can put right."""
    import numpy as np
    from safetensors.numpy import save

    if not model:
        raise ConfigurationError("workload lora: expected a model (a hub id or a directory); saw none")
    text, data_name = (read_corpus(), CORPUS_NAME) if data is None else (_read_text(Path(data)), Path(data).name)
    base = resolve(model)
    model_config = json.loads(_file(base, "config.json"))
    tokenizer = _tokenizer(base)
    tokens = _pack(tokenizer.encode(text, add_special_tokens=False).ids, data_name)
    initial = save(_initial_adapter(model_config, np.random.default_rng([seed, 0x6C6F7261]), base.model_id))
    rate = learning_rate(base, model_config)
    config = {
        "workload": "lora",
        "unit": "steps",
        "seed": seed,
        "sequenceTokens": SEQUENCE_TOKENS,
        "lora": dict(LORA),
        # Floats travel as text: canonical JSON of the package holds integers only.
        "optimizer": {"name": "adamw", "learningRate": rate, "clipNorm": "1.0"},
        "base": {"modelId": base.model_id, "revision": base.revision, "sha256": base.sha256, "standIn": base.stand_in},
        "probe": {"text": PROBE, "ids": tokenizer.encode(PROBE, add_special_tokens=False).ids},
    }
    facts = {
        "seed": seed,
        "modelId": base.model_id,
        "revision": base.revision,
        "baseModelSha256": base.sha256,
        "standIn": base.stand_in,
        "standInModel": stand_in.NAME if base.stand_in else None,
        "data": data_name,
        "sequences": len(tokens),
        "sequenceTokens": SEQUENCE_TOKENS,
        "learningRate": rate,
    }
    parts = {"config": canonical(config), "tokens": save({"ids": tokens}), "initial": initial}
    return Material(parts=parts, initial_sha256=tensor_digest(initial), base=base, facts=facts)


def resolve(model: str) -> BaseModel:
    """The model as a directory, from the local hub cache, or as the stand-in: in this order."""
    path = Path(os.path.expanduser(model))  # noqa: PTH111  (where nobody knows what ~ is, it is no directory)
    if path.exists() or not _HUB_ID.fullmatch(model) or ("/" in model and path.parent.is_dir()):
        return _from_directory(path, model_id=path.resolve().name, revision=None, said=model)
    cached = _cached_snapshot(model)
    if cached is not None:
        return _from_directory(cached, model_id=model, revision=cached.name, said=model)
    _need_train_extra()
    files = stand_in.make(read_corpus())
    return BaseModel(model_id=model, revision=None, sha256=digest_of_files(files), stand_in=True, files=files)


def learning_rate(base: BaseModel, model_config: Mapping[str, Any]) -> str:
    """1e-5 for a model of 7B's size, 5e-5 for one of 0.5B's; a stand-in goes by the name it stands in for."""
    said = _BILLIONS.search(base.model_id)
    large = float(said.group(1)) >= _LARGE_BILLIONS if said else int(model_config.get("hidden_size", 0)) >= _LARGE_HIDDEN
    return "1e-05" if large else "5e-05"


def _from_directory(path: Path, *, model_id: str, revision: str | None, said: str) -> BaseModel:
    for name in ("config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise ConfigurationError(f"model directory {said}: expected {name}; not there")
    if (path / "adapter_config.json").exists():
        # Loading would follow it to another model, which no digest covers.
        raise ConfigurationError(f"model directory {said}: expected a base model; saw an adapter (adapter_config.json)")
    if not any(path.glob("*.safetensors")):
        raise ConfigurationError(f"model directory {said}: expected weights in *.safetensors; not there")
    return BaseModel(model_id=model_id, revision=revision, sha256=verify_base(path), stand_in=False, directory=path.resolve())


def _cached_snapshot(model: str) -> Path | None:
    _need_train_extra()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    whole = (path / "config.json").is_file() and (path / "tokenizer.json").is_file() and any(path.glob("*.safetensors"))
    return path if whole else None


def _need_train_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("tokenizers", "huggingface_hub") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"a lora row needs {', '.join(missing)} on the machine that starts it, wherever it runs: "
            "pip install 'pytest-glasshouse[train]'"
        )


def _file(base: BaseModel, name: str) -> bytes:
    return base.files[name] if base.directory is None else (base.directory / name).read_bytes()


def _tokenizer(base: BaseModel) -> Any:
    _need_train_extra()
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_file(base, "tokenizer.json").decode())


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"data {path}: expected a readable UTF-8 text file; {why}") from None


def _pack(ids: list[int], data_name: str) -> np.ndarray[Any, Any]:
    import numpy as np

    sequences = len(ids) // SEQUENCE_TOKENS
    if sequences < _LEAST_SEQUENCES:
        raise ConfigurationError(
            f"data {data_name}: expected text of at least {_LEAST_SEQUENCES * SEQUENCE_TOKENS} tokens; saw {len(ids)}"
        )
    # 64-bit, because the loss takes its targets so: the guest then trains on views of this part and makes no copy.
    return np.array(ids[: sequences * SEQUENCE_TOKENS], dtype=np.int64).reshape(sequences, SEQUENCE_TOKENS)


def _initial_adapter(model_config: Mapping[str, Any], rng: np.random.Generator, model_id: str) -> dict[str, np.ndarray[Any, Any]]:
    """A as peft draws it (Kaiming uniform with a = sqrt 5, so within 1/sqrt(inputs)), B zero; peft's names."""
    import numpy as np

    sizes = {}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
        if not isinstance(model_config.get(key), int):
            raise ConfigurationError(f"model {model_id}: config.json: expected {key}; not there")
        sizes[key] = int(model_config[key])
    heads = sizes["num_attention_heads"]
    head = int(model_config.get("head_dim") or sizes["hidden_size"] // heads)
    outputs = {"q_proj": head * heads, "v_proj": head * int(model_config.get("num_key_value_heads") or heads)}
    adapter: dict[str, np.ndarray[Any, Any]] = {}
    for layer in range(sizes["num_hidden_layers"]):
        for target in LORA["targets"]:
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            bound = sizes["hidden_size"] ** -0.5
            drawn = rng.uniform(-bound, bound, (LORA["rank"], sizes["hidden_size"]))
            adapter[f"{name}.lora_A.weight"] = drawn.astype(np.float32)
            adapter[f"{name}.lora_B.weight"] = np.zeros((outputs[target], LORA["rank"]), dtype=np.float32)
    return adapter
