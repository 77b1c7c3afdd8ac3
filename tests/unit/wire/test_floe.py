"""FLOE: what was sealed is opened, and nothing else is. Known answers here were made by this project."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import floe

KEY = bytes(range(32))
AAD = b"context"
SEGMENT = 64
INNER = SEGMENT - floe.SEGMENT_OVERHEAD


def counting() -> Callable[[int], bytes]:
    """Randomness that is none, so that a message is the same each time."""
    calls = iter(range(1, 1000))
    return lambda n: hashlib.shake_128(str(next(calls)).encode()).digest(n)


def data(size: int) -> bytes:
    return hashlib.shake_128(b"data").digest(size)


def message(size: int, *, segment: int = SEGMENT, rotation: int = floe.ROTATION) -> bytes:
    return floe.encrypt(KEY, AAD, data(size), segment=segment, rotation=rotation, random_bytes=counting())


def reason(ciphertext: bytes, *, key: bytes = KEY, aad: bytes = AAD) -> str:
    with pytest.raises(IntegrityError) as caught:
        floe.decrypt(key, aad, ciphertext)
    return caught.value.reason


@pytest.mark.parametrize("size", [0, 1, INNER - 1, INNER, INNER + 1, 3 * INNER, 10 * INNER + 7])
@pytest.mark.parametrize("rotation", [0, 2, floe.ROTATION])
def test_what_was_sealed_is_opened(size: int, rotation: int) -> None:
    sealed = message(size, rotation=rotation)
    assert floe.decrypt(KEY, AAD, sealed, rotation=rotation) == data(size)
    assert len(sealed) == floe.cipher_length(size, segment=SEGMENT)
    assert floe.plain_length(len(sealed), segment=SEGMENT) == size


def test_known_answer() -> None:
    """The same bytes as ever: a change of the format would make every sealed package unreadable."""
    sealed = message(100, rotation=1)
    assert sealed[:10].hex() == "00000000004000000020"
    assert hashlib.sha256(sealed).hexdigest() == "6813a5a72586c7886bc59e2804b1ce0b7e19badab31da656431049e035e1241a"


def test_a_message_with_an_empty_final_segment_is_opened() -> None:
    """Others may end a message of whole segments with an empty one. Written here by hand: `encrypt` never does."""
    head = message(INNER)[: floe.HEADER_BYTES]
    keys = floe._Keys(KEY, head[:42], AAD, floe.ROTATION, memoryview(bytearray(floe.scratch_bytes())))
    cipher = AESGCM(bytes(keys.slot(0).segment(0)))
    inner = b"\xff\xff\xff\xff" + bytes(12) + cipher.encrypt(bytes(12), data(INNER), bytes(8) + b"\x00")
    final = (32).to_bytes(4, "big") + bytes(12) + cipher.encrypt(bytes(12), b"", (1).to_bytes(8, "big") + b"\x01")
    assert floe.decrypt(KEY, AAD, head + inner + final) == data(INNER)


def test_another_rotation_is_another_key() -> None:
    sealed = message(5 * INNER, rotation=1)
    with pytest.raises(IntegrityError) as caught:
        floe.decrypt(KEY, AAD, sealed, rotation=2)
    assert caught.value.reason == "pkg-integrity"


def test_another_key_or_context_is_refused_before_any_segment_is_read() -> None:
    sealed = message(100)
    assert reason(sealed, key=bytes(32)) == "pkg-commit"
    assert reason(sealed, aad=b"contexT") == "pkg-commit"
    assert reason(sealed, key=KEY[:31]) == "pkg-commit"


def test_every_byte_is_bound() -> None:
    """Flip one bit anywhere: refused, each time."""
    sealed = message(2 * INNER + 5)
    for at in range(len(sealed)):
        flipped = bytearray(sealed)
        flipped[at] ^= 1
        assert reason(bytes(flipped)) in {"pkg-format", "pkg-length", "pkg-commit", "pkg-integrity"}, at


def test_every_truncation_and_extension_is_refused() -> None:
    sealed = message(2 * INNER + 5)
    for length in range(len(sealed)):
        assert reason(sealed[:length]) in {"pkg-length", "pkg-integrity"}, length
    assert reason(sealed + b"\x00") == "pkg-integrity"
    assert reason(sealed + sealed[-SEGMENT:]) in {"pkg-length", "pkg-integrity"}


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 2), (0, 2), (0, 1), (1, 2), (0, 1, 1, 2)])
def test_segments_moved_doubled_or_dropped_are_refused(order: tuple[int, ...]) -> None:
    sealed = message(3 * INNER)
    segments = [sealed[floe.HEADER_BYTES + n * SEGMENT :][:SEGMENT] for n in range(3)]
    assert reason(sealed[: floe.HEADER_BYTES] + b"".join(segments[n] for n in order)) == "pkg-integrity"


def test_a_header_alone_is_truncated() -> None:
    assert reason(message(0)[: floe.HEADER_BYTES]) == "pkg-length"
    assert reason(b"") == "pkg-length"


@pytest.mark.parametrize("at", [0, 1, 6])
def test_other_parameters_are_refused(at: int) -> None:
    sealed = bytearray(message(0))
    sealed[at] = 9
    assert reason(bytes(sealed)) == "pkg-format"


def test_a_buffer_of_another_size_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        floe.decrypt_into(KEY, AAD, message(100), bytearray(101))
    assert caught.value.reason == "pkg-length"


@pytest.mark.parametrize("threads", [1, 3])
def test_derived_keys_are_wiped_whatever_happens(threads: int) -> None:
    good = message(100)
    for ciphertext in (good, good[:-1] + bytes([good[-1] ^ 1])):
        scratch = bytearray(b"\xaa" * floe.scratch_bytes(threads))
        with contextlib.suppress(IntegrityError):
            floe.decrypt_into(KEY, AAD, ciphertext, bytearray(100), scratch=memoryview(scratch), threads=threads)
        assert bytes(scratch) == bytes(floe.scratch_bytes(threads))


@pytest.mark.parametrize("threads", [2, 3, 8, 64])
@pytest.mark.parametrize("rotation", [0, 2, floe.ROTATION])
@pytest.mark.parametrize("size", [0, INNER, 7 * INNER + 3])
def test_several_threads_open_what_one_thread_opens(size: int, rotation: int, threads: int) -> None:
    """Each thread derives the keys of its own segments, also where a share begins inside a rotation group."""
    out = bytearray(size)
    floe.decrypt_into(KEY, AAD, message(size, rotation=rotation), out, rotation=rotation, threads=threads)
    assert bytes(out) == data(size)


def test_several_threads_refuse_what_one_thread_refuses() -> None:
    sealed = message(8 * INNER + 5)
    for number in range(9):
        flipped = bytearray(sealed)
        flipped[floe.HEADER_BYTES + number * SEGMENT + 20] ^= 1
        with pytest.raises(IntegrityError) as caught:
            floe.decrypt_into(KEY, AAD, bytes(flipped), bytearray(8 * INNER + 5), threads=3)
        assert (caught.value.reason, caught.value.detail) == ("pkg-integrity", f"segment {number}")


def test_no_thread_writes_after_an_interrupted_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller wipes next: a thread still at work would write plaintext after that."""
    before = threading.active_count()
    genuine = floe._open_segment

    def interrupted(slot: Any, number: int, *args: Any, **options: Any) -> bool:
        if number == 0:
            raise KeyboardInterrupt
        return genuine(slot, number, *args, **options)

    monkeypatch.setattr(floe, "_open_segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        floe.decrypt_into(KEY, AAD, message(50 * INNER), bytearray(50 * INNER), threads=4)
    assert threading.active_count() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happened to it, its share was not authenticated."""
    genuine = floe._open_segment

    def dying(slot: Any, number: int, *args: Any, **options: Any) -> bool:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError
        return genuine(slot, number, *args, **options)

    monkeypatch.setattr(floe, "_open_segment", dying)
    with pytest.raises(IntegrityError) as caught:
        floe.decrypt_into(KEY, AAD, message(10 * INNER), bytearray(10 * INNER), threads=2)
    assert caught.value.reason == "pkg-integrity"


def test_a_scratch_buffer_too_small_for_its_threads_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="scratch"):
        floe.decrypt_into(KEY, AAD, message(9 * INNER), bytearray(9 * INNER), scratch=memoryview(bytearray(112)), threads=2)


def test_error_has_no_context_that_held_a_cipher() -> None:
    sealed = message(100)
    with pytest.raises(IntegrityError) as caught:
        floe.decrypt(KEY, AAD, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("segment", [0, floe.SEGMENT_OVERHEAD, 1 << 32])
def test_an_invalid_segment_size_is_a_value_error(segment: int) -> None:
    with pytest.raises(ValueError, match="segment"):
        floe.encrypt(KEY, AAD, b"", segment=segment)


def test_two_messages_of_the_same_data_differ() -> None:
    assert floe.encrypt(KEY, AAD, b"data") != floe.encrypt(KEY, AAD, b"data")
