"""The owner of the data: signs manifests, grants and registrations, and alone can open an adapter.

Knows its two private keys. Refuses to show them: only `to_text` exports them, for a key file or a worker process.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.owner.outstanding import query_claims
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.wire.canonical import Json, b64u, canonical, parse_object, sha256_hex, unb64u
from pytest_glasshouse.wire.evidence import (
    SUITE,
    TYP_GRANT,
    TYP_GUEST,
    TYP_MANIFEST,
    TYP_QUERY,
    TYP_REGISTRATION,
    adapter_info,
    hpke_key,
    registration_info,
    unsealed,
)
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import public_text, sign, thumbprint

GRANT_SHAPE: dict[str, type] = {
    "iss": str, "aud": str, "jti": str, "exp": int, "sub": str, "run": str, "package": str, "policy": str,
    "allocation": str, "release_limit": int, "subject": str, "row": str,
}  # fmt: skip
REGISTRATION_SHAPE: dict[str, type] = {"iss": str, "aud": str, "jti": str, "manifest": str, "policy": dict, "data_key": str}


class Owner:
    """An Ed25519 key to sign with, and an X25519 key that adapters are sealed to."""

    def __init__(self, *, signing: Ed25519PrivateKey, sealing: X25519PrivateKey) -> None:
        self._signing = signing
        self._sealing = sealing

    @classmethod
    def generate(cls) -> Owner:
        """A new owner."""
        return cls(signing=Ed25519PrivateKey.generate(), sealing=X25519PrivateKey.generate())

    @property
    def public(self) -> Ed25519PublicKey:
        """The key manifests, grants and registrations are checked with."""
        return self._signing.public_key()

    @property
    def public_text(self) -> str:
        """`public` as text."""
        return public_text(self.public)

    @property
    def kid(self) -> str:
        """The owner's key id."""
        return thumbprint(self.public)

    @property
    def hpke_public(self) -> X25519PublicKey:
        """The key adapters are sealed to."""
        return self._sealing.public_key()

    def to_text(self) -> Secret:
        """Both private keys, for a worker process of this owner. Never print it or put it on a command line."""
        keys = {"signing": b64u(self._signing.private_bytes_raw()), "sealing": b64u(self._sealing.private_bytes_raw())}
        return Secret(canonical(keys))

    @classmethod
    def from_text(cls, text: Secret) -> Owner:
        """The owner `to_text` wrote."""
        keys = parse_object(text.reveal())
        try:
            signing = Ed25519PrivateKey.from_private_bytes(unb64u(str(keys["signing"])))
            return cls(signing=signing, sealing=X25519PrivateKey.from_private_bytes(unb64u(str(keys["sealing"]))))
        except (KeyError, ValueError):
            raise IntegrityError("malformed", "not an owner") from None

    def sign_manifest(self, claims: Mapping[str, Json]) -> str:
        """A manifest, signed. `owner.sealing.seal` makes the claims."""
        return sign(claims, key=self._signing, typ=TYP_MANIFEST)

    def grant(
        self,
        *,
        server: Ed25519PublicKey,
        run: str,
        package: str,
        policy_sha256: str,
        allocation: str,
        expires: int,
        release_limit: int = 1,
        sub: str | None = None,
        subject: str = "",
        row: str = "",
    ) -> str:
        """A grant: permission for one guest to enrol a key at `server`, for one package (a manifest's digest) and policy.

        `sub` names the session in evidence and is enrolled once (by default `run`); the server counts attempts by `subject`
        and `row`.
        """
        claims: dict[str, Json] = {
            "iss": self.kid,
            "aud": thumbprint(server),
            "jti": secrets.token_hex(16),
            "exp": expires,
            "sub": run if sub is None else sub,
            "run": run,
            "package": package,
            "policy": policy_sha256,
            "allocation": allocation,
            "release_limit": release_limit,
            "subject": subject,
            "row": row,
        }
        return sign(claims, key=self._signing, typ=TYP_GRANT)

    def register(self, *, server: Ed25519PublicKey, server_hpke: str, manifest: str, policy: Policy, data_key: Secret) -> str:
        """A registration: package, policy, and the data key sealed to `server`."""
        info = registration_info(sha256_hex(manifest.encode()), self.kid)
        claims: dict[str, Json] = {
            "iss": self.kid,
            "aud": thumbprint(server),
            "jti": secrets.token_hex(16),
            "manifest": manifest,
            "policy": policy.to_json(),
            "data_key": b64u(SUITE.encrypt(data_key.reveal(), hpke_key(server_hpke), info=info)),
        }
        return sign(claims, key=self._signing, typ=TYP_REGISTRATION)

    def sign_query(self, *, server: Ed25519PublicKey, run: str, now: int) -> str:
        """A query for the outstanding releases of `run`, or with "" of all runs, at `server`. `now` is in wall seconds."""
        return sign(query_claims(owner=self.public, server=server, run=run, now=now), key=self._signing, typ=TYP_QUERY)

    def sign_request(self, claims: Mapping[str, Json], *, typ: str, server: Ed25519PublicKey, run: str) -> str:
        """A request about `run` to `server`, of a kind in `wire.run_plan`."""
        about: dict[str, Json] = {"iss": self.kid, "aud": thumbprint(server), "jti": secrets.token_hex(16), "run": run}
        return sign({**about, **claims}, key=self._signing, typ=typ)

    def sign_guest_key(self, *, run: str, row: str, round_nonce: str, allocation: str, ak: str, plan: str) -> str:
        """A statement of the agent's key in a round without a protected leg, where no key is enrolled at a server."""
        claims: dict[str, Json] = {
            "iss": self.kid, "run": run, "row": row, "round_nonce": round_nonce, "allocation": allocation, "ak": ak, "plan": plan,
        }  # fmt: skip
        return sign(claims, key=self._signing, typ=TYP_GUEST)

    def seal_data_key(self, data_key: Secret, *, manifest_sha256: str) -> bytes:
        """The data key of a package, sealed to this owner, for a file until it is registered."""
        return SUITE.encrypt(data_key.reveal(), self.hpke_public, info=_data_key_info(manifest_sha256))

    def open_data_key(self, sealed: bytes, *, manifest_sha256: str) -> Secret:
        """The data key that `seal_data_key` sealed for this package. Raises `IntegrityError("data-key")`."""
        try:
            return Secret(unsealed(sealed, private=self._sealing, info=_data_key_info(manifest_sha256)))
        except IntegrityError:
            raise IntegrityError("data-key", "not sealed to this owner, for this package") from None

    def open_adapter(self, sealed: bytes, *, manifest_sha256: str, nonce: str) -> bytes:
        """The adapter a leg sealed for this package in this session. Raises `IntegrityError("adapter")`."""
        try:
            return unsealed(sealed, private=self._sealing, info=adapter_info(manifest_sha256, nonce))
        except IntegrityError:
            raise IntegrityError("adapter", "not sealed to this owner, for this package and session") from None

    def __repr__(self) -> str:
        return f"<owner {self.kid}>"


def _data_key_info(manifest_sha256: str) -> bytes:
    return f"glasshouse-keep/1\n{manifest_sha256}".encode()
