"""In what a policy asks for less than this project does. Knows policies and waivers as a report holds them.

A report follows from its own data whatever its policy let through, so this is a reader's question and not a fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.observation.reading import observed_rounds, protected_of
from pytest_glasshouse.wire.evidence import ANTIDEBUG_PROFILE, ANTIDEBUG_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: The guest's own code: what a policy must name to say anything at all.
_CODE = "archive"


def row_lenient(row: Mapping[str, Any]) -> list[str]:
    """Why a measured row's policy is lenient, each reason once; empty when it asks for all that this project asks for."""
    found = [f"waives {each['invariant']}: {each['reason']}" for each in row["waived"]]
    for observed in observed_rounds(row["observation"]):
        policy = protected_of(observed).get("policy")
        found += _policy_lenient(policy) if isinstance(policy, dict) else ["its policy is not in the report"]
    return list(dict.fromkeys(found))


def _policy_lenient(policy: Mapping[str, Any]) -> Iterator[str]:
    components = policy.get("components")
    code = components.get(_CODE) if isinstance(components, dict) else None
    if not isinstance(code, dict) or not isinstance(code.get("required"), str):
        yield "its policy does not require the guest's code to be known"
    antidebug = policy.get("antidebug")
    if isinstance(antidebug, dict):
        version = antidebug.get("version")
        if antidebug.get("profile") != ANTIDEBUG_PROFILE or not isinstance(version, int) or version < ANTIDEBUG_VERSION:
            yield "its policy accepts another anti-debug profile than this project's"
    limit = policy.get("release_limit")
    if isinstance(limit, int) and limit > 1:
        yield f"its policy lets a key be released {limit} times"
