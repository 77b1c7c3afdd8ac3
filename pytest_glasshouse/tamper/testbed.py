"""The testbed of tamper cases: an owner, a server behind real HTTP, an enrolled attester and a sealed package.

Knows how to make every message valid. Refuses to know mutations: a case changes one thing in what the testbed returns. The
attester is software of this process; the checks it meets are the product's.
"""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation.http import ListeningServer, serve_embedded
from pytest_glasshouse.attestation.ledger import ReleaseLedger
from pytest_glasshouse.attestation.limits import Caps, Limits
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.guest.opener import open_package, unseal_key
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.policy import Component, Policy, Recorded, Required
from pytest_glasshouse.owner.sealing import SealedPackage, read_manifest, seal
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire import journal, tokens
from pytest_glasshouse.wire.canonical import Json, canonical, sha256_hex, tagged

#: Decoded JSON that a case changes in place. Its members have no types: a change may give them any.
Editable: TypeAlias = dict[str, Any]

ROW = "row-1"
SUB = "run-1/row-1/round-1"
PLAN = tagged("glasshouse-plan/1", b"what is about to be run")
CONTAINER = tagged("glasshouse-container/1", b"the image the policy names")
COMPONENTS = {"archive": sha256_hex(b"guest archive"), "interpreter": sha256_hex(b"python"), "torch": sha256_hex(b"2.9")}
PARTS = {"config": b'{"layers":2}', "initial": bytes(range(256)) * 8, "train": b"every good boy does fine " * 64}
#: Small segments, so that a small package has several of them.
SEGMENT = 512
_NOON = 1_800_000_000
_PLENTY = 1000


#: The neutral point of Ed25519's curve. Under it as a public key, this one signature verifies for any message.
WEAK_KEY = (1).to_bytes(32, "little")
SIGNED_BY_NOBODY = WEAK_KEY + bytes(32)


