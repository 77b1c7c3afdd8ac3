"""The host's half of lora: the base model is resolved, text packed into token ids, the initial adapter drawn.

Needs numpy, `tokenizers` and the local hub cache, no torch. A model that is neither a directory nor in the cache is described by
the hub, where it may be asked, or replaced by the stand-in, which the facts record.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.package import SEALED_FILE, SEALED_WEIGHTS
from pytest_glasshouse.wire.part_file import PartFile, PartSource
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.tensors import tensor_digest
from pytest_glasshouse.workloads import stand_in as stand_ins
from pytest_glasshouse.workloads.base import BaseModel, HubSource, Material, SealedModel
from pytest_glasshouse.workloads.corpus import CORPUS_NAME, read_corpus
from pytest_glasshouse.workloads.lora_model import config_of, layers_of, tokenizer_of, weight_files, width_of
from pytest_glasshouse.workloads.model_files import identity as identity_of
from pytest_glasshouse.workloads.model_files import listed, refuse_outside

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.base import Facts
    from pytest_glasshouse.workloads.lora_model import Layer
    from pytest_glasshouse.workloads.model_files import ModelFile
    from pytest_glasshouse.workloads.training_config import BaseIdentity, LoraConfig, LoraSettings

SEQUENCE_TOKENS = 64
LORA: LoraSettings = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}
_ALPHA_PER_RANK = 2
#: The largest training text, in bytes.
_LONGEST_TEXT = 256 << 20

_LEAST_SEQUENCES = 8
_REQUIRED = ("config.json", "tokenizer.json")
#: Other weight formats, which are refused: loading a pickle runs code.
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.ckpt")
#: The longest model name in characters, and the longest part of a path in bytes.
_LONGEST_MODEL = 1024
_LONGEST_PART = 255
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BILLIONS = re.compile(r"(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_LARGE_BILLIONS = 2.0
_LARGE_HIDDEN = 2048

#: Encoded by host and guest. A fixed public sentence and not the sealed text, which encoding would copy into the guest's heap.
PROBE = "The quick brown fox jumps over the lazy dog, 1234567890 times; it's naïve?\n"


def check(*, data: str | None) -> None:
    """Raise `ConfigurationError` if `prepare` lacks a package or a readable text on this machine."""
    _need_train_extra()
    if data is not None:
        _read_text(Path(data))


def prepare(
    *,
    seed: int,
    model: str | None,
    data: str | None,
    rank: int | None = None,
    targets: Sequence[str] | None = None,
    alpha: int | None = None,
    online: bool = False,
    sealed: bool | SealedModel = False,
    stand_in: str | None = None,
) -> Material:
    """Resolve `model`, pack the text, draw the adapter. Raises `ConfigurationError` for what it cannot use.

    `rank` and `targets` default to those of `LORA`, the published rows' adapter, `alpha` to twice the rank. With `online` the hub
    may be asked for a model that is not here; then also raises `InfrastructureError`. With `sealed` the model is among the parts
    of the package; it may be one that was sealed before, in place of `model`. With `stand_in`, a shape's name, random weights
    take the place of the model.
    """
    import numpy as np
    from safetensors.numpy import save

    if not model:
        raise ConfigurationError("workload lora: expected a model (a hub id or a directory); saw none")
    text, data_name = (read_corpus(), CORPUS_NAME) if data is None else (_read_text(Path(data)), Path(data).name)
    base = sealed.base if isinstance(sealed, SealedModel) else resolve(model, online=online, stand_in=stand_in)
    rank, targets = LORA["rank"] if rank is None else rank, list(LORA["targets"] if targets is None else targets)
    model_config = config_of(base, sequence_tokens=SEQUENCE_TOKENS)
    tokenizer = tokenizer_of(base, model_config)
    layers = layers_of(base, model_config, targets)
    tokens = _pack(tokenizer.encode(text, add_special_tokens=False).ids, data_name)
    initial = save(_initial_adapter(layers, rank, np.random.default_rng([seed, 0x6C6F7261])))
    rate = learning_rate(base, model_config)
    identity: BaseIdentity = {
        "modelId": base.model_id, "revision": base.revision, "sha256": base.sha256, "standIn": base.stand_in,
    }  # fmt: skip
    contents: Mapping[str, bytes | PartSource] = {}
    if sealed:
        names, contents = sealed_parts(base) if sealed is True else (sealed.names, sealed.parts)
        identity["parts"] = {**names}
    config: LoraConfig = {
        "workload": "lora",
        "unit": "steps",
        "seed": seed,
        "sequenceTokens": SEQUENCE_TOKENS,
        "lora": {"rank": rank, "alpha": _ALPHA_PER_RANK * rank if alpha is None else alpha, "targets": targets},
        "optimizer": {"name": "adamw", "learningRate": rate, "clipNorm": "1.0"},
        "base": identity,
        "probe": {"text": PROBE, "ids": tokenizer.encode(PROBE, add_special_tokens=False).ids},
    }
    facts: Facts = {
        "seed": seed,
        "modelId": base.model_id,
        "revision": base.revision,
        "baseModelSha256": base.sha256,
        "standIn": base.stand_in,
        "standInModel": None if base.shape is None else base.shape.title,
        "standInShape": None if base.shape is None else base.shape.name,
        "standInSeed": None if base.shape is None else stand_ins.SEED,
        "data": data_name,
        "sequences": len(tokens),
        "sequenceTokens": SEQUENCE_TOKENS,
        "learningRate": rate,
    }
    parts = {"config": canonical(config), "tokens": save({"ids": tokens}), "initial": initial}
    return Material(parts=parts, sealed=contents, initial_sha256=tensor_digest(initial), base=base, facts=facts)


def sealed_parts(base: BaseModel) -> tuple[dict[str, str], dict[str, bytes | PartSource]]:
    """The parts that hold the model: their names by file, and their contents by name. A large file is not read here."""
    if not base.on_host and base.shape is None:
        raise ConfigurationError(
            f"model {base.model_id}: expected its weights on this machine, whose owner seals them; saw them at the hub only. "
            f"Download it first: hf download {base.model_id}"
        )
    weights = weight_files(base)
    names = {"config.json": f"{SEALED_FILE}config", "tokenizer.json": f"{SEALED_FILE}tokenizer"}
    names |= {name: f"{SEALED_WEIGHTS}{number}" for number, name in enumerate(weights)}
    directory = base.directory
    if directory is None:
        made = {} if base.on_host or base.shape is None else {file.name: file for file in stand_ins.weight_files(base.shape)}
        return names, {part: made.get(name) or base.content[name] for name, part in names.items()}
    before = identity_of(directory)
    files = {part: PartFile.of(directory / name) for name, part in names.items()}
    if _LISTED.get((directory, before)) != base.files or identity_of(directory) != before:
        raise ConfigurationError(f"model {base.model_id}: its files were changed while they were read; start again")
    return names, {**files}


def resolve(model: str, *, online: bool = False, stand_in: str | None = None) -> BaseModel:
    """The model from a directory, from the local hub cache, from the hub, or the stand-in, in this order.

    The hub is asked only with `online`; without, the stand-in takes the place of what is not here. `model` is a directory, a hub
    id, or a hub id with a commit, `repo@commit`. With `stand_in`, the name of a shape, nothing is looked for.
    """
    parts = max(len(os.fsencode(part)) for part in model.split("/"))
    if not model.isprintable() or len(model) > _LONGEST_MODEL or parts > _LONGEST_PART:
        raise ConfigurationError(f"model {printable(model, limit=60)}: expected a hub id or the name of a directory")
    path = Path(os.path.expanduser(model))  # noqa: PTH111  (Path.expanduser raises for an unknown ~)
    named = _HUB_ID.fullmatch(model)
    if stand_in is not None:
        repo, revision = (named["repo"], named["revision"]) if named else (path.name, None)
        return stand_ins.base(repo, revision, stand_ins.shape_named(stand_in), in_guest=True)
    if path.exists() or named is None or ("/" in model and path.parent.is_dir()):
        return _from_directory(path, model_id=path.resolve().name, hub=None, named=model)
    repo, revision = named["repo"], named["revision"]
    if revision is not None and not _COMMIT.fullmatch(revision):
        raise ConfigurationError(
            f"model {model}: expected a commit of 40 hexadecimal digits after @, because a branch can move; saw {revision}"
        )
    cached = _cached_snapshot(repo, revision)
    if cached is not None and (not online or _is_whole(cached)):
        from pytest_glasshouse.workloads.model_hub import endpoint

        hub = HubSource(endpoint=endpoint(), repo=repo, commit=cached.name)
        return _from_directory(cached, model_id=repo, hub=hub, named=model)
    _need_train_extra()
    if online:
        from pytest_glasshouse.workloads.model_hub import describe

        return _from_hub(repo, revision, describe)
    return stand_ins.base(repo, revision)


#: Models as the hub described them, so that a process asks once for each.
_DESCRIBED: dict[tuple[str, str | None, str | None], BaseModel] = {}


def _from_hub(repo: str, revision: str | None, describe: Callable[[str, str | None], BaseModel]) -> BaseModel:
    key = (repo, revision, os.environ.get("HF_ENDPOINT"))
    if key not in _DESCRIBED:
        _DESCRIBED[key] = describe(repo, revision)
    return _DESCRIBED[key]


def learning_rate(base: BaseModel, model_config: Mapping[str, Json]) -> str:
    """1e-5 for a model of 7B's size, 5e-5 for one of 0.5B's. The size in the name counts first, also for a stand-in."""
    size = _BILLIONS.search(base.model_id)
    large = float(size.group(1)) >= _LARGE_BILLIONS if size else (width_of(model_config) or 0) >= _LARGE_HIDDEN
    return "1e-05" if large else "5e-05"


def _from_directory(path: Path, *, model_id: str, hub: HubSource | None, named: str) -> BaseModel:
    for name in _REQUIRED:
        if not (path / name).is_file():
            raise ConfigurationError(f"model directory {named}: expected {name}; not there")
    if (path / "adapter_config.json").exists():
        # Loading would follow it to another model, which no digest covers.
        raise ConfigurationError(f"model directory {named}: expected a base model; saw an adapter (adapter_config.json)")
    if not any(path.glob("*.safetensors")):
        others = sorted(each.name for pattern in _OTHER_WEIGHTS for each in path.glob(pattern))
        seen = f"saw {others[0]}, which is not loaded: convert it" if others else "not there"
        raise ConfigurationError(f"model directory {named}: expected weights in *.safetensors; {seen}")
    try:
        files = _listed(path)
    except IntegrityError as error:
        raise ConfigurationError(f"model directory {named}: {error.detail}") from None
    revision = None if hub is None else hub.commit
    return BaseModel(model_id=model_id, revision=revision, files=files, directory=path.resolve(), hub=hub)


#: Lists of model directories by the identity of their files, so that a process reads gigabytes once.
_LISTED: dict[object, tuple[ModelFile, ...]] = {}


def _listed(path: Path) -> tuple[ModelFile, ...]:
    seen = (path.resolve(), identity_of(path))
    if seen not in _LISTED:
        _LISTED[seen] = listed(path)
    return _LISTED[seen]


def _cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The model's directory in the local hub cache; None if it is not there or has no weights."""
    _need_train_extra()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    # Weights of another format are reported by the caller; a stand-in must not replace a model that is there.
    return path if any(any(path.glob(pattern)) for pattern in ("*.safetensors", *_OTHER_WEIGHTS)) else None


