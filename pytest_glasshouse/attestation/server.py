"""The attestation server: verifier and key broker in one object (RFC 9334: Verifier and Relying Party).

Knows data keys, in memory only, and gives one out when every step of one transaction has held. Refuses to accept a token
as permission: a result is output only. Any doubt is a refusal with a stable reason, any surprise is the refusal
`internal`, and neither releases anything. A restart forgets open nonces and data keys; what was released before it can
still be completed, by the ledger.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pytest_glasshouse.attestation import outstanding
from pytest_glasshouse.attestation.admission import Admission, AdmittedSession
from pytest_glasshouse.attestation.audit import Audit, AuditLine, Decision, name_digest, no_audit
from pytest_glasshouse.attestation.hardware import appraise_hardware, worst
from pytest_glasshouse.attestation.ledger import Completion, Release, ReleaseLedger
from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.attestation.messages import Message, lines, need, shaped, text
from pytest_glasshouse.attestation.verifier import Expected, appraise
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.server_keys import TYP_KEYS
from pytest_glasshouse.wire.canonical import Json, b64u, is_sha256, sha256_hex
from pytest_glasshouse.wire.elapsed import since_boot_ns
from pytest_glasshouse.wire.evidence import (
    EAR_PROFILE,
    EXIT_SHAPE,
    HEAD_SHAPE,
    SUITE,
    TYP_EVIDENCE,
    TYP_EXIT,
    TYP_HEAD,
    TYP_RECEIPT,
    TYP_RESULT,
    VERIFIER_ID,
    Cnf,
    release_info,
)
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import peek_kid, public_key, public_text, sign, thumbprint, verify

CHALLENGE_TTL_S = 60
RESULT_LIFETIME_S = 300
#: For how long it is remembered to the millisecond when a key left; afterwards, and after a restart, to the second.
_REMEMBERED_NS = 7 * 24 * 3600 * 1_000_000_000


@dataclass(kw_only=True)
class _AttestationSession:
    """One nonce: open, then spent. What was released under it is in the ledger."""

    nonce: str
    run: AdmittedSession
    plan: str
    issued_at: int
    attempt: int
    spent: bool = False


class AttestationServer:
    """Register, enrol, challenge, release, complete, tell what is not completed.

    Each takes and returns a JSON object and raises `RefusedError`.

    `owner` is the one key registrations and grants are believed from. `clock` gives wall seconds. A ledger or an audit that
    is given is the caller's to close.
    """

    def __init__(
        self,
        *,
        owner: Ed25519PublicKey,
        ledger: ReleaseLedger | None = None,
        clock: Callable[[], int] = lambda: int(time.time()),
        random_bytes: Callable[[int], bytes] = os.urandom,
        signing: Ed25519PrivateKey | None = None,
        audit: Audit = no_audit,
        caps: Caps = Caps(),  # noqa: B008  (frozen)
    ) -> None:
        self._ledger = ReleaseLedger() if ledger is None else ledger
        self._own_ledger = ledger is None
        self._audit = audit
        self._owner = owner
        self._clock = clock
        self._caps = caps
        self._random_bytes = random_bytes
        self._signing = Ed25519PrivateKey.generate() if signing is None else signing
        self._sessions: dict[str, _AttestationSession] = {}
        self._one_at_a_time = threading.Lock()
        self._about: dict[str, str] = {}
        self._overdue: set[str] = set()
        self._left_ns: dict[str, int] = {}
        self.public_key = self._signing.public_key()
        self.kid = thumbprint(self.public_key)
        self._admission = Admission(owner=owner, server=self.kid, ledger=self._ledger, clock=clock, caps=caps)
        self.hpke_public = self._admission.hpke_public

    # ------------------------------------------------------------------------------------------------ what is asked

    def register(self, message: Message) -> dict[str, Json]:
        """`{registration}` -> `{manifest, policy}`: the owner hands over a package's manifest, policy and data key."""
        return self._transaction("register", self._admission.register, message)

    def enrol(self, message: Message) -> dict[str, Json]:
        """`{grant, ak, proof}` -> `{kid, sub}`: a guest's key is enrolled for one session under the owner's grant."""
        return self._transaction("enrol", self._enrol, message)

    def challenge(self, message: Message) -> dict[str, Json]:
        """`{sub, plan}` -> `{nonce, issued_at, expires_in, policy}`."""
        return self._transaction("challenge", self._challenge, message)

    def release(self, message: Message) -> dict[str, Json]:
        """`{evidence, log}` -> `{result, sealed}`: the data key, sealed to the key the evidence vouches for."""
        return self._transaction("release", self._release, message, decision="released")

    def complete(self, message: Message) -> dict[str, Json]:
        """`{head, exit, nonce}` -> `{receipt}`: the journal's head, countersigned once."""
        return self._transaction("complete", self._complete, message, decision="completed")

    def tell_outstanding(self, message: Message) -> dict[str, Json]:
        """`{query}` -> `{outstanding}`: the owner asks which keys are out and not accounted for; the answer is signed."""
        return self._transaction("outstanding", self._tell_outstanding, message)

    def keys(self) -> dict[str, Json]:
        """`{server, keys}`: this server's name, and a token by it with the key data keys are sealed to. Secret to nobody."""
        with self._one_at_a_time:
            token = sign(self._admission.published(self.public_key), key=self._signing, typ=TYP_KEYS)
        return {"server": public_text(self.public_key), "keys": token}

    def outstanding(self) -> list[dict[str, Json]]:
        """Releases that nobody has completed, each with its deadline. They survive a restart."""
        with self._one_at_a_time:
            return self._ledger.outstanding()

    def tell_overdue(self) -> None:
        """Write one line for each release whose deadline has passed without a completion."""
        with self._one_at_a_time:
            now = self._clock()
            for release in self._ledger.outstanding():
                nonce = str(release["nonce"])
                if nonce not in self._overdue and int(str(release["deadline"])) <= now:
                    sub = name_digest("sub", str(release["sub"]))
                    self._audit(AuditLine(event="complete", decision="overdue", sub=sub, nonce=name_digest("nonce", nonce)))
                    self._overdue.add(nonce)

    def releases(self) -> int:
        """How many times a data key has left, by the ledger."""
        with self._one_at_a_time:
            return self._ledger.releases()

    def close(self) -> None:
        """Forget every key and session."""
        with self._one_at_a_time:
            self._admission.forget()
            self._sessions.clear()
            self._left_ns.clear()
            if self._own_ledger:
                self._ledger.close()

    def _transaction(
        self, event: str, step: Callable[[Message], dict[str, Json]], message: Message, *, decision: Decision = "accepted"
    ) -> dict[str, Json]:
        reason, detail = "internal", ""
        with self._one_at_a_time:
            self._about = {}
            try:
                answer = step(message)
                # Before the answer leaves: a decision that cannot be written down is refused.
                self._audit(AuditLine(event=event, decision=decision, **self._about))
            except (RefusedError, IntegrityError) as refusal:
                reason, detail = refusal.reason, refusal.detail
            except Exception:  # noqa: BLE001, S110  (whatever went wrong, the answer is no, and says nothing about keys)
                pass
            else:
                return answer
            with contextlib.suppress(Exception):
                self._audit(AuditLine(event=event, decision="refused", reason=reason, **self._about))
        # Raised here, outside the handlers, so that no frame which held a key travels with the error.
        raise RefusedError(reason, detail)

    def _is_about(self, *, kid: str, sub: str = "", nonce: str = "") -> None:
        self._about = {"kid": kid, "sub": name_digest("sub", sub), "nonce": name_digest("nonce", nonce)}

    def _enrol(self, message: Message) -> dict[str, Json]:
        answer = self._admission.enrol(message)
        self._is_about(kid=str(answer["kid"]), sub=str(answer["sub"]))
        return answer

    # --------------------------------------------------------------------------------------------- 1. the challenge

    def _challenge(self, message: Message) -> dict[str, Json]:
        run = self._admission.runs.get(text(message, "sub"))
        if run is None:
            raise RefusedError("sub", "not enrolled")
        self._is_about(kid=run.kid, sub=run.sub)
        plan = text(message, "plan")
        need(is_sha256(plan), "malformed", "plan")
        now = self._clock()
        need(now < run.expires, "grant", "expired")
        self._forget_expired(now)
        still_open = sum(session.run is run and not session.spent for session in self._sessions.values())
        need(still_open < self._caps.open_challenges, "busy", "open challenges of this session")
        of_this_run = sum(session.run.run == run.run for session in self._sessions.values())
        need(of_this_run < self._caps.challenges_of_a_run, "busy", "challenges of this run")
        need(len(self._sessions) < self._caps.challenges, "busy", "all sessions together")
        nonce = self._random_bytes(32).hex()
        need(nonce not in self._sessions, "internal", "randomness")
        # Rounds of one attempt are of one plan; an attempt of its own, in the same run too, has a plan of its own.
        attempt = self._ledger.attempt(subject=run.subject, row=run.row, run=f"{run.run}/{plan}")
        self._sessions[nonce] = _AttestationSession(nonce=nonce, run=run, plan=plan, issued_at=now, attempt=attempt)
        policy = run.package.policy
        asked: dict[str, Json] = {"hardware": list(policy.hardware.required)} if policy.hardware else {}
        return {"nonce": nonce, "issued_at": now, "expires_in": CHALLENGE_TTL_S, "policy": policy.sha256, **asked}

    def _forget_expired(self, now: int) -> None:
        # A forgotten nonce is refused like one that never was.
        for nonce, session in list(self._sessions.items()):
            if now >= session.issued_at + CHALLENGE_TTL_S:
                del self._sessions[nonce]

    # ----------------------------------------------------------------------------------------------- 2. the release

    def _release(self, message: Message) -> dict[str, Json]:
        evidence, log = text(message, "evidence"), lines(message, "log")
        now = self._clock()
        # 1. Signed by an enrolled key. What fails here proves nothing about who sent it, so it spends nothing.
        aks = {run.kid: run.ak for run in self._admission.runs.values()}
        ak = aks.get(peek_kid(evidence))
        if ak is None:
            raise RefusedError("jws-header", "no such key is enrolled")
        claims = verify(evidence, key=ak, typ=TYP_EVIDENCE)
        # 2. The nonce: open, and this key's and session's own. Somebody else's is refused and stays unspent.
        self._is_about(kid=thumbprint(ak))
        session = self._session_of(claims, thumbprint(ak), now)
        self._is_about(kid=session.run.kid, sub=session.run.sub, nonce=session.nonce)
        # 3. Spent, whatever comes of it.
        session.spent = True
        # 4. Every step of appraisal.
        run = session.run
        policy = run.package.policy
        expected = Expected(
            iss=run.kid,
            sub=run.sub,
            aud=self.kid,
            nonce=session.nonce,
            plan=session.plan,
            policy=policy,
            manifest=run.package.manifest,
            manifest_version=run.package.version,
        )
        cnf = appraise(claims, log, expected=expected, now=now)
        devices = appraise_hardware(claims, nonce=session.nonce, cnf=cnf, policy=policy, now=now)
        # 5. The grant still stands and is not used up, nor is what the policy allows for this package.
        need(now < run.expires, "grant", "expired")
        need(self._ledger.releases_of_session(run.sub) < run.release_limit, "release-limit", "grant")
        need(self._ledger.releases_of_package(run.package.manifest) < policy.release_limit, "release-limit", "policy")
        # 6. Sealed to the leg's key, for this result and this package.
        result = self._result(session, claims, evidence, now, devices)
        sealed = _seal(run.package.data_key, cnf, release_info(result, run.package.manifest))
        # 7. Counted before it leaves, with everything its completion will be checked against.
        self._ledger.record_release(
            Release(
                nonce=session.nonce,
                sub=run.sub,
                run=run.run,
                manifest=run.package.manifest,
                policy=policy.sha256,
                plan=session.plan,
                ak=public_text(run.ak),
                sig=public_text(cnf.sig),
                attempt=session.attempt,
                result_sha256=sha256_hex(result.encode()),
                released_at=now,
                deadline=now + policy.completion_s,
            )
        )
        self._left_ns = {nonce: at for nonce, at in self._left_ns.items() if at > since_boot_ns() - _REMEMBERED_NS}
        self._left_ns[session.nonce] = since_boot_ns()
        return {"result": result, "sealed": sealed}

    def _session_of(self, claims: Message, kid: str, now: int) -> _AttestationSession:
        nonce = claims.get("eat_nonce")
        session = self._sessions.get(nonce) if isinstance(nonce, str) else None
        if session is None:
            raise RefusedError("nonce", "unknown")
        need(not session.spent, "nonce", "spent")
        need(now < session.issued_at + CHALLENGE_TTL_S, "nonce", "expired")
        need(session.run.kid == kid, "nonce", "another key's")
        # The same key may be enrolled for several sessions; evidence about one of them does not spend another's nonce.
        sub = claims.get("sub")
        about = self._admission.runs.get(sub) if isinstance(sub, str) else None
        need(about is None or about is session.run, "nonce", "another session's")
        return session

    def _result(
        self, session: _AttestationSession, claims: Message, evidence: str, now: int, devices: Mapping[str, dict[str, Json]]
    ) -> str:
        submod: dict[str, Json] = {
            "ear_status": "affirming",
            **{name: claims[name] for name in ("manifest", "composite", "container")},
        }
        result: dict[str, Json] = {
            "iss": self.kid,
            "sub": session.run.sub,
            "iat": now,
            "exp": now + RESULT_LIFETIME_S,
            "jti": secrets.token_hex(16),
            "eat_nonce": session.nonce,
            "eat_profile": EAR_PROFILE,
            "ear_verifier_id": VERIFIER_ID,
            "ear_status": worst([submod, *devices.values()]),
            "cnf": claims["cnf"],
            "policy": session.run.package.policy.sha256,
            "plan": session.plan,
            "manifest": claims["manifest"],
            "composite": claims["composite"],
            "container": claims["container"],
            "attempt": session.attempt,
            "evidence_sha256": sha256_hex(evidence.encode()),
            "submods": {**devices, "runtime": submod},
        }
        return sign(result, key=self._signing, typ=TYP_RESULT)

    # -------------------------------------------------------------------------------------------- 3. the completion

    def _complete(self, message: Message) -> dict[str, Json]:
        head, leaving = text(message, "head"), text(message, "exit")
        # 1. A session whose key was released, before a restart or since.
        release = self._ledger.release(text(message, "nonce"))
        if release is None:
            raise RefusedError("session", "nothing was released under this nonce")
        ak = public_key(release.ak)
        self._is_about(kid=thumbprint(ak), sub=release.sub, nonce=release.nonce)
        # 2. The head: signed by the key the evidence vouched for, about this session.
        said = verify(head, key=public_key(release.sig), typ=TYP_HEAD)
        shaped(said, HEAD_SHAPE, "head-claims")
        need(said["nonce"] == release.nonce, "head-claims", "nonce")
        need(is_sha256(said["head"]), "head-claims", "head")
        failed = said["status"] == "failed"
        need(said["status"] == "completed" or failed, "head-claims", "status")
        need(said["adapter"] == "" if failed else is_sha256(said["adapter"]), "head-claims", "adapter")
        # 3. One head per session: a second one is a fork.
        done = self._ledger.completion(release.nonce)
        head_sha256, exit_sha256 = sha256_hex(head.encode()), sha256_hex(leaving.encode())
        need(done is None or done.head_sha256 == head_sha256, "receipt", "another head was countersigned")
        # 4. The exit: signed by the agent, about this head, and the process is gone.
        told = verify(leaving, key=ak, typ=TYP_EXIT)
        shaped(told, EXIT_SHAPE, "exit-claims")
        need(told["nonce"] == release.nonce, "exit-claims", "nonce")
        need(told["head"] == head_sha256, "exit-claims", "head")
        need(told["process_gone"] is True, "exit-claims", "process_gone")
        need(done is None or done.exit_sha256 == exit_sha256, "receipt", "another exit was countersigned")
        # 5. Countersigned, remembered, and the same again for the same question.
        if done is None:
            receipt = self._receipt(release, head_sha256, exit_sha256)
            done = Completion(nonce=release.nonce, head_sha256=head_sha256, exit_sha256=exit_sha256, receipt=receipt)
            self._ledger.record_completion(done)
        return {"receipt": done.receipt}

    # -------------------------------------------------------------------------------------- 4. what is not completed

    def _tell_outstanding(self, message: Message) -> dict[str, Json]:
        return outstanding.answer(message, owner=self._owner, signing=self._signing, ledger=self._ledger, now=self._clock())

    def _receipt(self, release: Release, head_sha256: str, exit_sha256: str) -> str:
        claims: dict[str, Json] = {
            "iss": self.kid,
            "sub": release.sub,
            "iat": self._clock(),
            "jti": secrets.token_hex(16),
            "nonce": release.nonce,
            "head_sha256": head_sha256,
            "exit_sha256": exit_sha256,
            "result_sha256": release.result_sha256,
            "manifest": release.manifest,
            "policy": release.policy,
            "plan": release.plan,
            "attempt": release.attempt,
            "held_ms": self._held_ms(release),
        }
        return sign(claims, key=self._signing, typ=TYP_RECEIPT)

    def _held_ms(self, release: Release) -> int:
        """How long the key was out, rounded up. After a restart only whole seconds are known, by the ledger."""
        left_ns = self._left_ns.pop(release.nonce, None)
        if left_ns is None:
            return max(0, self._clock() - release.released_at + 1) * 1000
        return (since_boot_ns() - left_ns) // 1_000_000 + 1

    def __repr__(self) -> str:
        return f"<attestation server {self.kid}>"


def _seal(data_key: Secret, cnf: Cnf, info: bytes) -> str:
    return b64u(SUITE.encrypt(data_key.reveal(), cnf.hpke, info=info))
