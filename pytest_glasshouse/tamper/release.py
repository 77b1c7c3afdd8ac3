"""The answer to a release, tampered with in transit: the leg must refuse it."""

from __future__ import annotations

from collections.abc import Callable

from pytest_glasshouse.guest.opener import unseal_key
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import TamperTestbed
from pytest_glasshouse.wire.canonical import b64u, sha256_hex, unb64u


def _case(name: str, reason: str, caught_by: str, play: Callable[[TamperTestbed], None]) -> Case:
    return Case(name=name, play=play, expected_reason=reason, caught_by=caught_by, asset="plaintext")


def _of_another_server(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    released = attempt.release()
    testbed.restart()  # the new server has another key; the leg expects the old one
    attempt.unseal(released)


def _of_another_session(testbed: TamperTestbed) -> None:
    first, second = testbed.attempt(), testbed.attempt()
    first.release()
    first.unseal(second.release())


def _sealed(change: Callable[[bytes], bytes]) -> Callable[[TamperTestbed], None]:
    def play(testbed: TamperTestbed) -> None:
        attempt = testbed.attempt()
        released = attempt.release()
        attempt.unseal({**released, "sealed": b64u(change(unb64u(released["sealed"])))})

    return play


def _for_another_manifest(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    released = attempt.release()
    other = sha256_hex(b"another")
    unseal_key(released["sealed"], result_token=released["result"], manifest_sha256=other, private=attempt.hpke)


def _with_another_result(testbed: TamperTestbed) -> None:
    first, second = testbed.attempt(), testbed.attempt()
    ours, theirs = first.release(), second.release()
    first.unseal({"result": ours["result"], "sealed": theirs["sealed"]})


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


CASES = (
    _case("result-of-another-server", "jws-header", "verify_result", _of_another_server),
    _case("result-of-another-session", "result-binding", "verify_result", _of_another_session),
    _case("key-sealed-for-another-manifest", "sealed", "unseal_key", _for_another_manifest),
    _case("key-sealed-for-another-session", "sealed", "unseal_key", _with_another_result),
    _case("sealed-key-bit", "sealed", "unseal_key", _sealed(_flip)),
    _case("sealed-key-cut", "sealed", "unseal_key", _sealed(lambda data: data[:-1])),
    _case("sealed-key-empty", "sealed", "unseal_key", _sealed(lambda _: b"")),
)
