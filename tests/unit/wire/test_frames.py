from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire import frames

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _frame(text: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">II", len(text), len(payload)) + text + payload


def test_frame_arrives_as_it_was_sent(pair: Pair) -> None:
    frames.send(pair[0], {"op": "put", "offset": 3}, b"\x00payload")
    assert frames.receive(pair[1]) == ({"op": "put", "offset": 3}, bytearray(b"\x00payload"))


def test_peer_closed_between_frames_is_the_end(pair: Pair) -> None:
    pair[0].close()
    assert frames.receive(pair[1]) is None


def test_frame_cut_short_is_refused_and_not_taken_for_the_end(pair: Pair) -> None:
    pair[0].sendall(_frame(b'{"op":"hello"}')[:-3])
    pair[0].close()
    with pytest.raises(ProtocolError, match="inside a frame"):
        frames.receive(pair[1])


@pytest.mark.parametrize(
    "text",
    [b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1,"a":1}', b'{"a":NaN}', b"[]", b"", b'{"a":1.5}', b'{"a":1}x', b"\xff"],
    ids=["unsorted", "spaced", "duplicate", "nan", "array", "empty", "float", "trailing", "not-utf8"],
)
def test_json_with_a_second_spelling_is_refused(pair: Pair, text: bytes) -> None:
    pair[0].sendall(_frame(text))
    with pytest.raises(ProtocolError):
        frames.receive(pair[1])


@pytest.mark.parametrize("begun", [False, True], ids=["the whole frame", "what has begun"])
def test_a_frame_has_one_deadline_for_all_of_its_bytes(pair: Pair, begun: bool) -> None:
    """A timeout of each read would never fire while a byte comes now and then."""
    over = threading.Event()

    def send_slowly() -> None:
        for byte in _frame(b"{" + b" " * 10_000):
            if over.wait(0.01):
                return
            pair[0].sendall(bytes([byte]))

    speaker = threading.Thread(target=send_slowly)
    speaker.start()
    try:
        with pytest.raises(TimeoutError):
            frames.receive(pair[1], rest_s=0.2) if begun else frames.receive(pair[1], deadline=time.monotonic() + 0.2)
        with pytest.raises(TimeoutError):
            frames.receive(pair[1], deadline=time.monotonic() - 1)
    finally:
        over.set()
        speaker.join()


def test_a_frame_may_begin_late_where_only_its_rest_is_timed(pair: Pair) -> None:
    threading.Timer(1.2, pair[0].sendall, (_frame(b"{}"),)).start()
    assert frames.receive(pair[1], rest_s=1.0) == ({}, bytearray())


def test_a_peer_that_does_not_read_is_not_sent_to_for_ever(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        frames.send(pair[0], {}, bytes(frames.MAX_PAYLOAD), deadline=time.monotonic() + 0.2)
    with pytest.raises(TimeoutError):
        frames.send(pair[0], {}, deadline=time.monotonic() - 1)


def test_announced_size_is_accepted_only_up_to_the_limit(pair: Pair) -> None:
    pair[0].sendall(struct.pack(">II", frames.MAX_JSON + 1, 0))
    with pytest.raises(ProtocolError, match="announces"):
        frames.receive(pair[1])


def test_too_large_a_payload_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ProtocolError, match="too large"):
        frames.send(pair[0], {}, bytes(frames.MAX_PAYLOAD + 1))


@pytest.mark.parametrize("size", [0, 1, frames.CHUNK, frames.CHUNK + 1])
def test_pieces_join_to_the_whole(size: int) -> None:
    data = bytes(size)
    cut = list(frames.pieces(data))
    assert b"".join(piece for _, piece in cut) == data
    assert [offset for offset, _ in cut] == [number * frames.CHUNK for number in range(len(cut))]
