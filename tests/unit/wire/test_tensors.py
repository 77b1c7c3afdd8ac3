"""The digest decides whether two adapters are the same, so it must see tensors and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.tensors import TensorEntry, digest_of_tensors, parse_safetensors, tensor_digest

if TYPE_CHECKING:
    from collections.abc import Mapping


def laid_out(header: Mapping[str, Any] | str, data: bytes) -> bytes:
    """A safetensors file written by hand, so that it can be wrong in one respect."""
    raw = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw + data


def described(start: int, end: int, *, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def weights(**changes: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.int64), **changes}


def test_entries_point_at_the_bytes_the_real_library_wrote() -> None:
    buffer = save(weights())
    entries = parse_safetensors(buffer)
    assert list(entries) == ["a", "b"]
    entry = entries["a"]
    assert entry == TensorEntry(dtype="F32", shape=(2, 3), start=entry.start, end=entry.start + 24)
    assert buffer[entry.start : entry.end] == weights()["a"].tobytes()


def test_digest_is_the_same_without_metadata_and_in_another_layout() -> None:
    """Two legs may save with other metadata or another order, and still have trained the same thing."""
    first = laid_out({"x": described(0, 2), "y": described(2, 5)}, b"xxyyy")
    second = laid_out({"__metadata__": {"format": "pt"}, "y": described(0, 3), "x": described(3, 5)}, b"yyyxx")
    assert tensor_digest(first) == tensor_digest(second)
    assert tensor_digest(save(weights())) == tensor_digest(save(weights(), metadata={"leg": "raw"}))


def test_digest_is_the_same_for_every_kind_of_buffer() -> None:
    buffer = save(weights())
    assert tensor_digest(buffer) == tensor_digest(bytearray(buffer)) == tensor_digest(memoryview(buffer))


@pytest.mark.parametrize(
    "changed",
    [
        {"a": np.arange(6, dtype=np.float32).reshape(3, 2)},
        {"a": np.arange(6, dtype=np.int32).reshape(2, 3)},
        {"a": np.nextafter(weights()["a"], np.float32(9), dtype=np.float32)},
        {"c": np.zeros(1, dtype=np.float32)},
    ],
    ids=["shape", "dtype", "bits", "one-more"],
)
def test_digest_differs_when_a_tensor_does(changed: dict[str, np.ndarray[Any, Any]]) -> None:
    assert tensor_digest(save(weights())) != tensor_digest(save(weights(**changed)))


def test_digest_differs_when_a_tensor_is_renamed() -> None:
    assert tensor_digest(laid_out({"x": described(0, 1)}, b"1")) != tensor_digest(laid_out({"y": described(0, 1)}, b"1"))


def test_identical_nan_adapters_collide() -> None:
    """So that *distinct digests* means something: two adapters ruined alike are not two adapters."""
    ruined = {"a": np.full((2, 2), np.nan, dtype=np.float32)}
    assert tensor_digest(save(ruined)) == tensor_digest(save({"a": ruined["a"].copy()}, metadata={"leg": "raw"}))


def test_digest_of_no_tensors_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no tensors"):
        tensor_digest(laid_out({}, b""))


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x01\x00\x00",
    "header-longer-than-file": (1000).to_bytes(8, "little") + b"{}",
    "header-length-absurd": b"\xff" * 8 + b"{}",
    "not-json": laid_out("{nope}", b""),
    "not-an-object": laid_out("[1]", b""),
    "not-utf-8": (3).to_bytes(8, "little") + b"{\xff}",
    "nested-too-deep": laid_out('{"x":' * 5000, b""),
    "repeated-name": laid_out('{"x":%s,"x":%s}' % ((json.dumps(described(0, 1)),) * 2), b"1"),
    "repeated-field": laid_out('{"x":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"),
    "unknown-field": laid_out({"x": {**described(0, 1), "note": "?"}}, b"1"),
    "missing-field": laid_out({"x": {"dtype": "U8", "shape": [1]}}, b"1"),
    "unknown-dtype": laid_out({"x": described(0, 1, dtype="F4")}, b"1"),
    "dtype-not-text": laid_out({"x": {"dtype": 8, "shape": [1], "data_offsets": [0, 1]}}, b"1"),
    "negative-size": laid_out({"x": described(0, 1, shape=[-1])}, b"1"),
    "size-true": laid_out({"x": described(0, 1, shape=[True])}, b"1"),
    "size-float": laid_out('{"x":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', b"1"),
    "three-offsets": laid_out({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"1"),
    "backward-offsets": laid_out({"x": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, b"1"),
    "bytes-and-shape-disagree": laid_out({"x": described(0, 1, shape=[2])}, b"1"),
    "beyond-the-end": laid_out({"x": described(0, 9)}, b"1"),
    "overlap": laid_out({"x": described(0, 2), "y": described(1, 3)}, b"123"),
    "gap": laid_out({"x": described(0, 1), "y": described(2, 3)}, b"123"),
    "trailing-bytes": laid_out({"x": described(0, 1)}, b"12"),
    "metadata-not-text": laid_out({"__metadata__": {"a": 1}, "x": described(0, 1)}, b"1"),
    "metadata-not-a-map": laid_out({"__metadata__": [], "x": described(0, 1)}, b"1"),
    "lone-surrogate": laid_out('{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_file_is_refused(name: str) -> None:
    """An adapter comes from an untrusted machine."""
    with pytest.raises(IntegrityError) as refused:
        tensor_digest(MALFORMED[name])
    assert refused.value.reason == "malformed"


def test_every_cut_of_a_good_file_is_refused() -> None:
    buffer = save(weights())
    for length in range(len(buffer)):
        with pytest.raises(IntegrityError):
            parse_safetensors(buffer[:length])


def test_tensors_that_come_in_another_order_are_refused() -> None:
    """They are digested as they come, one at a time: another order, or one twice, would be another digest of the same tensors."""
    one, two = ("a", "U8", (1,), b"x"), ("b", "U8", (1,), b"y")
    assert digest_of_tensors([one, two]) == digest_of_tensors(iter((one, two)))
    for listed in ([two, one], [one, one]):
        with pytest.raises(IntegrityError, match="order of their names"):
            digest_of_tensors(listed)
