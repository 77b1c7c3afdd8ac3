"""C2SP FLOE: random-access, key-committing, chunked encryption (AES-256-GCM, HKDF-Expand-SHA-384, 32-byte IV).

Knows the byte format, and that the key and every key derived from it must not outlive the call. Refuses to own the
buffers: the caller gives `out` and, for a guest, the locked `scratch`, and owes wiping `out` when a call raises, since
unauthenticated plaintext may be in it.

    message  header | segment ... | final segment
    header   0x00 AES-256-GCM | 0x00 SHA-384 | segment length u32 | IV length u32 = 32 | IV 32 | header tag 32
    segment  ff ff ff ff | nonce 12 | ciphertext | tag 16        exactly `segment` bytes
    final    its own length u32 | nonce 12 | ciphertext | tag 16 at most `segment` bytes
"""

from __future__ import annotations

import hmac
import os
import struct
import threading
from collections.abc import Callable, Generator
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from pytest_glasshouse.errors import IntegrityError

Buffer: TypeAlias = "bytes | bytearray | memoryview"
#: Called with the beginning and the end of a range.
Consumed: TypeAlias = Callable[[int, int], None]

#: 4 MiB, the encrypted length of a segment: the fastest of those tried, and small beside any package.
SEGMENT = 4 * 1024 * 1024
ROTATION = 20
KEY_BYTES = 32
HEADER_BYTES = 74
#: How much longer a segment is than its plaintext: length word, nonce, tag.
SEGMENT_OVERHEAD = 4 + 12 + 16
_SHARED_BYTES = 32 + 48

_PARAMS = struct.Struct(">BBII")
_IV_BYTES = 32
_INNER = b"\xff\xff\xff\xff"
_SEGMENTS_LIMIT = 1 << 40


def scratch_bytes(threads: int = 1) -> int:
    """Room for the derived keys: header tag and message key, then one segment key for each thread."""
    return _SHARED_BYTES + KEY_BYTES * threads


