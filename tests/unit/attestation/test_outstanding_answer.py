"""The owner asks which keys are out; the answer is the asked server's own, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.attestation.ledger import Release, ReleaseLedger
from pytest_glasshouse.attestation.outstanding_answer import answer_query
from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.owner.outstanding import LISTED, OUTSTANDING_SHAPE, Outstanding, read_answer
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.tamper.testbed import SUB, TamperTestbed
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import Json, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_OUTSTANDING

NOW = 1_800_000_000


@pytest.fixture(name="testbed")
def a_testbed() -> Iterator[TamperTestbed]:
    with TamperTestbed() as testbed:
        yield testbed


def asked(testbed: TamperTestbed, run: str = "") -> Outstanding:
    server = testbed.embedded.public_key
    return testbed.client.outstanding(testbed.owner.sign_query(server=server, run=run, now=testbed.now), server=server)


def test_a_release_is_listed_until_it_is_completed_also_after_a_restart(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    attempt.release()
    (listed,) = asked(testbed).releases
    assert (listed["nonce"], listed["sub"], listed["run"]) == (attempt.nonce, SUB, "run-1")
    testbed.restart()
    assert asked(testbed, "run-1").releases == (listed,)
    assert asked(testbed, "run-2").releases == ()
    attempt.run_journal()
    attempt.complete()
    assert (asked(testbed).releases, asked(testbed).total) == ((), 0)


def test_it_is_overdue_from_its_deadline_on(testbed: TamperTestbed) -> None:
    testbed.attempt().release()
    testbed.now += testbed.policy.completion_s - 1
    assert (len(asked(testbed).releases), asked(testbed).overdue()) == (1, ())
    testbed.now += 1
    assert asked(testbed).overdue() == asked(testbed).releases


def ledger_of(number: int) -> ReleaseLedger:
    ledger = ReleaseLedger()
    for place in range(number):
        ledger.record_release(
            Release(
                nonce=f"{place:064x}", sub="s", run="r", manifest="m", policy="p", plan="p", ak="a", sig="s", attempt=1,
                result_sha256="r", released_at=NOW, deadline=NOW + 1,
            )
        )  # fmt: skip
    return ledger


def test_releases_beyond_the_limit_of_one_answer_are_counted() -> None:
    """An answer of any size would take for ever to read; a list that is cut has the total."""
    owner, signing = Owner.generate(), Ed25519PrivateKey.generate()
    server = signing.public_key()
    query = owner.sign_query(server=server, run="", now=NOW)
    ledger = ledger_of(LISTED + 1)
    answer = answer_query({"query": query}, owner=owner.public, signing=signing, ledger=ledger, now=NOW)
    listed = read_answer(answer, server=server, query=query)
    assert (listed.total, len(listed.releases), listed.releases[0]["nonce"]) == (LISTED + 1, LISTED, "0" * 64)


SIGNING = Ed25519PrivateKey.generate()
RIGHT: dict[str, Json] = {
    "iss": tokens.thumbprint(SIGNING.public_key()), "iat": NOW, "query_sha256": sha256_hex(b"query"), "total": 1,
    "releases": [{"nonce": "n", "sub": "s", "run": "r", "manifest": "m", "released_at": 1, "deadline": 2}],
}  # fmt: skip


def read(key: Ed25519PrivateKey = SIGNING, typ: str = TYP_OUTSTANDING, **changes: Json) -> Outstanding:
    answer = tokens.sign({**RIGHT, **changes}, key=key, typ=typ)
    return read_answer({"outstanding": answer}, server=SIGNING.public_key(), query="query")


def test_the_right_answer_is_read() -> None:
    assert RIGHT.keys() == OUTSTANDING_SHAPE.keys()
    assert read().total == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"},
        {"query_sha256": sha256_hex(b"another")},
        {"total": 0},
        {"total": 2},
        {"releases": []},
        {"releases": [7]},
        {"releases": [{"nonce": "n"}]},
        {"total": "1"},
        {"more": 1},
    ],
    ids=str,
)
def test_an_answer_with_other_claims_is_refused(changes: dict[str, Any]) -> None:
    """An empty list lets a run pass, so it must be signed by the server, complete, and for this query."""
    with pytest.raises(IntegrityError):
        read(**changes)


def test_another_servers_answer_or_another_token_is_refused() -> None:
    with pytest.raises(IntegrityError):
        read(key=Ed25519PrivateKey.generate())
    with pytest.raises(IntegrityError):
        read(typ="glasshouse-receipt+jwt")
    with pytest.raises(IntegrityError):
        read_answer({}, server=SIGNING.public_key(), query="query")
