"""Known answers: opened, refused with any single byte changed. Those in `tests/data/floe.json` were made by this project.

They were written by `by_hand` below, which shares no code with `wire.floe`. A directory of the published answers
(`*_ct.txt` and `*_pt.txt`, hex; key of zeros, associated data `This is AAD`) is tried where `GLASSHOUSE_FLOE_ANSWERS`
names one; they are not ours to commit.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import floe

OURS = Path(__file__).parents[2] / "data" / "floe.json"
PUBLISHED = os.environ.get("GLASSHOUSE_FLOE_ANSWERS")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One message and what is in it."""

    name: str
    key: bytes
    aad: bytes
    rotation: int
    plain: bytes
    message: bytes


def ours() -> list[Answer]:
    """The project's own."""
    return [
        Answer(**{**each, **{name: bytes.fromhex(each[name]) for name in ("key", "aad", "plain", "message")}})
        for each in json.loads(OURS.read_bytes())
    ]


def published() -> list[Answer]:
    """Those of the directory that was named."""
    found = sorted(Path(PUBLISHED).glob("*_ct.txt")) if PUBLISHED else []
    return [
        Answer(
            name=path.name.removesuffix("_ct.txt"),
            key=bytes(32),
            aad=b"This is AAD",
            rotation=2 if "rotation" in path.name else floe.ROTATION,
            plain=bytes.fromhex(path.with_name(path.name.replace("_ct", "_pt")).read_text("ascii").strip()),
            message=bytes.fromhex(path.read_text("ascii").strip()),
        )
        for path in found
    ]


ANSWERS = [*ours(), *published()]


def by_hand(key: bytes, aad: bytes, plain: bytes, *, segment: int, rotation: int) -> bytes:
    """The format once more, as its specification describes it and nothing else; randomness is SHAKE-128 of a counter."""
    drawn = iter(range(1, 1 << 20))

    def random(size: int) -> bytes:
        return hashlib.shake_128(str(next(drawn)).encode()).digest(size)

    params, iv = bytes(2) + segment.to_bytes(4, "big") + (32).to_bytes(4, "big"), random(32)

    def derived(from_key: bytes, purpose: bytes, size: int) -> bytes:
        return HKDFExpand(SHA384(), size, params + iv + purpose + aad).derive(from_key)

    message_key = derived(key, b"MESSAGE_KEY:", 48)
    out = params + iv + derived(key, b"HEADER_TAG:", 32)
    pieces = [plain[at : at + segment - 32] for at in range(0, len(plain), segment - 32)] or [b""]
    for number, piece in enumerate(pieces):
        final = number == len(pieces) - 1
        segment_key = derived(message_key, b"DEK:" + (number >> rotation << rotation).to_bytes(8, "big"), 32)
        nonce = random(12)
        sealed = AESGCM(segment_key).encrypt(nonce, piece, number.to_bytes(8, "big") + bytes([final]))
        out += ((len(piece) + 32).to_bytes(4, "big") if final else b"\xff" * 4) + nonce + sealed
    return out


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_known_answer_is_opened(answer: Answer) -> None:
    assert floe.decrypt(answer.key, answer.aad, answer.message, rotation=answer.rotation) == answer.plain


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_known_answer_with_any_single_byte_changed_is_refused(answer: Answer) -> None:
    """Every byte, to two other values; what was half opened is the caller's to wipe and is not handed out."""
    changed = bytearray(answer.message)
    for place in range(len(changed)):
        for flip in (0x01, 0x80):
            changed[place] ^= flip
            with pytest.raises(IntegrityError):
                floe.decrypt(answer.key, answer.aad, bytes(changed), rotation=answer.rotation)
            changed[place] ^= flip
    assert bytes(changed) == answer.message


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_known_answer_under_another_key_or_context_is_refused(answer: Answer) -> None:
    for place in range(32):
        key = bytearray(answer.key)
        key[place] ^= 1
        with pytest.raises(IntegrityError, match="pkg-commit"):
            floe.decrypt(bytes(key), answer.aad, answer.message, rotation=answer.rotation)
    with pytest.raises(IntegrityError, match="pkg-commit"):
        floe.decrypt(answer.key, answer.aad + b"\0", answer.message, rotation=answer.rotation)


@pytest.mark.parametrize("answer", ours(), ids=lambda answer: answer.name)
def test_our_answers_match_the_specification(answer: Answer) -> None:
    segment = floe.segment_length(answer.message)
    assert by_hand(answer.key, answer.aad, answer.plain, segment=segment, rotation=answer.rotation) == answer.message


def test_our_answers_cover_the_ends_of_segments_and_the_rotation_of_keys() -> None:
    """Empty, one byte, a full final segment, one byte more, many segments under few keys."""
    shapes = set()
    for answer in ours():
        inner = floe.segment_length(answer.message) - floe.SEGMENT_OVERHEAD
        shapes.add((min(len(answer.plain), 2), len(answer.plain) % inner in {0, 1}, answer.rotation < 3))
    assert len(shapes) >= 4
    assert max(len(answer.message) for answer in ours()) > 8192
