"""The evidence of one leg: what its agent measured of it, signed, with the evidence of the devices that a challenge asks for."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.hardware_evidence import collect
from pytest_glasshouse.wire import evidence, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import ChallengeAnswer
    from pytest_glasshouse.wire.leg_messages import Ready


def sign_evidence(
    challenge: ChallengeAnswer,
    ready: Ready,
    *,
    key: Ed25519PrivateKey,
    components: Mapping[str, str],
    container: str,
    head: str,
    iat: int,
    more: Mapping[str, Json],
) -> tuple[str, dict[str, Json]]:
    """The token, and what is sent beside it. `head` is the journal's, `more` are claims about other ranks."""
    cnf = evidence.read_cnf({**ready["cnf"]})
    claims = evidence.evidence_claims(
        ak=key.public_key(),
        sub=challenge["sub"],
        aud=challenge["aud"],
        iat=iat,
        jti=secrets.token_hex(16),
        nonce=challenge["nonce"],
        policy=challenge["policy"],
        plan=challenge["plan"],
        hpke=cnf.hpke,
        sig=cnf.sig,
        components=components,
        manifest=challenge["manifest"],
        manifest_version=challenge["manifest_version"],
        container=container,
        observed=ready["antidebug"],
        memory=ready["memory"],
        state_head=head,
    )
    submods, beside = collect([*challenge.get("hardware", ())], nonce=challenge["nonce"], cnf=cnf)
    return tokens.sign({**claims, **submods, **more}, key=key, typ=evidence.TYP_EVIDENCE), beside
