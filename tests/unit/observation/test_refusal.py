"""A refusal names what the policy expected and what the evidence said, whoever wrote that evidence."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from pytest_glasshouse.observation.refusal import mismatches, refusal_text
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.evidence import ANTIDEBUG_STRICT

WANTED, OTHER = "a" * 64, "b" * 64


def notes(*, policy: Any = None, **claims: Any) -> Any:
    """A protected leg's notes: the owner's policy, and evidence that says this."""
    parts = [base64.urlsafe_b64encode(canonical(each)).decode().rstrip("=") for each in ({"alg": "EdDSA"}, claims)]
    usual = {
        "components": {"archive": {"required": WANTED}, "torch": {"recorded": True}},
        "container": "box",
        "antidebug": {"profile": "strict", "version": 1},
    }
    return {
        "policy": usual if policy is None else policy,
        "policySha256": WANTED,
        "plan": WANTED,
        "evidence": f"{parts[0]}.{parts[1]}.c2ln",
    }


def antidebug(**observed: Any) -> Any:
    return {"enabled": True, "profile": "strict", "version": 1, "observed": {**ANTIDEBUG_STRICT, **observed}}


CASES: list[tuple[str, Any, list[str]]] = [
    ("composite", notes(components={"archive": OTHER, "torch": OTHER}), ["component archive: expected aaaaaaaaaaaaaaaa..., saw bbbbbbbbbbbbbbbb..."]),
    ("composite", notes(components={"archive": WANTED}), ["component torch: expected a digest, saw none"]),
    ("composite", notes(components={"archive": WANTED, "torch": OTHER, "x": OTHER}), ["component x: expected no such component, saw one"]),
    ("container", notes(container="another"), ["container: expected box, saw another"]),
    ("antidebug-observed", notes(antidebug=antidebug(tracer_pid=7)), ["anti-debug tracer_pid: expected 0, saw 7"]),
    ("antidebug-observed", notes(antidebug=antidebug(dumpable=False)), ["anti-debug dumpable: expected 0, saw False"]),
    ("antidebug-downgrade", notes(antidebug={**antidebug(), "version": 0}), ["anti-debug version: expected 1, saw 0"]),
    ("antidebug-disabled", notes(antidebug={**antidebug(), "enabled": False}), ["anti-debug: expected enabled, saw disabled"]),
    ("memory-unlocked", notes(), ["memory: expected locked: never swapped out, saw not locked"]),
    ("plan", notes(plan=OTHER), ["plan: expected aaaaaaaaaaaaaaaa..., saw bbbbbbbbbbbbbbbb..."]),
    ("policy-binding", notes(policy=None, eat_profile="x"), ["policy: expected aaaaaaaaaaaaaaaa..., saw None"]),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "given", "expected"), CASES)
def test_refusal_names_component_expected_and_seen(reason: str, given: Any, expected: list[str]) -> None:
    assert [str(each) for each in mismatches(given, reason)] == expected
    assert refusal_text(given, reason) == f"{reason} ({'; '.join(expected)})"


def test_guest_that_is_another_one_altogether_takes_one_line() -> None:
    found = mismatches(notes(components={f"c{number}": OTHER for number in range(500)}), "composite")

    assert len(found) == 5
    assert found[-1].seen == "498 more"


@pytest.mark.parametrize("evidence", ["", "a.b.c", "\x1b", "x" * 10_000])
def test_evidence_that_is_none_leaves_the_reason_alone(evidence: str) -> None:
    assert refusal_text({"evidence": evidence}, "composite") == "composite"
    assert (
        refusal_text({"evidence": evidence}, "stale")
        == "stale (expected evidence made within the policy's freshness, saw older evidence)"
    )


@pytest.mark.parametrize("claims", [{"components": 3}, {"components": {"archive": {"a": 1}, "torch": None}}, {"antidebug": []}])
def test_evidence_of_another_shape_is_shown_as_far_as_it_goes(claims: Any) -> None:
    for reason in ("composite", "antidebug-observed", "container"):
        assert refusal_text(notes(**claims), reason).startswith(reason)


def test_words_of_a_guest_are_printable_and_short() -> None:
    (found,) = mismatches(notes(components={"archive": "\x1b[2J" * 100, "torch": OTHER}), "composite")

    assert "\x1b" not in found.seen
    assert len(found.seen) <= 81