class TamperTestbed:
    """Owner, server, package and grant, ready for `attempt`. A context manager that closes its server."""

    def __init__(self) -> None:
        self.now = _NOON
        # Cases sign with it what `Owner` would not sign.
        self.owner_signing = Ed25519PrivateKey.generate()
        self.owner = Owner(signing=self.owner_signing, sealing=X25519PrivateKey.generate())
        self.ak = Ed25519PrivateKey.generate()
        self.sealed = self.seal()
        self.policy = self.make_policy()
        self.ledger = ReleaseLedger()
        self.attacked: Attempt | None = None
        self.random_bytes = os.urandom
        self.caps, self.limits = Caps(), Limits()
        self._counted = 0
        self.embedded = self._serve()
        self.client = AttestationClient(self.embedded.url)
        self.register(self.sealed, self.policy)
        self.enrol(SUB)

    def _serve(self) -> ListeningServer:
        server = AttestationServer(
            owner=self.owner.public, ledger=self.ledger, clock=lambda: self.now, random_bytes=self._draw, caps=self.caps
        )  # fmt: skip
        return serve_embedded(server, limits=self.limits)

    def _draw(self, size: int) -> bytes:
        return self.random_bytes(size)

    def restart(self) -> None:
        """Another server over the same ledger; package and guest key are registered and enrolled again."""
        self.close()
        self.embedded = self._serve()
        self.client = AttestationClient(self.embedded.url)
        self.register(self.sealed, self.policy)
        self.enrol(SUB)

    def seal(self, *, version: int = 1) -> SealedPackage:
        """A sealed package of `PARTS`."""
        return seal(
            PARTS, owner=self.owner, run="run-1", round_nonce=secrets.token_hex(32), workload={"name": "mlp"},
            version=version, segment=SEGMENT,
        )  # fmt: skip

    def make_policy(
        self, *, name: str = "testbed", version: int = 1, archive: str | None = COMPONENTS["archive"], limit: int = _PLENTY,
        manifest_version: int = 1, locked: bool = False,
    ) -> Policy:  # fmt: skip
        """The policy that an attempt's evidence satisfies."""
        components: dict[str, Component] = {
            "archive": Required(sha256=archive),
            "interpreter": Required(sha256=COMPONENTS["interpreter"]),
            "torch": Recorded(),
        }
        return Policy(
            name=name, version=version, components=components, container=CONTAINER, release_limit=limit,
            manifest_version=manifest_version, locked=locked,
        )  # fmt: skip

    def registration(self, sealed: SealedPackage, policy: Policy, *, owner: Owner | None = None, hpke: str | None = None) -> str:
        """A registration of `sealed` under `policy`."""
        return (owner or self.owner).register(
            server=self.embedded.public_key, server_hpke=hpke or self.embedded.hpke_public, manifest=sealed.manifest,
            policy=policy, data_key=sealed.data_key,
        )  # fmt: skip

    def register(self, sealed: SealedPackage, policy: Policy) -> None:
        """Register `sealed` under `policy`."""
        self.client.register(self.registration(sealed, policy))

    def grant(
        self,
        sub: str,
        *,
        owner: Owner | None = None,
        server: Ed25519PrivateKey | None = None,
        package: str | None = None,
        policy: str | None = None,
        expires_in: int = 86_400,
        limit: int = _PLENTY,
        run: str = "run-1",
    ) -> str:
        """A grant for `sub`."""
        return (owner or self.owner).grant(
            server=server.public_key() if server else self.embedded.public_key,
            run=run,
            sub=sub,
            package=package or self.sealed.manifest_sha256,
            policy_sha256=policy or self.policy.sha256,
            allocation="testbed",
            expires=self.now + expires_in,
            release_limit=limit,
        )

    def enrol(
        self, sub: str, *, grant: str | None = None, ak: Ed25519PrivateKey | None = None, prover: Ed25519PrivateKey | None = None
    ) -> None:
        """Enrol a key (by default `ak`) for `sub`."""
        key, grant_token = ak or self.ak, grant or self.grant(sub)
        proof = ev.prove_enrolment(grant_token, key=prover or key)
        self.client.enrol(grant=grant_token, ak=tokens.public_text(key.public_key()), proof=proof)
        self.begin_round(run=str(tokens.peek(grant_token)["run"]))

    def plan_run(self, run: str = "run-1", rows: list[Json] | None = None) -> None:
        """Register the plan of a run."""
        planned: list[Json] = [[ROW, 1]] if rows is None else rows
        claims: dict[str, Json] = {"rows_sha256": sha256_hex(canonical(planned))}
        self.client.plan(self.request(claims, typ=ev.TYP_RUN_PLAN, run=run), planned)

    def begin_round(self, *, run: str = "run-1", **changed: Json) -> str:
        """Begin a round of a planned run, for one session; its nonce."""
        self.plan_run(run)
        nonce = secrets.token_hex(32)
        self.client.mark(self.mark_request(nonce=secrets.token_hex(16), round_nonce=nonce, run=run, **changed))
        return nonce

    def mark_request(self, *, nonce: str, round_nonce: str, run: str = "run-1", **changed: Json) -> str:
        """The owner's request for a mark."""
        about: dict[str, Json] = {"row": ROW, "attempt": "attempt-1", "plan": PLAN, "round": round_nonce, "nonce": nonce}
        return self.request({**about, **changed}, typ=ev.TYP_MARK_REQUEST, run=run)

    def request(self, claims: dict[str, Json], *, typ: str, run: str = "run-1", owner: Owner | None = None) -> str:
        """A request of the owner about a run."""
        return (owner or self.owner).sign_request(claims, typ=typ, server=self.embedded.public_key, run=run)

    def attempt(self, sub: str = SUB, *, ak: Ed25519PrivateKey | None = None) -> Attempt:
        """A session with a fresh challenge and valid evidence for it."""
        challenge = self.client.challenge(sub=sub, plan=PLAN)
        self.attacked = Attempt(self, sub, ak or self.ak, challenge)
        return self.attacked

    def reset_release_count(self) -> None:
        """Count releases from here on: none may follow."""
        self._counted = self.embedded.server.releases()

    def releases_since_reset(self) -> int:
        """Releases since `reset_release_count`."""
        return self.embedded.server.releases() - self._counted

    def nonce_state(self) -> Literal["spent", "open"]:
        """Whether the attacked nonce is spent, found by using it."""
        assert self.attacked is not None  # noqa: S101  (a case that states the nonce's end has made an attempt)
        try:
            self.attacked.unchanged().release()
        except RefusedError as refusal:
            if refusal.reason == "nonce":
                return "spent"
            raise
        return "open"

    def close(self) -> None:
        """End the server."""
        self.embedded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        self.ledger.close()


