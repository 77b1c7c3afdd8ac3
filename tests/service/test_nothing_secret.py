"""Nothing the server writes or shows holds a secret: searched for with the real secrets of the session."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.suite import CASES
from tests.secret_spellings import halves, spellings
from tests.service.serving import ServedTestbed, Serving, serving


class Tapped(AttestationClient):
    """A client that keeps every token it sends and gets: none of them belongs into a log."""

    tokens: set[bytes] = set()  # noqa: RUF012  (one for all)

    def ask(self, path: str, message: object) -> dict[str, object]:  # type: ignore[override]
        assert isinstance(message, dict)
        answer = super().ask(path, message)
        for value in (*message.values(), *answer.values()):
            if isinstance(value, str) and len(value) > 40:
                Tapped.tokens.add(value.encode())
        return answer  # type: ignore[return-value]


@pytest.fixture(name="session", scope="module")
def a_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, list[bytes], dict[str, bytes]]]:
    """One lifecycle and every refusal of evidence; then the server's secrets, and everything it left behind or showed."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder) as server:
        with ServedTestbed(server) as testbed:
            testbed.client = Tapped(server.url)
            testbed.attempt().run_lifecycle()
            for case in CASES:
                if case.caught_by is not None and case.caught_by.startswith("appraise"):
                    _refused(testbed, case)
            data_key = testbed.sealed.data_key.reveal()
            canary = testbed.sealed.canary.reveal()
        process = Path(f"/proc/{server.process.pid}")
        seen = {"command line": (process / "cmdline").read_bytes(), "environment": (process / "environ").read_bytes()}
        seen["children"] = b"".join(path.read_bytes() for path in process.glob("task/*/children"))
        pem = (server.state / "server.key").read_bytes()
        server.end()
        seen["said"] = server.started_line.encode()
        seen["errors"] = server.errors.encode()
        seen |= {
            str(path.name): path.read_bytes() for path in (server.audit, *server.state.iterdir()) if path.name != "server.key"
        }
        signing = load_pem_private_key(pem, None).private_bytes_raw()  # type: ignore[union-attr]
        owner = server.owner_key.read_bytes().strip()
        secrets = [data_key, canary[:32], signing, *owner.split(b'"')[3::4]]
        yield server, secrets, seen


def _refused(testbed: ServedTestbed, case: Case) -> None:
    try:
        case.play(testbed)
    except GlasshouseError:
        return


@pytest.mark.parametrize(
    "where", ["command line", "environment", "children", "said", "errors", "audit.jsonl", "ledger.sqlite3", "server.pub"]
)
def test_no_secret_is_there(session: tuple[Serving, list[bytes], dict[str, bytes]], where: str) -> None:
    _, secrets, seen = session
    for number, secret in enumerate(secrets):
        for part in (secret, *halves(secret)):
            found = [spelling for spelling in spellings(part) if spelling in seen[where]]
            assert not found, f"secret {number} is in {where}"


def test_the_search_finds_what_is_there(session: tuple[Serving, list[bytes], dict[str, bytes]]) -> None:
    """The positive control: the same search in a file that does hold the key."""
    server, secrets, _ = session
    pem = base64.b64decode(b"".join((server.state / "server.key").read_bytes().splitlines()[1:-1]))
    assert any(spelling in pem for spelling in spellings(secrets[2]))
    assert any(spelling in b"key: " + base64.b64encode(b"x" + secrets[0]) for spelling in spellings(secrets[0]))


def test_the_log_holds_no_token_and_no_nonce(session: tuple[Serving, list[bytes], dict[str, bytes]]) -> None:
    """A log is read by more people than a ledger."""
    _, _, seen = session
    log = seen["audit.jsonl"]
    assert log.count(b"\n") > 30
    thumbprints = {token for token in Tapped.tokens if len(token) == 43}
    for token in Tapped.tokens - thumbprints:
        assert token not in log
    assert b"run-1/row-1" not in log
    assert re.search(rb"eyJ[\w-]+\.", log) is None  # the header of any token, and its dot; a thumbprint may hold the letters