def encrypt(
    key: Buffer,
    aad: bytes,
    data: Buffer,
    *,
    segment: int = SEGMENT,
    rotation: int = ROTATION,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """`data` as one FLOE message. `segment` is the length of an encrypted segment."""
    view = memoryview(data).cast("B")
    header = message_header(key, aad, segment=segment, rotation=rotation, random_bytes=random_bytes)
    out = bytearray(cipher_length(len(view), segment=segment))
    out[:HEADER_BYTES] = header
    take, place = in_order(view), in_order(memoryview(out)[HEADER_BYTES:])
    for _ in encrypt_segments(
        key, aad, header, take, len(view), rotation=rotation, random_bytes=random_bytes, buffer=place
    ):  # fmt: skip
        pass
    return bytes(out)


def in_order(view: memoryview) -> Callable[[int], memoryview]:
    """A function that gives the next bytes of `view`."""
    at = 0

    def take(size: int) -> memoryview:
        nonlocal at
        at += size
        return view[at - size : at]

    return take


def message_header(
    key: Buffer,
    aad: bytes,
    *,
    segment: int = SEGMENT,
    rotation: int = ROTATION,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """The header of a new message, which commits to key and context and not to the data: it is known before any is read."""
    _check_key(key)
    if not SEGMENT_OVERHEAD < segment < 1 << 32:
        raise ValueError(f"segment of {segment} bytes")
    begun = _PARAMS.pack(0, 0, segment, _IV_BYTES) + random_bytes(_IV_BYTES)
    keys = _Keys(key, begun, aad, rotation, memoryview(bytearray(scratch_bytes())))
    try:
        return begun + bytes(keys.header_tag)
    finally:
        keys.wipe()


def encrypt_segments(
    key: Buffer,
    aad: bytes,
    header: bytes,
    take: Callable[[int], Buffer],
    size: int,
    *,
    rotation: int = ROTATION,
    random_bytes: Callable[[int], bytes] = os.urandom,
    buffer: Callable[[int], memoryview] | None = None,
) -> Generator[memoryview]:
    """Encrypt `size` bytes segment by segment, in order, for those who never hold all of them.

    `header` is a `message_header` of the same key and context, and begins the message. `take(n)` gives the next `n` bytes.
    `buffer(n)` gives the memory for a segment of `n` bytes; by default it is the same for each, so what was yielded holds until
    the next is asked for. Close the generator: it wipes the keys.
    """
    segment = segment_length(header)
    inner, count = segment - SEGMENT_OVERHEAD, max(1, -(-size // (segment - SEGMENT_OVERHEAD)))
    own = memoryview(bytearray(min(segment, size + SEGMENT_OVERHEAD))) if buffer is None else None
    keys = _Keys(key, header[:42], aad, rotation, memoryview(bytearray(scratch_bytes())))
    try:
        slot = keys.slot(0)
        for number in range(count):
            final = number == count - 1
            length = (size - number * inner if final else inner) + SEGMENT_OVERHEAD
            place = own[:length] if own is not None else buffer(length)  # type: ignore[misc]  # one of them is there
            place[:4] = struct.pack(">I", length) if final else _INNER
            place[4:16] = random_bytes(12)
            plain = take(length - SEGMENT_OVERHEAD)
            AESGCM(slot.segment(number)).encrypt_into(bytes(place[4:16]), plain, _segment_aad(number, final=final), place[16:])
            yield place
    finally:
        keys.wipe()


def decrypt(key: Buffer, aad: bytes, ciphertext: Buffer, *, rotation: int = ROTATION) -> bytes:
    """The plaintext of one FLOE message of any segment length. Raises what `decrypt_into` raises."""
    segment = segment_length(ciphertext)
    out = bytearray(plain_length(len(memoryview(ciphertext)), segment=segment))
    decrypt_into(key, aad, ciphertext, out, rotation=rotation)
    return bytes(out)


def decrypt_into(
    key: Buffer,
    aad: bytes,
    ciphertext: Buffer,
    out: bytearray | memoryview,
    *,
    rotation: int = ROTATION,
    scratch: memoryview | None = None,
    threads: int = 1,
    consumed: Consumed | None = None,
) -> None:
    """Decrypt one FLOE message into `out`, which must have exactly its plaintext's length, with up to `threads` threads.

    Raises `IntegrityError`: `pkg-format` (parameters), `pkg-length` (no message has this length), `pkg-commit` (another
    key or context), `pkg-integrity` (a segment is not what was sealed). After an error `out` holds anything, but nobody
    writes to it any more. `scratch` has `scratch_bytes(threads)`. `consumed` is called, from any of the threads, with the range
    of each segment in `ciphertext` that will not be read again.
    """
    _check_key(key)
    view = memoryview(ciphertext).cast("B")
    segment = segment_length(view)
    target = memoryview(out).cast("B")
    if plain_length(len(view), segment=segment) != len(target):
        raise IntegrityError("pkg-length", "the buffer is not as long as the plaintext")
    body = view[HEADER_BYTES:]
    shares = max(1, min(threads, _count(len(body), segment)))
    room = memoryview(bytearray(scratch_bytes(shares))) if scratch is None else scratch
    keys = _Keys(key, bytes(view[:42]), aad, rotation, room, threads=shares)
    try:
        if not hmac.compare_digest(keys.header_tag, view[42:HEADER_BYTES]):
            raise IntegrityError("pkg-commit", "another key or another context")
        opening = _Opening(keys, body, segment, target, consumed)
        opening.run(shares)
        # Not raised inside an except block: the error would carry the frames, and they the cipher, past this call.
        if opening.refused is not None:
            raise IntegrityError("pkg-integrity", f"segment {opening.refused}")
    finally:
        keys.wipe()


def decrypt_segments(
    key: Buffer,
    aad: bytes,
    ciphertext: Buffer,
    take: Callable[[int], memoryview],
    *,
    scratch: memoryview,
    rotation: int = ROTATION,
    consumed: Consumed | None = None,
    needed: Callable[[int], None] = lambda _end: None,
) -> Generator[memoryview]:
    """Decrypt one FLOE message segment by segment, in order, for those who have no room for all of it.

    `take(n)` gives the memory for the next `n` bytes of plaintext; it is yielded when they are authenticated. The message is
    whole when the generator ends by itself. Raises as `decrypt_into`; the memory taken last holds anything then. `scratch` has
    `scratch_bytes()`. Close the generator: it wipes the keys. `consumed` as in `decrypt_into`; `needed` is called before the
    message is read up to that many bytes, and returns when they are there.
    """
    _check_key(key)
    view = memoryview(ciphertext).cast("B")
    segment = segment_length(view)
    plain_length(len(view), segment=segment)
    body = view[HEADER_BYTES:]
    keys = _Keys(key, bytes(view[:42]), aad, rotation, scratch)
    try:
        if not hmac.compare_digest(keys.header_tag, view[42:HEADER_BYTES]):
            raise IntegrityError("pkg-commit", "another key or another context")
        slot, count = keys.slot(0), _count(len(body), segment)
        for number in range(count):
            place = body[number * segment : (number + 1) * segment]
            needed(HEADER_BYTES + number * segment + len(place))
            out = take(len(place) - SEGMENT_OVERHEAD)
            if not _open_segment(slot, number, place, out, final=number == count - 1):
                raise IntegrityError("pkg-integrity", f"segment {number}")
            if consumed is not None:
                consumed(HEADER_BYTES + number * segment, HEADER_BYTES + number * segment + len(place))
            yield out
    finally:
        keys.wipe()


def derive_keys(key: Buffer, aad: bytes, ciphertext: Buffer, scratch: memoryview) -> memoryview:
    """The secret keys of a message's first segments (message key, segment key), left in `scratch`; the caller owes wiping it."""
    _check_key(key)
    _Keys(key, bytes(memoryview(ciphertext).cast("B")[:42]), aad, ROTATION, scratch).slot(0).segment(0)
    return scratch[32 : scratch_bytes()]


class _Opening:
    """The segments of one message, opened in neighbouring shares: one for the caller's thread, the others beside it."""

    def __init__(self, keys: _Keys, body: memoryview, segment: int, out: memoryview, consumed: Consumed | None) -> None:
        self._keys = keys
        self._consumed = consumed
        self._body = body
        self._segment = segment
        self._out = out
        self._count = _count(len(body), segment)
        self._stop = False
        self._finished: list[int] = []
        self.refused: int | None = None

    def run(self, shares: int) -> None:
        """Open every segment; when this returns or raises, no other thread is at work."""
        borders = [self._count * share // shares for share in range(shares + 1)]
        beside = [threading.Thread(target=self._share, args=(n, borders[n], borders[n + 1])) for n in range(1, shares)]
        started: list[threading.Thread] = []
        try:
            for thread in beside:
                thread.start()
                started.append(thread)
            self._share(0, borders[0], borders[1])
            for thread in started:
                thread.join()
        finally:
            self._stop = True
            for thread in started:
                thread.join()
        if self.refused is None and len(self._finished) != shares:
            raise IntegrityError("pkg-integrity", "a thread that opened segments did not finish")

    def _share(self, share: int, first: int, end: int) -> None:
        slot = self._keys.slot(share)
        inner = self._segment - SEGMENT_OVERHEAD
        for number in range(first, end):
            if self._stop:
                return
            place = self._body[number * self._segment : (number + 1) * self._segment]
            out = self._out[number * inner : (number + 1) * inner]
            if not _open_segment(slot, number, place, out, final=number == self._count - 1):
                self._stop, self.refused = True, number
                return
            if self._consumed is not None:
                self._consumed(HEADER_BYTES + number * self._segment, HEADER_BYTES + number * self._segment + len(place))
        self._finished.append(share)


def _open_segment(slot: _Slot, number: int, place: memoryview, out: memoryview, *, final: bool) -> bool:
    if bytes(place[:4]) != (struct.pack(">I", len(place)) if final else _INNER):
        return False
    try:
        AESGCM(slot.segment(number)).decrypt_into(bytes(place[4:16]), place[16:], _segment_aad(number, final=final), out)
    except InvalidTag:
        return False
    return True


def segment_length(ciphertext: Buffer) -> int:
    """The length of an encrypted segment, from the header. Raises `IntegrityError("pkg-format")`."""
    view = memoryview(ciphertext).cast("B")
    if len(view) < HEADER_BYTES:
        raise IntegrityError("pkg-length", "shorter than a header")
    aead, digest, segment, iv_bytes = _PARAMS.unpack(view[: _PARAMS.size])
    if (aead, digest, iv_bytes) != (0, 0, _IV_BYTES) or segment <= SEGMENT_OVERHEAD:
        raise IntegrityError("pkg-format", "parameters this project does not use")
    return int(segment)


def plain_length(ciphertext_length: int, *, segment: int = SEGMENT) -> int:
    """The one plaintext length a message of this length can have. Raises `IntegrityError("pkg-length")`."""
    body = ciphertext_length - HEADER_BYTES
    count = _count(body, segment)
    if body - (count - 1) * segment < SEGMENT_OVERHEAD or count > _SEGMENTS_LIMIT:
        raise IntegrityError("pkg-length", "no message has this length")
    return body - count * SEGMENT_OVERHEAD


def cipher_length(plain: int, *, segment: int = SEGMENT) -> int:
    """The length `encrypt` makes of `plain` bytes: a full final segment is not followed by an empty one."""
    count = max(1, -(-plain // (segment - SEGMENT_OVERHEAD)))
    return HEADER_BYTES + plain + count * SEGMENT_OVERHEAD


def _count(body: int, segment: int) -> int:
    if body < SEGMENT_OVERHEAD:
        raise IntegrityError("pkg-length", "no final segment")
    return -(-body // segment)


def _segment_aad(number: int, *, final: bool) -> bytes:
    return struct.pack(">QB", number, 1 if final else 0)


def _check_key(key: Buffer) -> None:
    if len(memoryview(key)) != KEY_BYTES:
        raise IntegrityError("pkg-commit", "a key has 32 bytes")


class _Keys:
    """The keys of one message, all in `scratch`, wiped by `wipe`: those that every thread reads, and a slot for each."""

    def __init__(
        self, key: Buffer, params_iv: bytes, aad: bytes, rotation: int, scratch: memoryview, *, threads: int = 1
    ) -> None:
        self._scratch = scratch[: scratch_bytes(threads)]
        if len(self._scratch) != scratch_bytes(threads):
            raise ValueError(f"scratch of {len(scratch)} bytes for {threads} threads")
        self.header_tag = scratch[:32]
        self.message_key = scratch[32:_SHARED_BYTES]
        self.mask = -1 << rotation
        self._params_iv = params_iv
        self._aad = aad
        self.derive(key, b"HEADER_TAG:", self.header_tag)
        self.derive(key, b"MESSAGE_KEY:", self.message_key)

    def derive(self, key: Buffer, purpose: bytes, out: memoryview) -> None:
        """FLOE's one key derivation, into `out`."""
        HKDFExpand(SHA384(), len(out), self._params_iv + purpose + self._aad).derive_into(key, out)

    def slot(self, share: int) -> _Slot:
        """The segment keys of one thread."""
        begin = scratch_bytes(share)
        return _Slot(self, self._scratch[begin : begin + KEY_BYTES])

    def wipe(self) -> None:
        self._scratch[:] = bytes(len(self._scratch))


class _Slot:
    """One thread's segment key, derived anew where its segments pass into another rotation group."""

    def __init__(self, keys: _Keys, place: memoryview) -> None:
        self._keys = keys
        self._place = place
        self._group = -1

    def segment(self, number: int) -> memoryview:
        group = number & self._keys.mask
        if group != self._group:
            self._keys.derive(self._keys.message_key, b"DEK:" + struct.pack(">Q", group), self._place)
            self._group = group
        return self._place
