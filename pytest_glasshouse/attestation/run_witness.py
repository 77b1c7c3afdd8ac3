"""What the server witnesses of a run: its plan before any key, every round that is begun, and times at the borders of stretches.

Knows requests that the owner signed and the ledger, which has what was answered before it is answered. Refuses a second plan of a
run, a key for a round that was not begun, and to forget a round: the tally lists all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.attestation.ledger import BegunRound, Mark
from pytest_glasshouse.attestation.messages import require, require_shape, text_field
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.wire.canonical import Json, canonical, is_sha256, parse_strict, sha256_hex
from pytest_glasshouse.wire.evidence import MOST_RANKS, TYP_MARK, TYP_MARK_REQUEST, TYP_RUN_PLAN, TYP_TALLY, TYP_TALLY_QUERY
from pytest_glasshouse.wire.marks import chained, is_nonce
from pytest_glasshouse.wire.run_plan import (
    MARK_REQUEST_SHAPE,
    MOST_NAME,
    MOST_ROWS,
    RUN_PLAN_SHAPE,
    TALLY_QUERY_SHAPE,
    counted_sha256,
    planned_ranks,
    run_plan_sha256,
)
from pytest_glasshouse.wire.tokens import sign, thumbprint, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from pytest_glasshouse.attestation.ledger import ReleaseLedger
    from pytest_glasshouse.attestation.messages import Message

#: The largest request that carries a plan, and the largest plan in the ledger, in bytes.
PLAN_LIMIT = 1 << 20
_MOST_NUMBER = 1 << 31


class RunWitness:
    """Plans, rounds, marks and tallies at one server. The caller serialises calls.

    `clock` returns wall seconds, `clock_us` wall microseconds of a clock that is not set back while the server runs.
    """

    def __init__(
        self,
        *,
        owner: Ed25519PublicKey,
        signing: Ed25519PrivateKey,
        ledger: ReleaseLedger,
        clock: Callable[[], int],
        clock_us: Callable[[], int],
    ) -> None:
        self._owner = owner
        self._signing = signing
        self._ledger = ledger
        self._clock = clock
        self._clock_us = clock_us
        self._kid = thumbprint(signing.public_key())

    def plan(self, message: Message) -> dict[str, Json]:
        """`{plan, rows}` -> `{run_plan}`: what a run is going to do, once and before its first key."""
        # 1. Signed by the owner, for this server and these rows.
        claims = self._request(message, "plan", TYP_RUN_PLAN, RUN_PLAN_SHAPE)
        rows = message.get("rows")
        require(isinstance(rows, list) and 0 < len(rows) <= MOST_ROWS and all(map(_is_row, rows)), "malformed", "rows")
        assert isinstance(rows, list)  # noqa: S101  (required above)
        require(claims["rows_sha256"] == sha256_hex(canonical(rows)), "run-plan", "other rows than were signed for")
        # 2. A run has one plan: resumed, it has the same rows.
        run = str(claims["run"])
        sha256, known = run_plan_sha256(run, rows), self._ledger.run_plan(run)
        require(known is None or known[0] == sha256, "run-plan", "another plan of this run is registered")
        if known is None:
            self._ledger.record_run_plan(run, sha256=sha256, rows=canonical(rows).decode())
        return {"run_plan": sha256}

    def mark(self, message: Message) -> dict[str, Json]:
        """`{mark}` -> `{mark}`: the server's time, signed for a nonce. The first mark of a round begins it.

        A nonce that has a mark gets it again: the answer to it may have been lost.
        """
        # 1. Signed by the owner, for this server.
        claims = self._request(message, "mark", TYP_MARK_REQUEST, MARK_REQUEST_SHAPE)
        run, row, nonce = str(claims["run"]), str(claims["row"]), str(claims["nonce"])
        asked = BegunRound(nonce=str(claims["round"]), run=run, row=row, attempt=str(claims["attempt"]), plan=str(claims["plan"]))
        require(is_nonce(nonce) and is_sha256(asked.nonce) and is_sha256(asked.plan), "malformed", "mark")
        require(0 < len(asked.attempt) <= MOST_NAME, "malformed", "attempt")
        # 2. A round is of a row that was planned, belongs to the attempt that began it, and begins with its first mark.
        begun, mark = self._ledger.round(asked.nonce), self._ledger.mark(nonce)
        require(mark is None or mark.round == asked.nonce, "round", "another round's nonce")
        if begun is None:
            require(row in self._planned(run), "run-plan", "the row is not of this run's plan")
            self._ledger.record_round(asked)
        else:
            same = (begun.run, begun.row, begun.attempt, begun.plan) == (run, row, asked.attempt, asked.plan)
            require(same, "round", "another attempt's")
        # 3. The time, recorded before it is sent.
        mark = mark or self._marked(asked.nonce, nonce)
        signed: dict[str, Json] = {
            "iss": self._kid, "round": mark.round, "nonce": mark.nonce, "number": mark.number, "t_us": mark.t_us,
            "chain": mark.chain,
        }  # fmt: skip
        return {"mark": sign(signed, key=self._signing, typ=TYP_MARK)}

    def _marked(self, of_round: str, nonce: str) -> Mark:
        last = self._ledger.last_mark(of_round)
        # After a restart the clock may have been set back; times of a round grow.
        t_us = self._clock_us() if last is None else max(self._clock_us(), last.t_us + 1)
        chain = chained(of_round if last is None else last.chain, nonce, t_us)
        mark = Mark(nonce=nonce, round=of_round, number=1 if last is None else last.number + 1, t_us=t_us, chain=chain)
        self._ledger.record_mark(mark)
        return mark

    def admit(self, *, run: str, plan: str, sub: str) -> tuple[str, int]:
        """The digest of the run's plan, and how many ranks the session's leg was planned with on its node.

        The session asks for a challenge: a round of that plan must have been begun, which has one session for every node.
        """
        planned = self._ledger.run_plan(run)
        if planned is None:
            raise RefusedError("run-plan", "no plan of this run is registered")
        gpus, nodes = planned_ranks(self._planned(run).get(self._ledger.row_of(run=run, plan=plan), []))
        require(self._ledger.claim_round(run=run, plan=plan, sub=sub, most=nodes), "round", "not begun, or another session's")
        return planned[0], gpus // nodes

    def tally(self, message: Message) -> dict[str, Json]:
        """`{query}` -> `{tally, counted}`: everything counted of a run, signed."""
        claims = self._request(message, "query", TYP_TALLY_QUERY, TALLY_QUERY_SHAPE)
        run = str(claims["run"])
        planned = self._ledger.run_plan(run)
        if planned is None:
            raise RefusedError("run-plan", "no plan of this run is registered")
        counted: dict[str, Json] = {
            "rows": parse_strict(planned[1], limit=PLAN_LIMIT),
            "begun": [self._counted(each) for each in self._ledger.rounds(run)],
        }
        signed: dict[str, Json] = {
            "iss": self._kid, "iat": self._clock(), "run": run, "query_sha256": sha256_hex(text_field(message, "query").encode()),
            "run_plan": planned[0], "counted_sha256": counted_sha256(counted),
        }  # fmt: skip
        return {"tally": sign(signed, key=self._signing, typ=TYP_TALLY), "counted": counted}

    def _counted(self, begun: BegunRound) -> dict[str, Json]:
        last = self._ledger.last_mark(begun.nonce)
        return {
            "row": begun.row, "attempt": begun.attempt, "plan": begun.plan, "round": begun.nonce, "keyed": begun.sub != "",
            "marks": 0 if last is None else last.number, "chain": begun.nonce if last is None else last.chain,
        }  # fmt: skip

    def _planned(self, run: str) -> dict[str, list[Json]]:
        planned = self._ledger.run_plan(run)
        if planned is None:
            raise RefusedError("run-plan", "no plan of this run is registered")
        rows = parse_strict(planned[1], limit=PLAN_LIMIT)
        return {str(row[0]): row for row in rows if isinstance(row, list)} if isinstance(rows, list) else {}

    def _request(self, message: Message, name: str, typ: str, shape: Mapping[str, type]) -> dict[str, Json]:
        """The claims of a request that the owner signed for this server."""
        claims = verify(text_field(message, name), key=self._owner, typ=typ)
        require_shape(claims, shape, "malformed")
        require(claims["iss"] == thumbprint(self._owner) and claims["aud"] == self._kid, "request", "iss or aud")
        require(0 < len(str(claims["run"])) <= MOST_NAME, "malformed", "run")
        return claims


def _is_row(row: Json) -> bool:
    """Whether this is a row of a plan: its id, how many rounds it was to have, and how many ranks on how many nodes."""
    if not isinstance(row, list) or len(row) not in (2, 4):
        return False
    name, *numbers = row
    whole = all(type(number) is int and 0 < number <= _MOST_NUMBER for number in numbers)
    if not (isinstance(name, str) and 0 < len(name) <= MOST_NAME and whole):
        return False
    gpus, nodes = planned_ranks(row)
    return gpus <= MOST_RANKS and gpus % nodes == 0
