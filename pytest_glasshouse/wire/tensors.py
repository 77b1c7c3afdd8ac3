"""The safetensors format, read strictly, and the one digest of a set of tensors.

Knows names, dtypes, shapes and where the bytes lie; pure Python, so that the host, the server and an offline
check need neither torch nor numpy. Refuses to know what the numbers mean, and never copies them: a digest or
a view is taken from the buffer it was given.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, parse_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Buffer = bytes | bytearray | memoryview

#: Bytes of one element. A dtype that packs several elements into a byte is not among them.
ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}

_DOMAIN = b"pytest-glasshouse/tensors/v1\n"
LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
#: A sample of a set of tensors: so many of them, and the first numbers of each.
_SAMPLE_TENSORS, SAMPLE_NUMBERS = 8, 64


@dataclass(frozen=True, kw_only=True, order=True)
class TensorEntry:
    """One tensor of a safetensors buffer; its bytes are `buffer[start:end]`."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def parse_safetensors(buffer: Buffer, *, total: int | None = None) -> dict[str, TensorEntry]:
    """Every tensor by name, in sorted order; what the caller still owes is the meaning of the bytes.

    With `total` given, `buffer` is only the beginning (`head_bytes`) of one of that many bytes.

    Refuses, with `IntegrityError("malformed")`, whatever the real library refuses and what it tolerates:
    repeated names, unknown fields, gaps, overlaps and bytes that belong to no tensor.
    """
    view = memoryview(buffer).cast("B")
    total = len(view) if total is None else total
    header, data_start = _header(view, total)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        _refuse("__metadata__ is not a map of text")
    entries = {name: _entry(name, header[name], data_start) for name in sorted(header)}
    reached = data_start
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != reached:
            _refuse("tensors overlap or leave a gap")
        reached = entry.end
    if reached != total:
        _refuse(f"tensors end at byte {reached}, the buffer at {total}")
    return entries


def tensor_digest(buffer: Buffer) -> str:
    """Hex SHA-256 over (name, dtype, shape, bytes) in sorted name order, without metadata or layout.

    Equal tensors have equal digests however they were saved, so an untrained adapter collides with the initial
    one and a copied adapter with its source. A buffer without any tensor is refused: its digest would identify nothing.
    """
    view = memoryview(buffer).cast("B")
    entries = parse_safetensors(view)
    return digest_of_tensors((name, entry.dtype, entry.shape, view[entry.start : entry.end]) for name, entry in entries.items())


def digest_of_tensors(tensors: Iterable[tuple[str, str, tuple[int, ...], Buffer]]) -> str:
    """`tensor_digest` of (name, dtype, shape, bytes) where they lie, for tensors that must not be copied into a file first.

    They come in the order of their names, one at a time: none is asked for before the last one was digested.
    """
    digest = hashlib.sha256(_DOMAIN)
    last: str | None = None
    for name, dtype, shape, content in tensors:
        if last is not None and name <= last:
            _refuse("tensors are not in the order of their names")
        last = name
        for text in (name, dtype):
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(4, "little") + encoded)
        digest.update(len(shape).to_bytes(4, "little"))
        for size in (*shape, len(content)):
            digest.update(size.to_bytes(8, "little"))
        digest.update(content)
    if last is None:
        _refuse("no tensors")
    return digest.hexdigest()


def sampled_names(names: Iterable[str]) -> list[str]:
    """Which of the tensors of these names a sample of them takes: some from the first in their order to the last."""
    every = sorted(names)
    count = min(_SAMPLE_TENSORS, len(every))
    return [every[place * (len(every) - 1) // max(1, count - 1)] for place in range(count)]


def head_bytes(first: Buffer) -> int:
    """How many bytes the head of a safetensors buffer has; `first` is its first eight."""
    return LENGTH_BYTES + int.from_bytes(first[:LENGTH_BYTES], "little")


def _header(view: memoryview, total: int) -> tuple[dict[str, Json], int]:
    if len(view) < LENGTH_BYTES:
        _refuse(f"{len(view)} bytes are too few")
    length = head_bytes(view) - LENGTH_BYTES
    if length > min(_MAX_HEADER_BYTES, total - LENGTH_BYTES, len(view) - LENGTH_BYTES):
        _refuse(f"a header of {length} bytes does not fit")
    header = parse_object(bytes(view[LENGTH_BYTES : LENGTH_BYTES + length]), limit=_MAX_HEADER_BYTES)
    return header, LENGTH_BYTES + length


def _entry(name: str, described: object, data_start: int) -> TensorEntry:
    if not isinstance(described, dict) or described.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        _refuse(f"tensor {name!r} has dtype {dtype!r}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004 (begin and end)
        _refuse(f"tensor {name!r} has a bad shape or bad offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        _refuse(f"tensor {name!r} has {end - begin} bytes for its shape")
    return TensorEntry(dtype=dtype, shape=tuple(shape), start=data_start + begin, end=data_start + end)


def _sizes(values: object) -> bool:
    # bool is an int in Python, and `true` is not a size.
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _refuse(detail: str) -> NoReturn:
    raise IntegrityError("malformed", f"safetensors: {detail}")