def _is_whole(snapshot: Path) -> bool:
    """Whether the cache has all that loading reads: a download may have ended early, or fetched only some files."""
    if not all((snapshot / name).is_file() for name in _REQUIRED):
        return False
    if (snapshot / "model.safetensors").is_file():
        return True
    names = [path.name for path in snapshot.iterdir() if path.is_file()]
    try:
        refuse_outside(snapshot, names)
    except (IntegrityError, OSError):
        return False
    return "model.safetensors.index.json" in names


def _need_train_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("tokenizers", "huggingface_hub") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"a lora row needs {', '.join(missing)} on the machine that starts it, wherever it runs: "
            "pip install 'pytest-glasshouse[train]'"
        )


def _read_text(path: Path) -> str:
    try:
        text = read_regular(path, limit=_LONGEST_TEXT).decode("utf-8")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError, IntegrityError) as error:
        why = error.strerror if isinstance(error, OSError) else error.detail if isinstance(error, IntegrityError) else "not UTF-8"
        raise ConfigurationError(f"data {path}: expected a readable UTF-8 text file; {why}") from None


def _pack(ids: list[int], data_name: str) -> np.ndarray[Any, Any]:
    import numpy as np

    sequences = len(ids) // SEQUENCE_TOKENS
    if sequences < _LEAST_SEQUENCES:
        raise ConfigurationError(
            f"data {data_name}: expected text of at least {_LEAST_SEQUENCES * SEQUENCE_TOKENS} tokens; saw {len(ids)}"
        )
    # 64-bit, as the loss takes its targets: the guest then trains on views of this part without a copy.
    return np.array(ids[: sequences * SEQUENCE_TOKENS], dtype=np.int64).reshape(sequences, SEQUENCE_TOKENS)


def _initial_adapter(layers: Sequence[Layer], rank: int, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """A as peft draws it (Kaiming uniform with a = sqrt 5, so within 1/sqrt(inputs)), B zero; peft's names."""
    import numpy as np

    adapter: dict[str, np.ndarray[Any, Any]] = {}
    for layer in layers:
        name, bound = f"base_model.model.{layer.path}", layer.inputs**-0.5
        adapter[f"{name}.lora_A.weight"] = rng.uniform(-bound, bound, (rank, layer.inputs)).astype(np.float32)
        adapter[f"{name}.lora_B.weight"] = np.zeros((layer.outputs, rank), dtype=np.float32)
    return adapter