class Attempt:
    """One session: ephemeral keys, a journal of two lines, and valid claims for a case to change."""

    def __init__(self, testbed: TamperTestbed, sub: str, ak: Ed25519PrivateKey, challenge: dict[str, Json]) -> None:
        self.testbed = testbed
        self.ak = ak
        self.challenge = challenge
        self.nonce = str(challenge["nonce"])
        self.hpke, self.sig = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.lines: list[str] = []
        self.journal = journal.Journal(self.nonce, self.lines.append, lambda: 0)
        self.journal.append("anti_debug_ready", {"wall": "2027-01-15T08:00:00Z"})
        self.journal.append("measured", {"composite": ev.composite(COMPONENTS)})
        self.log = list(self.lines)
        self.devices: dict[str, Json] = {}
        self.claims: Editable = ev.evidence_claims(
            ak=ak.public_key(), sub=sub, aud=testbed.embedded.server.kid, iat=int(str(challenge["issued_at"])),
            jti=secrets.token_hex(16), nonce=self.nonce, policy=str(challenge["policy"]), plan=PLAN,
            hpke=self.hpke.public_key(), sig=self.sig.public_key(), components=COMPONENTS,
            manifest=testbed.sealed.manifest_sha256, manifest_version=1, container=CONTAINER, observed=ev.ANTIDEBUG_STRICT,
            memory={"locked": True, "bytes": 4096}, state_head=self.journal.head,
        )  # fmt: skip
        self._valid_claims = copy.deepcopy(self.claims)

    def unchanged(self) -> Attempt:
        """The same session with the valid claims and journal again."""
        self.claims, self.log, self.devices = copy.deepcopy(self._valid_claims), self.lines[:2], {}
        return self

    def token(self) -> str:
        """The evidence, signed."""
        return tokens.sign(self.claims, key=self.ak, typ=ev.TYP_EVIDENCE)

    def release(self, token: str | None = None, *, log: Sequence[str] | None = None) -> dict[str, str]:
        """Present the evidence."""
        answer = self.testbed.client.release(
            evidence=token or self.token(), log=self.log if log is None else log, devices=self.devices
        )
        return {name: str(value) for name, value in answer.items()}

    def unseal(self, released: dict[str, str]) -> LockedSecret:
        """As the leg does: check the result, unseal the key."""
        cnf = {"hpke": ev.hpke_text(self.hpke.public_key()), "sig": tokens.public_text(self.sig.public_key())}
        manifest = self.testbed.sealed.manifest_sha256
        ev.verify_result(
            released["result"], server=self.testbed.embedded.public_key, nonce=self.nonce, **cnf, manifest=manifest,
            policy=self.testbed.policy.sha256, plan=PLAN,
        )  # fmt: skip
        return unseal_key(released["sealed"], result_token=released["result"], manifest_sha256=manifest, private=self.hpke)

    def open(self, key: LockedSecret, package: bytes | None = None, manifest: dict[str, Json] | None = None) -> None:
        """Open the package and compare its parts with those sealed."""
        testbed = self.testbed
        claims = read_manifest(testbed.sealed.manifest, owner=testbed.owner.public) if manifest is None else manifest
        opened = open_package(testbed.sealed.package if package is None else package, key, claims)
        same = all(bytes(opened.parts[name]) == data for name, data in PARTS.items())
        opened.close()
        if not same:
            raise RefusedError("testbed", "the opened package has other parts than were sealed")

    def run_journal(self) -> None:
        """The rest of a successful leg's journal."""
        for step in journal.STEPS[2:]:
            self.journal.append(step, {})

    def head_claims(self) -> dict[str, Json]:
        """The claims of the journal's current head."""
        adapter = sha256_hex(b"adapter")
        return ev.head_claims(nonce=self.nonce, head=self.journal.head, count=self.journal.count, adapter=adapter)

    def head(self) -> str:
        """The head, signed by the leg."""
        return tokens.sign(self.head_claims(), key=self.sig, typ=ev.TYP_HEAD)

    def exit_claims(self, head: str) -> dict[str, Json]:
        """The agent's claims about the leg's end."""
        gpu: dict[str, Json] = {"before": None, "after": None, "reason": "no GPU"}
        scan: dict[str, Json] = {"status": "unseen", "reason": "no leg ran"}
        return ev.exit_claims(
            nonce=self.nonce, head_token=head, process_gone=True, exit_status=0, workspace_entries=0, gpu=gpu, scan=scan
        )

    def exit(self, head: str) -> str:
        """The exit, signed by the agent."""
        return tokens.sign(self.exit_claims(head), key=self.ak, typ=ev.TYP_EXIT)

    def complete(self, *, head: str | None = None, exit: str | None = None, nonce: str | None = None) -> str:  # noqa: A002
        """Ask for the receipt."""
        head = head or self.head()
        answer = self.testbed.client.complete(head=head, exit=exit or self.exit(head), nonce=nonce or self.nonce)
        return str(answer["receipt"])

    def run_lifecycle(self) -> None:
        """The whole lifecycle."""
        key = self.unseal(self.release())
        try:
            self.open(key)
        finally:
            key.close()
        self.run_journal()
        receipt = tokens.verify(self.complete(), key=self.testbed.embedded.public_key, typ=ev.TYP_RECEIPT)
        tokens.expect(receipt, ev.RECEIPT_SHAPE)
        journal.read(self.lines, self.nonce, head=self.head_claims())
