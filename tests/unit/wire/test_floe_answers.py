"""Known answers: opened, refused with any single byte changed. Those in `tests/data/floe.json` were made by this project.

They were written by `by_hand` below, which shares no code with `wire.floe`. A directory of the published answers
(`*_ct.txt` and `*_pt.txt`, hex; key of zeros, associated data `This is AAD`) is tried where `GLASSHOUSE_FLOE_ANSWERS`
names one; they are not ours to commit.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import floe
from tests.unit.wire.floe_by_hand import by_hand

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
