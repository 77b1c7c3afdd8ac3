"""Appraises evidence: the numbered steps between a validly signed token and an affirming result (RFC 9334, Verifier).

Knows what evidence must say, and says which step it failed. Refuses to know keys or to release anything. Every step is a
`need`: the tamper suite removes them one at a time and some case must notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_glasshouse.attestation.messages import need
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
    """What this session's evidence must agree with. Nothing in it comes from the guest but the nonce's own `plan`."""

    iss: str
    sub: str
    aud: str
    nonce: str
    plan: str
    policy: Policy
    manifest: str
    manifest_version: int


def appraise(claims: Mapping[str, Json], log: Sequence[str], *, expected: Expected, now: int) -> Cnf:
    """The keys the evidence vouches for, when every step holds. Raises `RefusedError` or `IntegrityError` otherwise.

    The caller has checked the signature and spent the nonce.
    """
    # 1. Exactly the claims of the profile. `submods` may be there: `trust.hardware` judges it, and whether it must be.
    need(claims.keys() - {"submods"} == EVIDENCE_SHAPE.keys(), "claims-set")
    # 2. From this key, about this session, for this server. Equality, so a list that contains us is not us.
    need(claims["iss"] == expected.iss, "jwt-claims", "iss")
    need(claims["sub"] == expected.sub, "jwt-claims", "sub")
    need(claims["aud"] == expected.aud, "jwt-claims", "aud")
    # 3. Exactly their types: `True` is not 1, "1" is not 1.
    need(_typed(claims, EVIDENCE_SHAPE), "claims-type")
    antidebug, state, components = _object(claims, "antidebug"), _object(claims, "state"), _object(claims, "components")
    need(_exact(antidebug, ANTIDEBUG_SHAPE), "claims-type", "antidebug")
    need(_exact(state, STATE_SHAPE), "claims-type", "state")
    memory = _object(claims, "memory")
    need(_exact(memory, MEMORY_SHAPE), "claims-type", "memory")
    need(all(is_sha256(digest) for digest in components.values()), "claims-type", "components")
    # 4. Fresh: the nonce says so first, the time second.
    iat, exp = _number(claims, "iat"), _number(claims, "exp")
    need(iat <= now + FRESHNESS_AHEAD_S, "future")
    need(iat >= now - expected.policy.freshness_s, "stale")
    need(exp > now, "lifetime", "expired")
    need(exp - iat <= EVIDENCE_LIFETIME_S, "lifetime", "too long")
    # 5. Made for this policy, and for the plan the challenge was asked for.
    need(claims["eat_profile"] == expected.policy.eat_profile, "policy-binding", "eat_profile")
    need(claims["policy"] == expected.policy.sha256, "policy-binding", "policy")
    need(claims["plan"] == expected.plan, "plan")
    # 6. The package this grant is about, in the version that was registered.
    need(claims["manifest"] == expected.manifest, "manifest")
    need(claims["manifest_version"] == expected.manifest_version, "manifest-version")
    # 7. The container the policy names.
    need(claims["container"] == expected.policy.container, "container")
    # 8. What was measured: the digest is of these components, these are the policy's, and each is what it must be.
    digests = {name: str(digest) for name, digest in components.items()}
    need(claims["composite"] == composite(digests), "composite-inconsistent")
    need(digests.keys() == expected.policy.components.keys(), "composite", "other components than the policy's")
    for name, wanted in expected.policy.components.items():
        need(not isinstance(wanted, Required) or digests.get(name) == wanted.sha256, "composite", name)
    # 9. Nobody is watching: observed values, compared here.
    observed = _object(antidebug, "observed")
    need(antidebug["enabled"] is True, "antidebug-disabled")
    need(antidebug["profile"] == expected.policy.antidebug_profile, "antidebug-downgrade", "profile")
    need(antidebug["version"] == expected.policy.antidebug_version, "antidebug-downgrade", "version")
    need(observed.keys() == ANTIDEBUG_STRICT.keys(), "antidebug-disabled", "other values observed than the profile's")
    need(canonical(observed) == canonical(ANTIDEBUG_STRICT), "antidebug-observed", _differing(observed))
    # 10. The state it claims is the state its journal replays to, and the journal is not past it.
    entries = replay(log, expected.nonce)
    need(state["name"] == STATE, "state", "name")
    need([entry.type for entry in entries] == list(STEPS_BEFORE_RELEASE), "state", "steps")
    need(entries[-1].body.get("composite") == claims["composite"], "state", "composite")
    need(state["head"] == head_of(log, expected.nonce), "state", "head")
    # 11. Two keys that can be used.
    cnf = read_cnf(claims["cnf"])
    # 12. Memory that is never swapped out, where the policy asks for it.
    need(memory["locked"] is True or not expected.policy.locked, "memory-unlocked")
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
