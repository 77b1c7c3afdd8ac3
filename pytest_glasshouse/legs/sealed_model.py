"""A model that `glasshouse seal` sealed ahead of a run: opened by its owner, part by part, to be sealed again for each round.

Its weights lie on the host encrypted only. Their plaintext passes through a few segments of this process's memory, between
one key and the next. Knows the owner's private key only while it opens.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_glasshouse.errors import ConfigurationError, IntegrityError, ProtocolError
from pytest_glasshouse.owner.keyfiles import read_owner
from pytest_glasshouse.owner.sealing import read_manifest
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.bounded_file import mapped, read_named
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.package import MAGIC, SEALED_WEIGHTS, parse_header
from pytest_glasshouse.wire.tensors import LENGTH_BYTES, head_bytes, parse_safetensors
from pytest_glasshouse.wire.tokens import TOKEN_LIMIT
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import BaseModel, SealedModel
from pytest_glasshouse.workloads.model_files import ModelFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_glasshouse.owner.owner import Owner
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.part_file import PartSource
    from pytest_glasshouse.wire.secret import Secret
    from pytest_glasshouse.wire.tensors import TensorEntry

#: The workload's name in the manifest of a sealed model.
WORKLOAD = "base-model"
_SEALED_KEY_LIMIT = 1 << 12


class SealedFile(TypedDict):
    """One file of the model, and the part that holds it."""

    name: str
    part: str
    size: int


class ModelClaims(TypedDict):
    """The workload in the manifest of a sealed model. `listed` are all files of its directory: name, size, SHA-256."""

    name: str
    model_id: str
    files: list[SealedFile]
    listed: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class SealedPart:
    """A part of a package, decrypted segment by segment as it is read."""

    message: memoryview = field(repr=False)
    context: bytes = field(repr=False)
    size: int
    key: Secret = field(repr=False)

    def __len__(self) -> int:
        return self.size

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], memoryview]]:
        """As `PartSource` says. Raises `IntegrityError` for what is not as it was sealed."""
        inner = bytearray(max(1, floe.segment_length(self.message) - floe.SEGMENT_OVERHEAD))
        scratch = memoryview(bytearray(floe.scratch_bytes()))
        segments = floe.decrypt_segments(
            self.key.reveal(), self.context, self.message, lambda size: memoryview(inner)[:size], scratch=scratch
        )
        rest, out = memoryview(b""), bytearray()

        def take(size: int) -> memoryview:
            nonlocal rest, out
            if len(out) < size:
                out = bytearray(size)
            filled = 0
            while filled < size:
                if not rest:
                    rest = next(segments)
                count = min(len(rest), size - filled)
                out[filled : filled + count] = rest[:count]
                rest, filled = rest[count:], filled + count
            return memoryview(out)[:size]

        with contextlib.closing(segments):
            yield take


def is_sealed(path: str | Path) -> bool:
    """Whether there is a file that begins as a package does."""
    with contextlib.suppress(OSError, ValueError):
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
    return False


def sealed_of(row: RowSpec, model: str | None, *, owner_key: Path | None) -> bool | SealedModel:
    """What `prepare` is told of a row's base: whether it is sealed, and where it was sealed ahead, the opened model.

    Raises `ConfigurationError` for a sealed model in a row whose base is not.
    """
    if model is None or not is_sealed(model):
        return row.sealed
    if not row.sealed:
        raise ConfigurationError(
            f"model {Path(model).name}: it is sealed, and the row would lay it open: its base is {row.base}. "
            'Declare the row with base="sealed"'
        )
    return open_sealed(Path(model), owner_key=owner_key)


def open_sealed(path: Path, *, owner_key: Path | None) -> SealedModel:
    """The model in the package at `path`, with the manifest and the key beside it, as its owner reads it.

    Raises `ConfigurationError` without the owner's key, and for a package that is not this owner's sealed model.
    """
    if owner_key is None:
        raise ConfigurationError(
            f"model {path.name}: it is sealed; set GLASSHOUSE_OWNER_KEY to the key of the owner who sealed it"
        )
    owner = read_owner(owner_key, what="GLASSHOUSE_OWNER_KEY")
    try:
        return _opened(path, owner)
    except (IntegrityError, ProtocolError, KeyError, ValueError) as error:
        raise ConfigurationError(f"model {path.name}: it is no sealed model of this owner: {error}") from None


def _opened(path: Path, owner: Owner) -> SealedModel:
    package, token = mapped(path), _beside(path, ".manifest", limit=TOKEN_LIMIT + 1).decode("ascii", "replace").strip()
    claims, header = read_manifest(token, owner=owner.public), parse_header(package)
    if claims["header_sha256"] != header.sha256:
        raise IntegrityError("manifest", "it describes another package")
    workload: Any = claims["workload"]
    if workload.get("name") != WORKLOAD or claims["confidential"] is not True:
        raise IntegrityError("manifest", "it describes no sealed model; make one with `glasshouse seal MODEL_DIRECTORY`")
    workload = check_typed(workload, ModelClaims, "workload")
    files: list[SealedFile] = workload["files"]
    key = owner.open_data_key(_beside(path, ".key", limit=_SEALED_KEY_LIMIT), manifest_sha256=sha256_hex(token.encode()))
    parts = {
        part.name: SealedPart(
            message=_message(package, header.body + part.offset, part.length, part.commit),
            context=header.context(index), size=part.size, key=key,
        )
        for index, part in enumerate(header.parts)
    }  # fmt: skip
    weights: dict[str, TensorEntry] = {}
    for each in files:
        if len(parts[each["part"]]) != each["size"]:
            raise IntegrityError("manifest", f"{each['name']} has another size than its part")
        if each["part"].startswith(SEALED_WEIGHTS):
            weights |= _head(parts[each["part"]])
    names = {each["name"]: each["part"] for each in files}
    base = BaseModel(
        model_id=workload["model_id"],
        revision=None,
        files=tuple(ModelFile(name=name, size=int(size), sha256=sha256) for name, size, sha256 in workload["listed"]),
        content={name: _whole(parts[names[name]]) for name in ("config.json", "tokenizer.json")},
        weights=weights,
    )
    return SealedModel(base=base, names=names, parts={part: parts[part] for part in names.values()})


def claims_of(base: BaseModel, names: Mapping[str, str], parts: Mapping[str, bytes | PartSource]) -> dict[str, Json]:
    """The workload in the manifest of a model that is being sealed: its files, and which part holds which."""
    return {
        "name": WORKLOAD,
        "model_id": base.model_id,
        "files": [{"name": name, "part": part, "size": len(parts[part])} for name, part in names.items()],
        "listed": [[file.name, str(file.size), file.sha256] for file in base.files],
    }


def _beside(path: Path, suffix: str, *, limit: int) -> bytes:
    beside = path.with_name(path.name + suffix)
    return read_named(beside, what=str(beside), limit=limit)


def _message(package: memoryview, start: int, length: int, commit: str) -> memoryview:
    message = package[start : start + length]
    if bytes(message[: floe.HEADER_BYTES]).hex() != commit:
        raise IntegrityError("pkg-commit", "a part's beginning is not the one that the header names")
    return message


def _whole(part: SealedPart) -> bytes:
    with part.reading() as take:
        return bytes(take(len(part)))


def _head(part: SealedPart) -> dict[str, TensorEntry]:
    with part.reading() as take:
        first = bytes(take(min(LENGTH_BYTES, len(part))))
        rest = bytes(take(max(0, min(head_bytes(first), len(part)) - len(first))))
    return parse_safetensors(first + rest, total=len(part))
