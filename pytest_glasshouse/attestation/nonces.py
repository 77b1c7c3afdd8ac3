"""Open nonces: issued for a session, found by evidence, spent once.

Knows how many may be open and for how long. Refuses to look at anything in the evidence but whose nonce it names.
A forgotten nonce is refused like an unknown one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_glasshouse.attestation.admission import AdmittedSession
from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.wire.canonical import Json

CHALLENGE_TTL_S = 60


@dataclass(kw_only=True)
class IssuedNonce:
    """An issued nonce: open, then spent. What was released under it is in the ledger."""

    nonce: str
    session: AdmittedSession
    plan: str
    run_plan: str
    ranks: int
    issued_at: int
    attempt: int
    spent: bool = False

    def spend(self) -> None:
        """No later evidence is accepted under this nonce."""
        self.spent = True


class Nonces:
    """All nonces that have not expired."""

    def __init__(self, *, caps: Caps, random_bytes: Callable[[int], bytes]) -> None:
        self._caps = caps
        self._random_bytes = random_bytes
        self._issued: dict[str, IssuedNonce] = {}

    def issue(
        self, session: AdmittedSession, *, plan: str, run_plan: str, ranks: int, now: int, attempt: Callable[[], int]
    ) -> IssuedNonce:
        """A new nonce for a session, whose leg was planned with `ranks` on its node. Raises `RefusedError` at a limit.

        `attempt` counts it once it is certain to be issued.
        """
        self._forget_expired(now)
        still_open = sum(challenge.session is session and not challenge.spent for challenge in self._issued.values())
        require(still_open < self._caps.open_challenges, "busy", "open challenges of this session")
        of_this_run = sum(challenge.session.run == session.run for challenge in self._issued.values())
        require(of_this_run < self._caps.challenges_of_a_run, "busy", "challenges of this run")
        require(len(self._issued) < self._caps.challenges, "busy", "all sessions together")
        nonce = self._random_bytes(32).hex()
        require(nonce not in self._issued, "internal", "randomness")
        challenge = IssuedNonce(
            nonce=nonce, session=session, plan=plan, run_plan=run_plan, ranks=ranks, issued_at=now, attempt=attempt()
        )
        self._issued[nonce] = challenge
        return challenge

    def find(self, nonce: Json, *, kid: str, named: AdmittedSession | None, now: int) -> IssuedNonce:
        """The open challenge of `nonce`, for evidence that key `kid` signed about the session `named`.

        Raises `RefusedError`. A nonce of another key or session is refused and stays unspent: one key may be enrolled for
        several sessions, and evidence about one of them must not spend another's nonce.
        """
        challenge = self._issued.get(nonce) if isinstance(nonce, str) else None
        if challenge is None:
            raise RefusedError("nonce", "unknown")
        require(not challenge.spent, "nonce", "spent")
        require(now < challenge.issued_at + CHALLENGE_TTL_S, "nonce", "expired")
        require(challenge.session.kid == kid, "nonce", "another key's")
        require(named is None or named is challenge.session, "nonce", "another session's")
        return challenge

    def clear(self) -> None:
        """Forget every nonce."""
        self._issued.clear()

    def _forget_expired(self, now: int) -> None:
        for nonce, challenge in list(self._issued.items()):
            if now >= challenge.issued_at + CHALLENGE_TTL_S:
                del self._issued[nonce]
