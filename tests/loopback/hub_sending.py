"""How an answer leaves the hub: ranges of files, and the faults that are played on bodies."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

from tests.loopback.hub_api import Reply, as_json, refusal
from tests.loopback.hub_faults import (
    Changed,
    Compressed,
    Cut,
    Drip,
    Endless,
    Flipped,
    Headers,
    HubFault,
    RangeIgnored,
    Redirected,
    Refused,
    WrongSize,
)
from tests.loopback.hub_repository import Content

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def instead(fault: Refused | Redirected) -> Reply:
    """The answer that such a fault is."""
    if isinstance(fault, Redirected):
        return Reply(status=fault.status, headers={"Location": fault.to})
    reply = refusal(fault.status, fault.says, fault.code)
    if fault.body is not None:
        reply.content, reply.headers["Content-Type"] = Content(fault.body), "text/html"
    if fault.retry_after_s is not None:
        reply.headers["Retry-After"] = str(fault.retry_after_s)
    if fault.status == 429:
        reply.headers["RateLimit"] = f'"resolvers";r=0;t={fault.retry_after_s or 0}'
        reply.headers["RateLimit-Policy"] = '"fixed window";"resolvers";q=3000;w=300'
    return reply


def changed(reply: Reply, fault: HubFault | None) -> Reply:
    """An answer whose headers, or whose JSON, a fault has changed."""
    if isinstance(fault, Headers):
        headers = {name: text for name, text in reply.headers.items() if name not in fault.changed}
        return replace(reply, headers={**headers, **{name: text for name, text in fault.changed.items() if text is not None}})
    if isinstance(fault, WrongSize) and "X-Linked-Size" in reply.headers:
        return replace(reply, headers={**reply.headers, "X-Linked-Size": str(int(reply.headers["X-Linked-Size"]) + fault.by)})
    if isinstance(fault, WrongSize) and reply.ranges and reply.content is not None:
        whole = reply.content.whole
        return replace(reply, content=Content(whole[: fault.by] if fault.by < 0 else whole + b"\0" * fault.by))
    return reply


def changed_json(reply: Reply, fault: Changed) -> Reply | Iterable[bytes]:
    """JSON that a fault has changed; bytes and pieces of bytes as they are."""
    assert reply.content is not None
    made = fault.by(json.loads(reply.content.whole))
    if isinstance(made, bytes):
        return replace(reply, content=Content(made))
    if isinstance(made, Iterator):
        return made
    return replace(reply, content=as_json(made).content)


def ranged(reply: Reply, asked: str | None, fault: HubFault | None) -> tuple[Reply, int, int]:
    """The part of a file that was asked for: the answer, and from where to where."""
    assert reply.content is not None
    size = reply.content.size
    found = _RANGE.fullmatch(asked or "")
    if found is None or not reply.ranges or not any(found.groups()) or isinstance(fault, RangeIgnored):
        return reply, 0, size
    first, last = found.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size or start >= stop:
        refused = refusal(416, "Range Not Satisfiable", Content_Range=f"bytes */{size}")
        assert refused.content is not None
        return refused, 0, refused.content.size
    return replace(reply, status=206, headers={**reply.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}), start, stop


def pieces(content: Content, start: int, stop: int, fault: HubFault | None, pause: Callable[[float], Any]) -> Iterator[bytes]:
    """A body, piece by piece, as a fault lets it go. After a cut there are no more, though more were promised."""
    body = content.read(start, stop)
    match fault:
        case Cut():
            return content.read(start, min(start + fault.after_bytes, stop))
        case Endless():
            return chain(body, repeat(fault.repeated))
        case Flipped():
            return _flipped(body, fault.at - start)
        case Drip():
            return _dripping(content, start, stop, fault, pause)
    return body


def compressed(content: Content, fault: Compressed) -> Iterator[bytes]:
    """A body as gzip. Zeros that follow are one block, sent again and again."""
    packing = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    yield packing.compress(content.whole) + packing.flush(zlib.Z_FULL_FLUSH)
    if fault.bomb_mib:
        block = packing.compress(bytes(1 << 20)) + packing.flush(zlib.Z_FULL_FLUSH)
        yield from repeat(block, fault.bomb_mib)
    yield packing.flush()


def _flipped(body: Iterator[bytes], at: int) -> Iterator[bytes]:
    for piece in body:
        if 0 <= at < len(piece):
            yield piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
        else:
            yield piece
        at -= len(piece)


def _dripping(content: Content, start: int, stop: int, fault: Drip, pause: Callable[[float], Any]) -> Iterator[bytes]:
    held = min(start + fault.after_bytes, stop)
    yield from content.read(start, held)
    for at in range(held, stop, fault.piece_bytes):
        if fault.tap is not None:
            fault.tap.take()
        else:
            pause(fault.pause_s)
        yield from content.read(at, min(at + fault.piece_bytes, stop))
