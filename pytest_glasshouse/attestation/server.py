"""The attestation server: verifier and key broker in one object (RFC 9334: Verifier and Relying Party).

Knows data keys, in memory only, and releases one when every step of a transaction has held. Refuses to accept an
attestation result as permission: results are output only. A failed check is a refusal with a stable reason, an unexpected
error is the refusal `internal`, and neither releases anything. A restart forgets open nonces and data keys; the ledger
keeps what was released, so it can still be completed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pytest_glasshouse.attestation.admission import Admission
from pytest_glasshouse.attestation.audit import Audit, AuditLine, Decision, name_digest, no_audit
from pytest_glasshouse.attestation.completion import check_completion
from pytest_glasshouse.attestation.hardware import appraise_hardware, worst
from pytest_glasshouse.attestation.ledger import Completion, Release, ReleaseLedger
from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.attestation.messages import Message, lines_field, object_field, require, text_field
from pytest_glasshouse.attestation.nonces import CHALLENGE_TTL_S, IssuedNonce, Nonces
from pytest_glasshouse.attestation.outstanding_answer import answer_query
from pytest_glasshouse.attestation.run_witness import RunWitness
from pytest_glasshouse.attestation.verifier import Expected, appraise
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.server_keys import TYP_KEYS
from pytest_glasshouse.wire.canonical import Json, b64u, is_sha256, sha256_hex
from pytest_glasshouse.wire.elapsed import since_boot_ns, wall_clock_us
from pytest_glasshouse.wire.evidence import (
    EAR_PROFILE,
    SUITE,
    TYP_EVIDENCE,
    TYP_RECEIPT,
    TYP_RESULT,
    VERIFIER_ID,
    Cnf,
    release_info,
)
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import peek_kid, public_key, public_text, sign, thumbprint, verify

RESULT_LIFETIME_S = 300
#: For how long release times are kept to the millisecond; afterwards, and after a restart, to the second.
_RELEASE_TIME_KEPT_NS = 7 * 24 * 3600 * 1_000_000_000


class AttestationServer:
    """Operations: plan a run, register, enrol, mark, challenge, release, complete, tally, list outstanding releases.

    Each takes and returns a JSON object and raises `RefusedError`.

    `owner` is the key that registrations and grants must be signed by. `clock` returns wall seconds, `clock_us` the
    microseconds that marks have. The caller closes a ledger or an audit log it passes in.
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
        clock_us: Callable[[], int] | None = None,
    ) -> None:
        self._ledger = ReleaseLedger() if ledger is None else ledger
        self._owns_ledger = ledger is None
        self._audit = audit
        self._owner = owner
        self._clock = clock
        self._signing = Ed25519PrivateKey.generate() if signing is None else signing
        self._nonces = Nonces(caps=caps, random_bytes=random_bytes)
        self._lock = threading.Lock()
        self._audit_fields: dict[str, str] = {}
        self._overdue_nonces: set[str] = set()
        self._released_ns: dict[str, int] = {}
        self.public_key = self._signing.public_key()
        self.kid = thumbprint(self.public_key)
        self._admission = Admission(owner=owner, server=self.kid, ledger=self._ledger, clock=clock, caps=caps)
        self._witness = RunWitness(
            owner=owner, signing=self._signing, ledger=self._ledger, clock=clock, clock_us=clock_us or wall_clock_us()
        )
        self.hpke_public = self._admission.hpke_public

    # -------------------------------------------------------------------------------------------------- operations

    def plan(self, message: Message) -> dict[str, Json]:
        """`{plan, rows}` -> `{run_plan}`: the rows that a run is going to measure, before its first key."""
        return self._transaction("plan", self._witness.plan, message)

    def mark(self, message: Message) -> dict[str, Json]:
        """`{mark}` -> `{mark}`: this server's time, signed for a nonce of a round; the first one begins the round."""
        return self._transaction("mark", self._witness.mark, message, decision="marked")

    def tally(self, message: Message) -> dict[str, Json]:
        """`{query}` -> `{tally, counted}`: every row planned and every round begun of a run, signed."""
        return self._transaction("tally", self._witness.tally, message)

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

    def list_outstanding(self, message: Message) -> dict[str, Json]:
        """`{query}` -> `{outstanding}`: the owner asks which releases are not completed; the answer is signed."""
        return self._transaction("outstanding", self._list_outstanding, message)

    def keys(self) -> dict[str, Json]:
        """`{server, keys}`: this server's public key, and a token signed by it with the key that data keys are sealed to."""
        with self._lock:
            token = sign(self._admission.published_claims(self.public_key), key=self._signing, typ=TYP_KEYS)
        return {"server": public_text(self.public_key), "keys": token}

    def outstanding(self) -> list[dict[str, Json]]:
        """Releases without a completion, each with its deadline, by the ledger."""
        with self._lock:
            return self._ledger.outstanding()

    def audit_overdue(self) -> None:
        """Write one audit line for each release whose deadline passed without a completion."""
        with self._lock:
            now = self._clock()
            for release in self._ledger.outstanding():
                nonce = str(release["nonce"])
                if nonce not in self._overdue_nonces and int(str(release["deadline"])) <= now:
                    sub = name_digest("sub", str(release["sub"]))
                    self._audit(AuditLine(event="complete", decision="overdue", sub=sub, nonce=name_digest("nonce", nonce)))
                    self._overdue_nonces.add(nonce)

    def releases(self) -> int:
        """The number of data keys released, by the ledger."""
        with self._lock:
            return self._ledger.releases()

    def close(self) -> None:
        """Forget every key and session."""
        with self._lock:
            self._admission.forget()
            self._nonces.clear()
            self._released_ns.clear()
            if self._owns_ledger:
                self._ledger.close()

    def _transaction(
        self, event: str, step: Callable[[Message], dict[str, Json]], message: Message, *, decision: Decision = "accepted"
    ) -> dict[str, Json]:
        reason, detail = "internal", ""
        with self._lock:
            self._audit_fields = {}
            try:
                answer = step(message)
                # Before the answer is sent: a decision that cannot be logged is refused.
                if decision != "marked":  # the ledger has them: their number would rotate releases out of the log
                    self._audit(AuditLine(event=event, decision=decision, **self._audit_fields))
            except (RefusedError, IntegrityError) as refusal:
                reason, detail = refusal.reason, refusal.detail
            except Exception:  # noqa: BLE001, S110  (fails closed: the answer carries nothing about keys)
                pass
            else:
                return answer
            with contextlib.suppress(Exception):
                self._audit(AuditLine(event=event, decision="refused", reason=reason, **self._audit_fields))
        # Raised outside the handlers, so that the traceback holds no frame with a key.
        raise RefusedError(reason, detail)

    def _identify(self, *, kid: str, sub: str = "", nonce: str = "") -> None:
        self._audit_fields = {"kid": kid, "sub": name_digest("sub", sub), "nonce": name_digest("nonce", nonce)}

    def _enrol(self, message: Message) -> dict[str, Json]:
        answer = self._admission.enrol(message)
        self._identify(kid=str(answer["kid"]), sub=str(answer["sub"]))
        return answer

    # --------------------------------------------------------------------------------------------- 1. the challenge

    def _challenge(self, message: Message) -> dict[str, Json]:
        session = self._admission.sessions.get(text_field(message, "sub"))
        if session is None:
            raise RefusedError("sub", "not enrolled")
        self._identify(kid=session.kid, sub=session.sub)
        plan = text_field(message, "plan")
        require(is_sha256(plan), "malformed", "plan")
        now = self._clock()
        require(now < session.expires, "grant", "expired")
        run_plan, ranks = self._witness.admit(run=session.run, plan=plan, sub=session.sub)
        # All rounds of an attempt have one plan; another attempt, even in the same run, has another plan.
        run = f"{session.run}/{plan}"
        challenge = self._nonces.issue(
            session,
            plan=plan,
            run_plan=run_plan,
            ranks=ranks,
            now=now,
            attempt=lambda: self._ledger.attempt(subject=session.subject, row=session.row, run=run),
        )
        policy = session.package.policy
        asked: dict[str, Json] = {"hardware": list(policy.hardware.required)} if policy.hardware else {}
        return {"nonce": challenge.nonce, "issued_at": now, "expires_in": CHALLENGE_TTL_S, "policy": policy.sha256, **asked}

    # ----------------------------------------------------------------------------------------------- 2. the release

    def _release(self, message: Message) -> dict[str, Json]:
        evidence, log = text_field(message, "evidence"), lines_field(message, "log")
        beside = object_field(message, "devices")
        now = self._clock()
        # 1. Signed by an enrolled key. A token that fails here does not identify its sender, so it spends no nonce.
        aks = {session.kid: session.ak for session in self._admission.sessions.values()}
        ak = aks.get(peek_kid(evidence))
        if ak is None:
            raise RefusedError("jws-header", "no such key is enrolled")
        claims = verify(evidence, key=ak, typ=TYP_EVIDENCE)
        # 2. The nonce is open and belongs to this key and session. Another session's nonce is refused and stays unspent.
        self._identify(kid=thumbprint(ak))
        sub = claims.get("sub")
        named = self._admission.sessions.get(sub) if isinstance(sub, str) else None
        challenge = self._nonces.find(claims.get("eat_nonce"), kid=thumbprint(ak), named=named, now=now)
        self._identify(kid=challenge.session.kid, sub=challenge.session.sub, nonce=challenge.nonce)
        # 3. The nonce is spent, whatever the appraisal says.
        challenge.spend()
        # 4. Every step of the appraisal.
        session = challenge.session
        policy = session.package.policy
        expected = Expected(
            iss=session.kid,
            sub=session.sub,
            aud=self.kid,
            nonce=challenge.nonce,
            plan=challenge.plan,
            policy=policy,
            manifest=session.package.manifest,
            manifest_version=session.package.version,
            ranks=challenge.ranks,
        )
        cnf = appraise(claims, log, expected=expected, now=now)
        devices = appraise_hardware(claims, beside, nonce=challenge.nonce, cnf=cnf, policy=policy, now=now)
        # 5. The grant is valid, and neither its release limit nor the policy's is reached.
        require(now < session.expires, "grant", "expired")
        require(self._ledger.releases_of_session(session.sub) < session.release_limit, "release-limit", "grant")
        require(self._ledger.releases_of_package(session.package.manifest) < policy.release_limit, "release-limit", "policy")
        # 6. Sealed to the leg's key, for this result and this package.
        result = self._result(challenge, claims, evidence, now, devices)
        sealed = _seal(session.package.data_key, cnf, release_info(result, session.package.manifest))
        # 7. Recorded before it is sent, with everything its completion will be checked against.
        self._ledger.record_release(
            Release(
                nonce=challenge.nonce,
                sub=session.sub,
                run=session.run,
                manifest=session.package.manifest,
                policy=policy.sha256,
                plan=challenge.plan,
                ak=public_text(session.ak),
                sig=public_text(cnf.sig),
                attempt=challenge.attempt,
                result_sha256=sha256_hex(result.encode()),
                released_at=now,
                deadline=now + policy.completion_s,
            )
        )
        self._released_ns = {nonce: at for nonce, at in self._released_ns.items() if at > since_boot_ns() - _RELEASE_TIME_KEPT_NS}
        self._released_ns[challenge.nonce] = since_boot_ns()
        return {"result": result, "sealed": sealed}

    def _result(
        self, challenge: IssuedNonce, claims: Message, evidence: str, now: int, devices: Mapping[str, dict[str, Json]]
    ) -> str:
        submod: dict[str, Json] = {
            "ear_status": "affirming",
            **{name: claims[name] for name in ("manifest", "composite", "container")},
        }
        result: dict[str, Json] = {
            "iss": self.kid,
            "sub": challenge.session.sub,
            "iat": now,
            "exp": now + RESULT_LIFETIME_S,
            "jti": secrets.token_hex(16),
            "eat_nonce": challenge.nonce,
            "eat_profile": EAR_PROFILE,
            "ear_verifier_id": VERIFIER_ID,
            "ear_status": worst([submod, *devices.values()]),
            "cnf": claims["cnf"],
            "policy": challenge.session.package.policy.sha256,
            "plan": challenge.plan,
            "manifest": claims["manifest"],
            "composite": claims["composite"],
            "container": claims["container"],
            "attempt": challenge.attempt,
            "evidence_sha256": sha256_hex(evidence.encode()),
            "run_plan": challenge.run_plan,
            "submods": {**devices, "runtime": submod},
        }
        return sign(result, key=self._signing, typ=TYP_RESULT)

    # -------------------------------------------------------------------------------------------- 3. the completion

    def _complete(self, message: Message) -> dict[str, Json]:
        head, exit_token = text_field(message, "head"), text_field(message, "exit")
        # 1. A session whose key was released, also before a restart.
        release = self._ledger.release(text_field(message, "nonce"))
        if release is None:
            raise RefusedError("session", "nothing was released under this nonce")
        ak = public_key(release.ak)
        self._identify(kid=thumbprint(ak), sub=release.sub, nonce=release.nonce)
        # 2. to 4. The head and the exit.
        completed = self._ledger.completion(release.nonce)
        head_sha256, exit_sha256 = check_completion(head, exit_token, release=release, ak=ak, completed=completed)
        # 5. Countersigned and recorded once; the same request gets the same receipt again.
        if completed is None:
            receipt = self._receipt(release, head_sha256, exit_sha256)
            completed = Completion(nonce=release.nonce, head_sha256=head_sha256, exit_sha256=exit_sha256, receipt=receipt)
            self._ledger.record_completion(completed)
        return {"receipt": completed.receipt}

    # -------------------------------------------------------------------------------------- 4. outstanding releases

    def _list_outstanding(self, message: Message) -> dict[str, Json]:
        return answer_query(message, owner=self._owner, signing=self._signing, ledger=self._ledger, now=self._clock())

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
        """Milliseconds since the release, rounded up. After a restart the ledger knows only whole seconds."""
        left_ns = self._released_ns.pop(release.nonce, None)
        if left_ns is None:
            return max(0, self._clock() - release.released_at + 1) * 1000
        return (since_boot_ns() - left_ns) // 1_000_000 + 1

    def __repr__(self) -> str:
        return f"<attestation server {self.kid}>"


def _seal(data_key: Secret, cnf: Cnf, info: bytes) -> str:
    return b64u(SUITE.encrypt(data_key.reveal(), cnf.hpke, info=info))
