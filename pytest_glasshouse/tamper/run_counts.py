"""Runs that would hide something from the server's count: other plans, rounds that were not begun, marks that are not theirs."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import ROW, TamperTestbed
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import Json, canonical, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable

_UNPLANNED = "run-without-a-plan"


def _case(name: str, reason: str, caught_by: str, play: Callable[[TamperTestbed], object]) -> Case:
    def played(testbed: TamperTestbed) -> None:
        play(testbed)

    return Case(name=f"count-{name}", play=played, expected_reason=reason, caught_by=caught_by)


def _enrolled(testbed: TamperTestbed, sub: str, run: str = "run-1") -> None:
    """A session that no round was begun for."""
    grant = testbed.grant(sub, run=run)
    proof = ev.prove_enrolment(grant, key=testbed.ak)
    testbed.client.enrol(grant=grant, ak=tokens.public_text(testbed.ak.public_key()), proof=proof)


def _key_without_a_plan(testbed: TamperTestbed) -> None:
    _enrolled(testbed, "unplanned", _UNPLANNED)
    testbed.attempt("unplanned").release()


def _key_without_a_round(testbed: TamperTestbed) -> None:
    """Every round that was begun has its session."""
    testbed.attempt().release()
    testbed.reset_release_count()
    _enrolled(testbed, "uncounted")
    testbed.attempt("uncounted").release()


def _plan(rows: Json, *, signed: Json = None) -> Callable[[TamperTestbed], None]:
    """A plan of a new run. `signed` are the rows that the owner signed for, where they are others."""

    def play(testbed: TamperTestbed) -> None:
        claims: dict[str, Json] = {"rows_sha256": sha256_hex(canonical(rows if signed is None else signed))}
        plan = testbed.request(claims, typ=ev.TYP_RUN_PLAN, run="run-9")
        testbed.client.ask("/v1/plan", {"plan": plan, "rows": rows})

    return play


def _second_plan(testbed: TamperTestbed) -> None:
    """Without the row whose figure is not liked."""
    testbed.plan_run("run-9", [[ROW, 3], ["row-2", 3]])
    testbed.plan_run("run-9", [[ROW, 3]])


def _mark(nonce: str | None = None, *, run: str = "run-1", **changed: Json) -> Callable[[TamperTestbed], None]:
    """A mark that begins a round."""

    def play(testbed: TamperTestbed) -> None:
        drawn = secrets.token_hex(16) if nonce is None else nonce
        testbed.client.mark(testbed.mark_request(nonce=drawn, round_nonce=secrets.token_hex(32), run=run, **changed))

    return play


def _mark_of_another_attempt(testbed: TamperTestbed) -> None:
    """A round goes over to the next attempt."""
    begun = testbed.begin_round()
    testbed.client.mark(testbed.mark_request(nonce=secrets.token_hex(16), round_nonce=begun, attempt="attempt-2"))


def _mark_of_another_round(testbed: TamperTestbed) -> None:
    """A mark that was signed before serves in a later round, which was begun."""
    first, second, nonce = testbed.begin_round(), testbed.begin_round(), secrets.token_hex(16)
    testbed.client.mark(testbed.mark_request(nonce=nonce, round_nonce=first))
    testbed.client.mark(testbed.mark_request(nonce=nonce, round_nonce=second))


def _round_begun_by_an_old_mark(testbed: TamperTestbed) -> None:
    nonce = secrets.token_hex(16)
    testbed.client.mark(testbed.mark_request(nonce=nonce, round_nonce=testbed.begin_round()))
    testbed.client.mark(testbed.mark_request(nonce=nonce, round_nonce=secrets.token_hex(32)))


def _by_a_stranger(testbed: TamperTestbed) -> None:
    claims: dict[str, Json] = {"rows_sha256": sha256_hex(canonical([[ROW, 1]]))}
    plan = testbed.request(claims, typ=ev.TYP_RUN_PLAN, run="run-9", owner=Owner.generate())
    testbed.client.plan(plan, [[ROW, 1]])


def _for_another_server(testbed: TamperTestbed) -> None:
    other = Ed25519PrivateKey.generate().public_key()
    query = testbed.owner.sign_request({}, typ=ev.TYP_TALLY_QUERY, server=other, run="run-1")
    testbed.client.tally(query, server=testbed.embedded.public_key)


def _tally_of(run: str, **more: Json) -> Callable[[TamperTestbed], None]:
    def play(testbed: TamperTestbed) -> None:
        query = testbed.request(dict(more), typ=ev.TYP_TALLY_QUERY, run=run)
        testbed.client.tally(query, server=testbed.embedded.public_key)

    return play


CASES = (
    _case("key-without-a-plan", "run-plan", "admit", _key_without_a_plan),
    _case("key-without-a-round", "round", "admit", _key_without_a_round),
    _case("plan-of-nothing", "malformed", "plan 1", _plan([])),
    _case("plan-of-no-rows", "malformed", "plan 1", _plan([[ROW, 0]])),
    _case("plan-of-ranks-on-no-number-of-nodes", "malformed", "plan 1", _plan([[ROW, 1, 2]])),
    _case("plan-of-ranks-that-do-not-spread", "malformed", "plan 1", _plan([[ROW, 1, 4, 3]])),
    _case("plan-of-other-rows", "run-plan", "plan 1", _plan([[ROW, 1]], signed=[[ROW, 1], ["row-2", 1]])),
    _case("plan-by-a-stranger", "jws-header", "plan 1", _by_a_stranger),
    _case("plan-changed-later", "run-plan", "plan 2", _second_plan),
    _case("mark-without-a-nonce", "malformed", "mark 1", _mark("")),
    _case("mark-without-an-attempt", "malformed", "mark 1", _mark(attempt="")),
    _case("mark-of-a-row-that-was-not-planned", "run-plan", "mark 2", _mark(row="row-2")),
    _case("mark-of-a-run-that-was-not-planned", "run-plan", "mark 2", _mark(run=_UNPLANNED)),
    _case("mark-of-another-attempt", "round", "mark 2", _mark_of_another_attempt),
    _case("mark-of-another-round", "round", "mark 2", _mark_of_another_round),
    _case("round-begun-by-an-old-mark", "round", "mark 2", _round_begun_by_an_old_mark),
    _case("tally-for-another-server", "request", "tally", _for_another_server),
    _case("tally-of-no-run", "malformed", "tally", _tally_of("")),
    _case("tally-of-a-run-that-was-not-planned", "run-plan", "tally", _tally_of(_UNPLANNED)),
    _case("tally-with-another-claim", "malformed", "tally", _tally_of("run-1", more=1)),
)
