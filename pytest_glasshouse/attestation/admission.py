"""Who may attest: packages and policies the owner registered, and guest keys enrolled under its grants.

Knows data keys, in memory only. Refuses messages that the owner did not sign, and a policy version that goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation.ledger import ReleaseLedger
from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.attestation.messages import Message, require, text_field
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.owner import GRANT_SHAPE, REGISTRATION_SHAPE
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.owner.sealing import read_manifest
from pytest_glasshouse.owner.server_keys import published_claims
from pytest_glasshouse.wire.canonical import Json, sha256_hex, unb64u
from pytest_glasshouse.wire.evidence import (
    TYP_GRANT,
    TYP_REGISTRATION,
    check_enrolment,
    hpke_text,
    registration_info,
    unsealed,
)
from pytest_glasshouse.wire.floe import KEY_BYTES
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import expect, public_key, thumbprint, verify

#: How long a session is kept after its grant expired, and a package that no session uses.
KEEP_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Package:
    """A registered package. `manifest` is the manifest's digest."""

    manifest: str
    version: int
    policy: Policy
    data_key: Secret


@dataclass(frozen=True, kw_only=True)
class AdmittedSession:
    """A session: its name, the key enrolled for it, and the grant it was enrolled under."""

    sub: str
    run: str
    kid: str
    ak: Ed25519PublicKey
    package: Package
    grant_sha256: str
    expires: int
    release_limit: int
    subject: str
    row: str


class Admission:
    """Registrations and enrolments at the server with the key id `server`. The caller serialises calls."""

    def __init__(
        self, *, owner: Ed25519PublicKey, server: str, ledger: ReleaseLedger, clock: Callable[[], int], caps: Caps
    ) -> None:
        self._owner = owner
        self._server = server
        self._ledger = ledger
        self._clock = clock
        self._caps = caps
        self._sealing = X25519PrivateKey.generate()
        self.hpke_public = hpke_text(self._sealing.public_key())
        self.packages: dict[str, Package] = {}
        self.sessions: dict[str, AdmittedSession] = {}
        self._registered_at: dict[str, int] = {}

    def published_claims(self, server: Ed25519PublicKey) -> dict[str, Json]:
        """The public claims about this server: its key, its owner, and the key that data keys are sealed to."""
        return published_claims(server=server, owner=self._owner, hpke=self.hpke_public, now=self._clock())

    def forget(self) -> None:
        """Forget every key and session name."""
        self._registered_at.clear()
        self.packages.clear()
        self.sessions.clear()

    def register(self, message: Message) -> dict[str, Json]:
        """`{registration}` -> `{manifest, policy}`."""
        # 1. Signed by the owner, for this server.
        claims = verify(text_field(message, "registration"), key=self._owner, typ=TYP_REGISTRATION)
        expect(claims, REGISTRATION_SHAPE)
        require(claims["iss"] == thumbprint(self._owner) and claims["aud"] == self._server, "registration", "iss or aud")
        # 2. A manifest by the same owner, in a version the policy accepts.
        manifest_token = str(claims["manifest"])
        manifest = sha256_hex(manifest_token.encode())
        version = read_manifest(manifest_token, owner=self._owner)["version"]
        policy = Policy.from_json(claims["policy"])
        require(isinstance(version, int) and version >= policy.manifest_version, "manifest-version")
        # 3. A policy's version never goes back, and its content never changes under the same version.
        known = self._ledger.policies(policy.name)
        require(all(_not_before(policy, version, sha256) for version, sha256 in known), "policy-rollback")
        # 4. The data key, sealed to this server for this manifest.
        data_key = self._unseal(str(claims["data_key"]), registration_info(manifest, thumbprint(self._owner)))
        package = Package(manifest=manifest, version=int(str(version)), policy=policy, data_key=data_key)
        require(self.packages.get(manifest, package) == package, "registration", "already registered with other content")
        now = self._clock()
        self._forget_old(now)
        require(manifest in self.packages or len(self.packages) < self._caps.packages, "busy", "packages")
        self._ledger.record_policy(name=policy.name, version=policy.version, sha256=policy.sha256)
        self.packages[manifest] = package
        self._registered_at[manifest] = now
        return {"manifest": manifest, "policy": policy.sha256}

    def _forget_old(self, now: int) -> None:
        # A server that runs for months must not hold every key it ever received.
        for sub in [sub for sub, session in self.sessions.items() if now >= session.expires + KEEP_S]:
            del self.sessions[sub]
        in_use = {session.package.manifest for session in self.sessions.values()}
        for manifest in [name for name, at in self._registered_at.items() if now >= at + KEEP_S and name not in in_use]:
            del self._registered_at[manifest]
            self.packages.pop(manifest, None)

    def _unseal(self, sealed: str, info: bytes) -> Secret:
        try:
            key = unsealed(unb64u(sealed), private=self._sealing, info=info)
        except IntegrityError:
            raise RefusedError("registration", "data key") from None
        require(len(key) == KEY_BYTES, "registration", "data key")
        return Secret(key)

    def enrol(self, message: Message) -> dict[str, Json]:
        """`{grant, ak, proof}` -> `{kid, sub}`."""
        # 1. A grant by the owner, for this server, not expired, for a registered pair of package and policy.
        grant = text_field(message, "grant")
        claims = verify(grant, key=self._owner, typ=TYP_GRANT)
        expect(claims, GRANT_SHAPE)
        require(claims["iss"] == thumbprint(self._owner) and claims["aud"] == self._server, "grant", "iss or aud")
        expires, limit = int(str(claims["exp"])), int(str(claims["release_limit"]))
        require(expires > self._clock(), "grant", "expired")
        require(limit >= 1, "grant", "release_limit")
        package = self.packages.get(str(claims["package"]))
        if package is None:
            raise RefusedError("grant", "package")
        require(claims["policy"] == package.policy.sha256, "grant", "policy")
        # 2. Proof of possession: the key signed this grant.
        ak = public_key(text_field(message, "ak"))
        check_enrolment(grant, text_field(message, "proof"), key=ak)
        session = AdmittedSession(
            sub=str(claims["sub"]),
            run=str(claims["run"]),
            kid=thumbprint(ak),
            ak=ak,
            package=package,
            grant_sha256=sha256_hex(grant.encode()),
            expires=expires,
            release_limit=limit,
            subject=str(claims["subject"]),
            row=str(claims["row"]),
        )
        # 3. A session's name belongs to the first grant and key enrolled for it.
        self._forget_old(self._clock())
        if session.sub not in self.sessions:
            require(len(self.sessions) < self._caps.sessions, "busy", "sessions")
            of_this_run = sum(each.run == session.run for each in self.sessions.values())
            require(of_this_run < self._caps.sessions_of_a_run, "busy", "sessions of this run")
        taken = self.sessions.get(session.sub, session)
        require((taken.kid, taken.grant_sha256) == (session.kid, session.grant_sha256), "grant", "sub is taken")
        self.sessions.setdefault(session.sub, session)
        return {"kid": session.kid, "sub": session.sub}


def _not_before(policy: Policy, version: int, sha256: str) -> bool:
    return policy.version > version or (policy.version == version and policy.sha256 == sha256)
