"""Queries for outstanding releases that are not the owner's, are for another server, or are not current."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.owner.outstanding import QUERY_LIFETIME_S, query_claims
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import SUB, TamperTestbed
from pytest_glasshouse.wire.evidence import TYP_QUERY
from pytest_glasshouse.wire.tokens import sign


def _case(name: str, reason: str, play: Callable[[TamperTestbed], None]) -> Case:
    return Case(name=f"query-{name}", play=play, expected_reason=reason, caught_by="outstanding 1")


def _ask(testbed: TamperTestbed, query: str) -> None:
    testbed.attempt().release()  # so that one release is outstanding
    testbed.reset_release_count()
    testbed.client.outstanding(query, server=testbed.embedded.public_key)


def _asked_at(shift_s: int) -> Callable[[TamperTestbed], None]:
    """The owner's query, made at another time."""
    return lambda testbed: _ask(
        testbed, testbed.owner.sign_query(server=testbed.embedded.public_key, run="", now=testbed.now + shift_s)
    )


def _by_a_stranger(testbed: TamperTestbed) -> None:
    _ask(testbed, Owner.generate().sign_query(server=testbed.embedded.public_key, run="", now=testbed.now))


def _for_another_server(testbed: TamperTestbed) -> None:
    _ask(testbed, testbed.owner.sign_query(server=Ed25519PrivateKey.generate().public_key(), run="", now=testbed.now))


def _with_a_grant(testbed: TamperTestbed) -> None:
    """A grant is signed by the owner for this server, but is no query."""
    _ask(testbed, testbed.grant(SUB))


def _without_an_end(testbed: TamperTestbed) -> None:
    """A query without an expiry."""
    claims = query_claims(owner=testbed.owner.public, server=testbed.embedded.public_key, run="", now=testbed.now)
    del claims["exp"]
    _ask(testbed, sign(claims, key=testbed.owner_signing, typ=TYP_QUERY))


CASES = (
    _case("without-an-end", "query", _without_an_end),
    _case("by-a-stranger", "jws-header", _by_a_stranger),
    _case("for-another-server", "query", _for_another_server),
    _case("with-a-grant", "jws-header", _with_a_grant),
    _case("replayed-after-its-time", "query", _asked_at(-QUERY_LIFETIME_S)),
    _case("that-lasts-too-long", "query", _asked_at(1)),
)
