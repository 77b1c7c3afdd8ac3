"""A policy is named by its content, and reads back to what it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.owner.policy import Policy, Recorded, Required
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.wire.canonical import Json, sha256_hex

POLICY = Policy(
    name="n",
    version=2,
    components={"a": Required(sha256=sha256_hex(b"a")), "b": Recorded(), "c": Required(sha256=None)},
    container="c",
)


def test_a_policy_reads_back() -> None:
    assert Policy.from_json(POLICY.to_json()) == POLICY
    assert Policy.from_json(POLICY.to_json()).sha256 == POLICY.sha256


def test_a_policy_with_a_hardware_section_reads_back_too() -> None:
    asking = dataclasses.replace(POLICY, hardware=Hardware(required=("tdx",)))
    assert Policy.from_json(asking.to_json()) == asking
    assert "hardware" not in POLICY.to_json()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Policy)])
def test_every_field_is_part_of_the_policys_digest(field: str) -> None:
    """A field that could change unnoticed would be no policy."""
    value = getattr(POLICY, field)
    others: dict[str, Any] = {"components": {"a": Recorded()}, "hardware": Hardware(required=("tdx",))}
    other: Any = value + 1 if isinstance(value, int) else others.get(field, "other")
    assert dataclasses.replace(POLICY, **{field: other}).sha256 != POLICY.sha256


@pytest.mark.parametrize(
    "change",
    [
        {"format": "glasshouse-policy/0"},
        {"components": {}},
        {"components": {"a": {}}},
        {"components": {"a": {"required": "abc"}}},
        {"components": {"a": {"required": sha256_hex(b"").upper()}}},
        {"components": {"a": {"recorded": False}}},
        {"components": {"a": {"required": sha256_hex(b""), "recorded": True}}},
        {"release_limit": 0},
        {"freshness_s": -1},
        {"version": True},
        {"antidebug": {"profile": "strict"}},
        {"antidebug": {"profile": "strict", "version": "1"}},
        {"more": 1},
        {"hardware": None},
        {"hardware": {"required": []}},
    ],
    ids=str,
)
def test_an_invalid_policy_is_refused(change: dict[str, Json]) -> None:
    with pytest.raises(IntegrityError) as caught:
        Policy.from_json({**POLICY.to_json(), **change})
    assert caught.value.reason == "policy"


def test_json_that_is_no_object_is_no_policy() -> None:
    with pytest.raises(IntegrityError):
        Policy.from_json([])
