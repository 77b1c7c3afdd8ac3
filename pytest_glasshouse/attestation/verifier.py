"""Appraises evidence: the numbered steps between a validly signed token and an affirming result (RFC 9334, Verifier).

Knows what evidence must claim and names the step that failed. Refuses to know keys or to release anything. Every step is a
`require`: the completeness test removes them one at a time, and some tamper case must then fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.attestation.rank_verifier import appraise_ranks
from pytest_glasshouse.owner.policy import Policy, Required
from pytest_glasshouse.wire.canonical import Json, canonical, is_sha256
from pytest_glasshouse.wire.evidence import (
    ANTIDEBUG_SHAPE,
    ANTIDEBUG_STRICT,
    EVIDENCE_LIFETIME_S,
    EVIDENCE_SHAPE,
    FRESHNESS_AHEAD_S,
    MEMORY_SHAPE,
    STATE,
    STATE_SHAPE,
    Cnf,
    composite,
    read_cnf,
)
from pytest_glasshouse.wire.journal import STEPS_BEFORE_RELEASE, head_of, replay


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What this session's evidence must match. Only `plan` comes from the guest: it was sent when the nonce was asked for.

    `ranks` is how many its leg was planned with on its node.
    """

    iss: str
    sub: str
    aud: str
    nonce: str
    plan: str
    policy: Policy
    manifest: str
    manifest_version: int
    ranks: int = 1


def appraise(claims: Mapping[str, Json], log: Sequence[str], *, expected: Expected, now: int) -> Cnf:
    """The ephemeral keys the evidence vouches for, when every step holds. Raises `RefusedError` or `IntegrityError` otherwise.

    The caller has checked the signature and spent the nonce.
    """
    # 1. Exactly the claims of the profile. `submods` is optional here: `attestation.hardware` judges it. So is `ranks`.
    require(claims.keys() - {"submods", "ranks"} == EVIDENCE_SHAPE.keys(), "claims-set")
    # 2. Issued by this key, about this session, for this server. Equality: a list that contains our name does not match.
    require(claims["iss"] == expected.iss, "jwt-claims", "iss")
    require(claims["sub"] == expected.sub, "jwt-claims", "sub")
    require(claims["aud"] == expected.aud, "jwt-claims", "aud")
    # 3. Exact types: neither `True` nor "1" is 1.
    require(_typed(claims, EVIDENCE_SHAPE), "claims-type")
    antidebug, state, components = _object(claims, "antidebug"), _object(claims, "state"), _object(claims, "components")
    require(_exact(antidebug, ANTIDEBUG_SHAPE), "claims-type", "antidebug")
    require(_exact(state, STATE_SHAPE), "claims-type", "state")
    memory = _object(claims, "memory")
    require(_exact(memory, MEMORY_SHAPE), "claims-type", "memory")
    require(all(is_sha256(digest) for digest in components.values()), "claims-type", "components")
    # 4. Fresh by its times, after the nonce already proved it.
    iat, exp = _number(claims, "iat"), _number(claims, "exp")
    require(iat <= now + FRESHNESS_AHEAD_S, "future")
    require(iat >= now - expected.policy.freshness_s, "stale")
    require(exp > now, "lifetime", "expired")
    require(exp - iat <= EVIDENCE_LIFETIME_S, "lifetime", "too long")
    # 5. Made for this policy, and for the plan of the challenge.
    require(claims["eat_profile"] == expected.policy.eat_profile, "policy-binding", "eat_profile")
    require(claims["policy"] == expected.policy.sha256, "policy-binding", "policy")
    require(claims["plan"] == expected.plan, "plan")
    # 6. The package of this grant, in the registered version.
    require(claims["manifest"] == expected.manifest, "manifest")
    require(claims["manifest_version"] == expected.manifest_version, "manifest-version")
    # 7. The container the policy names.
    require(claims["container"] == expected.policy.container, "container")
    # 8. The measurements: the composite is of these components, they are the policy's, and each required one matches.
    digests = {name: str(digest) for name, digest in components.items()}
    require(claims["composite"] == composite(digests), "composite-inconsistent")
    require(digests.keys() == expected.policy.components.keys(), "composite", "not the policy's components")
    for name, wanted in expected.policy.components.items():
        require(not isinstance(wanted, Required) or digests.get(name) == wanted.sha256, "composite", name)
    # 9. No debugger: the observed values are compared here.
    observed = _object(antidebug, "observed")
    require(antidebug["enabled"] is True, "antidebug-disabled")
    require(antidebug["profile"] == expected.policy.antidebug_profile, "antidebug-downgrade", "profile")
    require(antidebug["version"] == expected.policy.antidebug_version, "antidebug-downgrade", "version")
    require(observed.keys() == ANTIDEBUG_STRICT.keys(), "antidebug-disabled", "other values observed than the profile's")
    require(canonical(observed) == canonical(ANTIDEBUG_STRICT), "antidebug-observed", _differing(observed))
    # 10. The claimed state is the state its journal replays to, and the journal does not go further.
    entries = replay(log, expected.nonce)
    require(state["name"] == STATE, "state", "name")
    require([entry.type for entry in entries] == list(STEPS_BEFORE_RELEASE), "state", "steps")
    require(entries[-1].body.get("composite") == claims["composite"], "state", "composite")
    require(state["head"] == head_of(log, expected.nonce), "state", "head")
    # 11. Two usable ephemeral keys.
    cnf = read_cnf(claims["cnf"])
    # 12. The other ranks of the leg, where it has more than one.
    appraise_ranks(claims, planned=expected.ranks)
    # 13. Memory that is never swapped out, where the policy requires it.
    require(memory["locked"] is True or not expected.policy.locked, "memory-unlocked")
    return cnf


def _typed(claims: Mapping[str, Json], shape: Mapping[str, type]) -> bool:
    # `cnf` has its own step and its own reason.
    return all(type(claims.get(name)) is kind for name, kind in shape.items() if name != "cnf")


def _exact(claims: Mapping[str, Json], shape: Mapping[str, type]) -> bool:
    return claims.keys() == shape.keys() and _typed(claims, shape)


def _object(claims: Mapping[str, Json], name: str) -> dict[str, Json]:
    value = claims[name]
    return value if isinstance(value, dict) else {}


def _number(claims: Mapping[str, Json], name: str) -> int:
    value = claims[name]
    return value if isinstance(value, int) else 0


def _differing(observed: Mapping[str, Json]) -> str:
    return ", ".join(sorted(name for name, value in observed.items() if ANTIDEBUG_STRICT.get(name) != value))
