"""Outstanding releases: the owner's query to an attestation server, and how its answer is read."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_OUTSTANDING
from pytest_glasshouse.wire.tokens import expect, thumbprint, verify

#: `run` names one run, "" all of them.
QUERY_SHAPE: dict[str, type] = {"iss": str, "aud": str, "jti": str, "exp": int, "run": str}
OUTSTANDING_SHAPE: dict[str, type] = {"iss": str, "iat": int, "query_sha256": str, "total": int, "releases": list}
RELEASE_SHAPE: dict[str, type] = {
    "nonce": str, "sub": str, "run": str, "manifest": str, "released_at": int, "deadline": int,
}  # fmt: skip
QUERY_LIFETIME_S = 120
#: The most releases one answer lists, because a token has at most 64 KiB; `total` counts all.
LISTED = 64


@dataclass(frozen=True, kw_only=True)
class Outstanding:
    """Releases without a completion at `at` (the server's wall seconds), oldest first; `total` counts all of them."""

    at: int
    total: int
    releases: tuple[dict[str, Json], ...]

    def overdue(self) -> tuple[dict[str, Json], ...]:
        """Those whose deadline had passed."""
        return tuple(each for each in self.releases if int(str(each["deadline"])) <= self.at)


def query_claims(*, owner: Ed25519PublicKey, server: Ed25519PublicKey, run: str, now: int) -> dict[str, Json]:
    """The claims of a query (`TYP_QUERY`) to `server` about `run`, or with "" about every run."""
    return {
        "iss": thumbprint(owner),
        "aud": thumbprint(server),
        "jti": secrets.token_hex(16),
        "exp": now + QUERY_LIFETIME_S,
        "run": run,
    }


def read_answer(answer: Mapping[str, Json], *, server: Ed25519PublicKey, query: str) -> Outstanding:
    """What `server` answered to `query`. Raises `IntegrityError`."""
    token = answer.get("outstanding")
    if not isinstance(token, str):
        raise IntegrityError("malformed", "no answer about outstanding releases")
    claims = verify(token, key=server, typ=TYP_OUTSTANDING)
    expect(claims, OUTSTANDING_SHAPE)
    if claims["iss"] != thumbprint(server) or claims["query_sha256"] != sha256_hex(query.encode()):
        raise IntegrityError("jwt-claims", "an answer to another question")
    listed, total, at = claims["releases"], claims["total"], claims["iat"]
    releases = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    for each in releases:
        expect(each, RELEASE_SHAPE)
    if not isinstance(total, int) or not isinstance(at, int) or len(releases) != min(total, LISTED):
        raise IntegrityError("malformed", "the answer's releases and total differ")
    return Outstanding(at=at, total=total, releases=tuple(releases))
