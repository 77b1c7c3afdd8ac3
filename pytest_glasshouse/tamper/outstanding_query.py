"""Asking which keys are out: nobody but the owner, nobody but the server that was asked, and not with yesterday's words."""

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


def _ask(stage: TamperTestbed, query: str) -> None:
    stage.attempt().release()  # there is something to tell
    stage.count_from_here()
    stage.client.outstanding(query, server=stage.embedded.public_key)


def _asked_at(shift_s: int) -> Callable[[TamperTestbed], None]:
    """A question of the owner whose clock, or whose patience, is another."""
    return lambda stage: _ask(stage, stage.owner.query(server=stage.embedded.public_key, run="", now=stage.now + shift_s))


def _by_a_stranger(stage: TamperTestbed) -> None:
    _ask(stage, Owner.generate().query(server=stage.embedded.public_key, run="", now=stage.now))


def _for_another_server(stage: TamperTestbed) -> None:
    _ask(stage, stage.owner.query(server=Ed25519PrivateKey.generate().public_key(), run="", now=stage.now))


def _with_a_grant(stage: TamperTestbed) -> None:
    """The owner signed it, for this server, and it is lying about on every guest; it is no question."""
    _ask(stage, stage.grant(SUB))


def _without_an_end(stage: TamperTestbed) -> None:
    """A question that says nothing of how long it is good for."""
    claims = query_claims(owner=stage.owner.public, server=stage.embedded.public_key, run="", now=stage.now)
    del claims["exp"]
    _ask(stage, sign(claims, key=stage.owner_signing, typ=TYP_QUERY))


CASES = (
    _case("without-an-end", "query", _without_an_end),
    _case("by-a-stranger", "jws-header", _by_a_stranger),
    _case("for-another-server", "query", _for_another_server),
    _case("with-a-grant", "jws-header", _with_a_grant),
    _case("replayed-after-its-time", "query", _asked_at(-QUERY_LIFETIME_S)),
    _case("that-lasts-too-long", "query", _asked_at(1)),
)
