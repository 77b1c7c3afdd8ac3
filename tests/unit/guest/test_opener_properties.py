"""Seal anything, change one thing: it does not open, and nothing of it is left in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest import opener
from pytest_glasshouse.guest.memory import Arena, LockedSecret
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.sealing import SealedPackage, read_manifest, seal
from pytest_glasshouse.wire.canonical import sha256_hex

OWNER = Owner.generate()
PARTS = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True), st.binary(max_size=400), min_size=1, max_size=4)
SEGMENTS = st.integers(33, 600)
FAST = settings(deadline=None, database=None, max_examples=80, suppress_health_check=list(HealthCheck))


def sealed_of(parts: dict[str, bytes], segment: int) -> SealedPackage:
    plain = {name: data for name, data in parts.items() if name != "canary"} or {"part": b""}
    return seal(plain, owner=OWNER, run="r", round_nonce="00" * 32, workload={}, segment=segment)


@dataclass
class Attempt:
    """The input of the opener."""

    package: bytearray
    key: bytearray
    manifest: dict[str, Any]


def attempt_on(sealed: SealedPackage) -> Attempt:
    return Attempt(
        package=bytearray(sealed.package),
        key=bytearray(sealed.data_key.reveal()),
        manifest=dict(read_manifest(sealed.manifest, owner=OWNER.public)),
    )


def opened(attempt: Attempt) -> tuple[dict[str, bytes] | None, list[bytes]]:
    """The parts or None, and the content of every arena afterwards."""
    made: list[Arena] = []

    class Watched(Arena):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            made.append(self)

    key = LockedSecret.take(bytes(attempt.key))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opener, "Arena", Watched)
        try:
            found = opener.open_package(bytes(attempt.package), key, attempt.manifest)
        except IntegrityError:
            return None, [bytes(arena.view) for arena in made]
        finally:
            key.close()
    return {name: bytes(view) for name, view in found.parts.items()}, []


@FAST
@given(PARTS, SEGMENTS)
def test_what_was_sealed_is_opened(parts: dict[str, bytes], segment: int) -> None:
    sealed = sealed_of(parts, segment)
    found, _ = opened(attempt_on(sealed))

    assert found is not None
    assert {name: data for name, data in found.items() if name != "canary"} == (
        {name: data for name, data in parts.items() if name != "canary"} or {"part": b""}
    )


@FAST
@given(PARTS, SEGMENTS, st.data())
def test_one_thing_changed_does_not_open_and_leaves_nothing(parts: dict[str, bytes], segment: int, data: st.DataObject) -> None:
    attempt = attempt_on(sealed_of(parts, segment))
    package = attempt.package
    what = data.draw(st.sampled_from(("byte", "key", "cut", "longer", "inserted", "removed", "swapped", "header")))
    place = data.draw(st.integers(0, len(package) - 1))
    if what == "byte":
        package[place] ^= data.draw(st.integers(1, 255))
    elif what == "key":
        attempt.key[place % 32] ^= data.draw(st.integers(1, 255))
    elif what == "cut":
        del package[place:]
    elif what == "longer":
        package.extend(data.draw(st.binary(min_size=1, max_size=40)))
    elif what == "inserted":
        package.insert(place, data.draw(st.integers(0, 255)))
    elif what == "removed":
        del package[place]
    elif what == "swapped":
        # Two bytes that differ; a package has some, for its digests alone.
        other = next(at for at in range(len(package)) if package[at] != package[place])
        package[place], package[other] = package[other], package[place]
    else:
        attempt.manifest["header_sha256"] = sha256_hex(b"another")

    found, left = opened(attempt)

    assert found is None, what
    assert all(not any(held) for held in left)
