"""What is fuzzed, and what must hold whatever comes: a clean refusal or the right answer. Each target takes bytes.

Used by hypothesis in `make test` and by atheris for as long as one likes (`python -m tests.fuzz.harness`). A target raises
only when something is wrong: an undocumented exception, a release, plaintext left behind, or a message that was
taken although it is not the one that was made.
"""

from __future__ import annotations

import atexit
import contextlib
import json
from collections.abc import Callable
from functools import cache
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from pytest_glasshouse.check.check import Level, check_bytes
from pytest_glasshouse.errors import IntegrityError, RefusedError, ReportError
from pytest_glasshouse.guest import opener
from pytest_glasshouse.guest.memory import Arena, LockedSecret
from pytest_glasshouse.owner.sealing import read_manifest
from pytest_glasshouse.report.bundle import bundle_bytes, report_bytes
from pytest_glasshouse.tamper.testbed import PARTS, PLAN, SUB, TamperTestbed
from pytest_glasshouse.wire import floe, journal, package, tokens
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.fuzz import answers
from tests.fuzz.guest import guest_messages
from tests.fuzz.mutation import STRANGE, Tape, changed_bytes, changed_json
from tests.limits import HANG_S
from tests.unit.report import example

Target = Callable[[bytes], None]


@cache
def _testbed() -> TamperTestbed:
    testbed = TamperTestbed()
    atexit.register(testbed.close)
    return testbed


@cache
def _journal() -> tuple[list[str], str]:
    attempt = _testbed().attempt()
    attempt.run_journal()
    return attempt.lines, attempt.nonce


@cache
def _report() -> Any:
    return example.document(example.measured(), example.excluded())


@cache
def _files() -> tuple[bytes, bytes]:
    small = example.document(example.measured(), example.lost())
    return report_bytes(small), bundle_bytes(small, key=example.KEYS.report)


def package_opener(data: bytes) -> None:
    """Opens only what was sealed; after a refusal every arena reads zeros."""
    testbed, tape = _testbed(), Tape(data)
    sealed = testbed.sealed
    changed = data if tape.number(16) == 0 else changed_bytes(sealed.package, tape)
    manifest = read_manifest(sealed.manifest, owner=testbed.owner.public)
    with contextlib.suppress(IntegrityError):  # a header that reads is given a manifest that follows it
        manifest["header_sha256"] = package.parse_header(changed).sha256
    made: list[Arena] = []

    class Watched(Arena):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            made.append(self)

    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    patched: Any = opener
    genuine, patched.Arena = patched.Arena, Watched
    try:
        opened = opener.open_package(changed, key, manifest)
    except IntegrityError:
        if any(any(arena.view) for arena in made):
            raise AssertionError("plaintext is left after a refusal") from None
    else:
        if any(bytes(opened.parts[name]) != part for name, part in PARTS.items()):
            raise AssertionError("another plaintext than was sealed")
        opened.close()
    finally:
        patched.Arena = genuine
        key.close()
        for arena in made:
            arena.close()


def floe_message(data: bytes) -> None:
    """A FLOE message opens to what was sealed or not at all."""
    tape = Tape(data)
    plain = tape.take(tape.number(300))
    sealed = floe.encrypt(bytes(32), b"context", plain, segment=64)
    changed = changed_bytes(sealed, tape)
    with contextlib.suppress(IntegrityError):
        if floe.decrypt(bytes(32), b"context", changed) != plain or changed != sealed:
            raise AssertionError("a changed message was opened")


def journal_reader(data: bytes) -> None:
    """Replays only the lines that were written, up to where they were cut."""
    lines, nonce = _journal()
    text = changed_bytes("\n".join(lines).encode(), Tape(data))
    changed = text.decode("utf-8", "surrogateescape").split("\n")
    with contextlib.suppress(IntegrityError):
        entries = journal.replay(changed, nonce)
        journal.check_steps(entries)
        journal.check_head(changed, nonce, head=journal.head_of(lines, nonce), count=len(lines))
        if changed != lines:
            raise AssertionError("another journal was replayed to the same head")


def token_reader(data: bytes) -> None:
    """Only the very token that was signed verifies."""
    testbed = _testbed()
    token = testbed.sealed.manifest
    changed = changed_bytes(token.encode(), Tape(data)).decode("utf-8", "surrogateescape")
    with contextlib.suppress(IntegrityError):
        tokens.verify(changed, key=testbed.owner.public, typ="glasshouse-manifest+jwt")
        if changed != token:
            raise AssertionError("a changed token verified")


