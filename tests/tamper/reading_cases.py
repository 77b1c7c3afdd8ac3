"""Questions for the completeness test that are not attacks of the tamper suite: each has one answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation.http import ListeningServer
from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.guest.opener import open_package, unseal_key
from pytest_glasshouse.invariants import ALL, Finding
from pytest_glasshouse.tamper import cheats, node_cases, rank_cases, turns
from pytest_glasshouse.tamper import observation as observation_cases
from pytest_glasshouse.tamper.rank_cases import RoundOfRanks
from pytest_glasshouse.tamper.signed_round import RoundEdit, SignedRound, untouched
from pytest_glasshouse.tamper.testbed import TamperTestbed
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.canonical import b64u, canonical
from pytest_glasshouse.wire.evidence import SUITE, release_info
from pytest_glasshouse.wire.journal import Journal, genesis, replay
from pytest_glasshouse.wire.package import FORMAT, MAGIC, parse_header, part_context, write
from tests.tamper.removal import Ask
from tests.unit.wire.floe_by_hand import by_hand


class _Dying(floe._Opening):
    """An opening whose second thread ends before it has opened its share."""

    def _share(self, share: int, first: int, end: int) -> None:
        if share == 0:
            super()._share(share, first, end)


def _opened_by_a_thread_that_dies(key: bytes, sealed: bytes) -> None:
    room = memoryview(bytearray(floe.scratch_bytes(2)))
    keys = floe._Keys(key, sealed[:42], b"aad", floe.ROTATION, room, threads=2)
    _Dying(keys, memoryview(sealed)[floe.HEADER_BYTES :], 64, memoryview(bytearray(100)), None).run(2)


def opener() -> dict[str, Ask]:
    """FLOE messages by themselves, headers that are never written, invalid sealed keys."""
    key, sealed = bytes(range(32)), floe.encrypt(bytes(range(32)), b"aad", bytes(100), segment=64)
    private = X25519PrivateKey.generate()
    short = b64u(SUITE.encrypt(bytes(16), private.public_key(), info=release_info("result", "manifest")))

    def into(size: int) -> None:
        floe.decrypt_into(key, b"aad", sealed, bytearray(size))

    def opened(message: bytes) -> bytes:
        return floe.decrypt(key, b"aad", message)

    def with_byte(place: int, value: int) -> bytes:
        return sealed[:place] + bytes([value]) + sealed[place + 1 :]

    def by_segments(message: bytes = sealed, key: bytes = key) -> bytes:
        room, slot = memoryview(bytearray(floe.scratch_bytes())), memoryview(bytearray(64))
        return b"".join(map(bytes, floe.decrypt_segments(key, b"aad", message, lambda size: slot[:size], scratch=room)))

    return {
        "floe-by-segments": by_segments,
        "floe-by-segments-with-a-short-key": lambda: by_segments(
            by_hand(key[:31], b"aad", b"plain", segment=64, rotation=20), key[:31]
        ),
        "floe-by-segments-tag-bit": lambda: by_segments(with_byte(len(sealed) - 1, sealed[-1] ^ 1)),
        "floe-by-segments-commitment-bit": lambda: by_segments(with_byte(50, sealed[50] ^ 1)),
        "floe-sealed-under-a-short-key": lambda: len(floe.encrypt(key[:31], b"aad", b"")),
        "floe-opened-with-a-short-key": lambda: floe.decrypt(key[:31], b"aad", sealed),
        "floe-keys-of-a-short-key": lambda: len(floe.derive_keys(key[:31], b"aad", sealed, memoryview(bytearray(200)))),
        "floe-thread-that-died": lambda: _opened_by_a_thread_that_dies(key, sealed),
        "floe-buffer-too-long": lambda: into(101),
        "floe-buffer-too-short": lambda: into(99),
        "floe-three-bytes": lambda: opened(sealed[:3]),
        "floe-header-alone": lambda: opened(sealed[: floe.HEADER_BYTES]),
        "floe-another-cipher": lambda: opened(with_byte(0, 1)),
        "floe-another-hash": lambda: opened(with_byte(1, 1)),
        "floe-segments-of-no-length": lambda: opened(with_byte(5, 32)),
        "floe-impossible-length": lambda: opened(sealed[: floe.HEADER_BYTES + 64 + 10]),
        "floe-final-segment-with-another-length-word": lambda: opened(with_byte(len(sealed) - 36, 7)),
        "floe-tag-bit": lambda: opened(with_byte(len(sealed) - 1, sealed[-1] ^ 1)),
        "floe-commitment-bit": lambda: opened(with_byte(50, sealed[50] ^ 1)),
        "data-key-of-sixteen-bytes": lambda: len(
            unseal_key(short, result_token="result", manifest_sha256="manifest", private=private)
        ),
        "floe-message-sealed-under-a-short-key": lambda: floe.decrypt(
            key[:31], b"aad", by_hand(key[:31], b"aad", b"plain", segment=64, rotation=20)
        ),
        "header-of-no-length": lambda: parse_header(MAGIC + bytes(4)),
        "segments-of-another-length-than-the-header-says": _other_segments,
        **{f"header-{name}": partial(parse_header, _with_header(header)) for name, header in _HEADERS.items()},
    }


def _other_segments() -> object:
    """As long as it would be with the header's segments, because there is one: it would open."""
    key, package = bytes(range(32)), "0" * 64
    message = floe.encrypt(key, part_context(package, "train", 0, 1, 5), b"plain", segment=64)
    sealed = write(package, 128, [("train", 5, message)])
    opened = open_package(sealed, LockedSecret.take(bytes(bytearray(key))), {"header_sha256": parse_header(sealed).sha256})
    try:
        return bytes(opened.parts["train"])
    finally:
        opened.close()