def report_reader(data: bytes) -> None:
    """A changed report has a fault; no report is an exception."""
    tape = Tape(data)
    document = _report()
    changed = changed_json(document, tape)
    try:
        text = report_bytes(changed)
    except (ValueError, UnicodeEncodeError):
        text = json.dumps(changed, allow_nan=True).encode()
    found = check_bytes(text, derivation=example.EXAMPLE if data[:1] < b"\x80" else None)
    if found.sound and changed != document:
        raise AssertionError("a changed report has no fault")


def report_bytes_reader(data: bytes) -> None:
    """Bytes that are nearly a report, or anything."""
    tape = Tape(data)
    text = data if tape.number(8) == 0 else changed_bytes(_files()[0], tape)
    _checked(text)


def bundle_reader(data: bytes) -> None:
    """Bytes that are nearly a bundle: a clean error, or what checking found."""
    _checked(changed_bytes(_files()[1], Tape(data)))


def _checked(text: bytes) -> None:
    with contextlib.suppress(ReportError):
        found = check_bytes(text, derivation=example.EXAMPLE)
        if not found.sound and found.level is not Level.NOTHING:
            raise AssertionError("faults, and a level nevertheless")


@cache
def _messages() -> tuple[tuple[str, dict[str, Any]], ...]:
    testbed = _testbed()
    attempt = testbed.attempt()
    grant = testbed.grant(SUB)
    head = attempt.head()
    return (
        ("/v1/register", {"registration": testbed.registration(testbed.sealed, testbed.policy)}),
        ("/v1/enrol", {"grant": grant, "ak": tokens.public_text(testbed.ak.public_key()), "proof": "A" * 86}),
        ("/v1/challenge", {"sub": SUB, "plan": PLAN}),
        # Evidence of a session that is over: whatever becomes of it, it must not be released.
        ("/v1/release", {"evidence": attempt.token().replace(".", "..", 1), "log": attempt.log}),
        ("/v1/outstanding", {"query": testbed.owner.sign_query(server=testbed.embedded.public_key, run="", now=testbed.now)}),
        ("/v1/complete", {"head": head, "exit": attempt.exit(head), "nonce": attempt.nonce}),
    )


def endpoints(data: bytes) -> None:
    """Every endpoint answers every body with JSON, and none of them with a key."""
    testbed, tape = _testbed(), Tape(data)
    messages = _messages()
    path, message = messages[tape.number(len(messages))]
    kind = tape.number(4)
    if kind == 0:
        body = changed_bytes(json.dumps(message).encode(), tape)
    elif kind == 1:
        body = json.dumps({name: STRANGE[tape.number(len(STRANGE))] for name in message}).encode()
    else:
        body = json.dumps(changed_json(message, tape)).encode()
    before = testbed.embedded.server.releases()
    status, answer = _posted(testbed, path, body)
    if status == 200 and path in {"/v1/release", "/v1/complete"}:
        raise AssertionError(f"{path} answered a message that is not one")
    if status != 200 and (not answer.get("reason") or answer["reason"] == "internal"):
        raise AssertionError(f"{path} did not know what to say: {answer}")
    if testbed.embedded.server.releases() != before:
        raise AssertionError("a key was released")


def _posted(testbed: TamperTestbed, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection(urlsplit(testbed.embedded.url).netloc, timeout=HANG_S)
    try:
        connection.request("POST", path, body=body, headers={"Content-Type": "application/json"})
        answered = connection.getresponse()
        answer: dict[str, Any] = json.loads(answered.read())
        return answered.status, answer
    finally:
        connection.close()


def request_lines(data: bytes) -> None:
    """Bytes that are no HTTP: the server survives them and still answers."""
    testbed = _testbed()
    connection = HTTPConnection(urlsplit(testbed.embedded.url).netloc, timeout=HANG_S)
    try:
        connection.connect()
        whole = b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        connection.sock.sendall(changed_bytes(whole, Tape(data)))
        connection.sock.shutdown(1)
        with contextlib.suppress(OSError, HTTPException):
            connection.sock.recv(65_536)
    finally:
        connection.close()
    with contextlib.suppress(RefusedError):
        testbed.client.challenge(sub="nobody", plan=sha256_hex(b""))


def provider_answers(data: bytes) -> None:
    """Whatever a provider answers is an answer or a typed error, within bytes and time; what may have been made is never denied."""
    answers.answered(Tape(data))


TARGETS: dict[str, Target] = {
    target.__name__.replace("_", "-"): target
    for target in (
        package_opener, floe_message, journal_reader, token_reader, report_reader, report_bytes_reader, bundle_reader, endpoints,
        request_lines, guest_messages, provider_answers,
    )
}  # fmt: skip