def _with_header(header: object) -> bytes:
    raw = header if isinstance(header, bytes) else canonical(header)
    return MAGIC + len(raw).to_bytes(4, "big") + raw


def _header(**changes: object) -> dict[str, object]:
    part = {"name": "train", "size": 0, "offset": 0, "length": 106, "commit": "00" * 74}
    return {"format": FORMAT, "package": "0" * 64, "segment": 64, "parts": [part], **changes}


_HEADERS: dict[str, object] = {
    "of-another-format": _header(format="glasshouse-package/0"),
    "package-no-digest": _header(package="short"),
    "segment-too-short": _header(segment=32),
    "segment-a-text": _header(segment="64"),
    "no-parts": _header(parts=[]),
    "part-a-number": _header(parts=[7]),
    "part-empty": _header(parts=[{}]),
    "respaced": canonical(_header()).replace(b":", b": ", 1),
    "not-json": b"{",
    "commitment-too-short": _header(parts=[{"name": "train", "size": 0, "offset": 0, "length": 106, "commit": "00" * 73}]),
}


def journal() -> dict[str, Ask]:
    """Lines that the journal's own writer refuses, and fields of another type."""
    nonce = "00" * 32

    def written(step: str, body: dict[str, object]) -> int:
        log = Journal(nonce, lambda _line: None, lambda: 0)
        log.append(step, body)
        return log.count

    def replayed(**changes: object) -> object:
        line = {"seq": 0, "prev": genesis(nonce), "t_us": 0, "type": "measured", "body": {"wall": "2027-01-15T08:00:00Z"}}
        return replay([canonical({**line, **changes}).decode()], nonce)

    return {
        "first-line-without-a-wall-time": lambda: written("measured", {}),
        "body-with-a-float": lambda: written("measured", {"wall": "2027-01-15T08:00:00Z", "loss": 0.5}),
        "time-a-text": lambda: replayed(t_us="0"),
        "type-a-number": lambda: replayed(type=1),
        "body-a-list": lambda: replayed(body=[]),
        "first-line-late": lambda: replayed(t_us=1),
        "as-it-should-be": replayed,
    }


class _Patient(TamperTestbed):
    """Its server has room for the challenge of every round of these cases."""

    def _serve(self) -> ListeningServer:
        self.caps = Caps(open_challenges=1000)
        return super()._serve()


def judged_rounds() -> dict[str, Ask]:
    """Every audit case of the suite: the findings of a round with one change, and of an unchanged one."""
    with _Patient() as testbed:
        return _judged_rounds(testbed)


def _judged_rounds(testbed: TamperTestbed) -> dict[str, Ask]:
    edits = {"finished": untouched, "never met": _guest_missing, "of one leg": _of_one_leg, **observation_cases.EDITS}
    lies = {name: edit for name, (edit, in_turns, rounds) in cheats.EDITS.items() if not in_turns and rounds == 1}
    edits |= lies
    observations = {name: _finished(testbed, edit) for name, edit in edits.items()}
    observations["first round without a meeting"] = _first_round_without_a_guest(testbed)
    taking_turns = {"finished in turns": untouched, "in turns, never met": _guest_missing, **turns.EDITS}
    taking_turns |= {name: edit for name, (edit, in_turns, _) in cheats.EDITS.items() if in_turns}
    observations |= {name: _finished(testbed, edit, turns=turns.TURNS) for name, edit in taking_turns.items()}
    observations |= {
        name: RoundOfRanks(testbed, edit).observation for name, edit in {"of ranks": untouched, **rank_cases.EDITS}.items()
    }
    observations |= {
        name: node_cases.round_over_nodes(testbed, edit) for name, edit in {"over nodes": untouched, **node_cases.EDITS}.items()
    }
    return {
        f"{name} ({invariant.__name__})": partial(_found, invariant, observation)
        for name, observation in observations.items()
        for invariant in ALL
    }


def _guest_missing(about: str, content: Any) -> None:
    if about == "observation":
        content["rounds"][0]["guest"] = []


def _of_one_leg(about: str, content: Any) -> None:
    if about == "observation":
        content["rounds"][0]["order"] = ["protected"]


def _first_round_without_a_guest(testbed: TamperTestbed) -> Any:
    observation = _finished(testbed, untouched)
    observation["rounds"].insert(0, {**observation["rounds"][0], "guest": [], "order": []})
    return observation


def _finished(testbed: TamperTestbed, edit: RoundEdit, **changes: Any) -> Any:
    return SignedRound(testbed, edit, **changes).observation


def _found(invariant: Callable[[Any], Finding], observation: Any) -> object:
    found = invariant(observation)
    return found.finding, found.reason
