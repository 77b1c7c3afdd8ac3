"""The owner's policy: what evidence must show before a key is released.

Knows reference values and limits. Refuses to take them from the guest that is judged, and to change: a policy is identified
by its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.wire.canonical import Json, canonical, is_sha256, tagged
from pytest_glasshouse.wire.evidence import ANTIDEBUG_PROFILE, ANTIDEBUG_VERSION, EAT_PROFILE
from pytest_glasshouse.wire.tokens import expect

_SHAPE: dict[str, type] = {
    "format": str, "name": str, "version": int, "eat_profile": str, "components": dict, "container": str,
    "antidebug": dict, "manifest_version": int, "release_limit": int, "freshness_s": int, "completion_s": int,
}  # fmt: skip
#: Sections that a policy has only when they require something.
_OPTIONAL = {"hardware", "locked"}
_ANTIDEBUG_SHAPE: dict[str, type] = {"profile": str, "version": int}
FORMAT = "glasshouse-policy/1"


@dataclass(frozen=True, kw_only=True)
class Required:
    """A component that must have this digest. `None` is a missing reference value and matches nothing."""

    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A component that must be reported, with any digest."""


Component = Required | Recorded


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One version of a named policy. `version` may only grow, `manifest_version` is the least accepted.

    `locked` requires that the package is opened into memory that is never swapped out.
    """

    name: str
    version: int
    components: Mapping[str, Component]
    container: str
    manifest_version: int = 1
    release_limit: int = 1
    freshness_s: int = 60
    completion_s: int = 3600
    eat_profile: str = EAT_PROFILE
    antidebug_profile: str = ANTIDEBUG_PROFILE
    antidebug_version: int = field(default=ANTIDEBUG_VERSION)
    hardware: Hardware | None = None
    locked: bool = False

    def to_json(self) -> dict[str, Json]:
        """The policy as it is registered and hashed."""
        components: dict[str, Json] = {
            name: {"required": item.sha256} if isinstance(item, Required) else {"recorded": True}
            for name, item in self.components.items()
        }
        # A policy without requirements on hardware or memory has no such section, so that its digest stays the same.
        hardware: dict[str, Json] = {} if self.hardware is None else {"hardware": self.hardware.to_json()}
        locked: dict[str, Json] = {"locked": True} if self.locked else {}
        return {
            **hardware,
            **locked,
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "eat_profile": self.eat_profile,
            "components": components,
            "container": self.container,
            "antidebug": {"profile": self.antidebug_profile, "version": self.antidebug_version},
            "manifest_version": self.manifest_version,
            "release_limit": self.release_limit,
            "freshness_s": self.freshness_s,
            "completion_s": self.completion_s,
        }

    @classmethod
    def from_json(cls, value: Json) -> Policy:
        """The policy `to_json` wrote. Raises `IntegrityError("policy")`."""
        if not isinstance(value, dict):
            raise IntegrityError("policy", "not an object")
        try:
            return cls._read(value)
        except IntegrityError as error:
            raise IntegrityError("policy", error.detail) from None

    @classmethod
    def _read(cls, value: dict[str, Json]) -> Policy:
        hardware = Hardware.from_json(value["hardware"]) if "hardware" in value else None
        if value.get("locked", True) is not True:
            raise IntegrityError("policy", "locked: expected true, or no such member")
        expect({name: item for name, item in value.items() if name not in _OPTIONAL}, _SHAPE)
        antidebug, components = value["antidebug"], value["components"]
        assert isinstance(antidebug, dict)  # noqa: S101  (checked by expect; for the type checker)
        assert isinstance(components, dict)  # noqa: S101
        expect(antidebug, _ANTIDEBUG_SHAPE)
        numbers = {name: value[name] for name in _SHAPE if _SHAPE[name] is int}
        if value["format"] != FORMAT or not components or any(not isinstance(n, int) or n < 1 for n in numbers.values()):
            raise IntegrityError("policy", "format, components or a limit below 1")
        return cls(
            name=str(value["name"]),
            components={name: _component(name, item) for name, item in components.items()},
            container=str(value["container"]),
            eat_profile=str(value["eat_profile"]),
            antidebug_profile=str(antidebug["profile"]),
            antidebug_version=int(str(antidebug["version"])),
            hardware=hardware,
            locked="locked" in value,
            **{name: int(str(number)) for name, number in numbers.items()},
        )

    @cached_property
    def sha256(self) -> str:
        """The digest that identifies this policy."""
        return tagged("glasshouse-policy/1", canonical(self.to_json()))


def _component(name: str, item: Json) -> Component:
    if item == {"recorded": True}:
        return Recorded()
    if isinstance(item, dict) and item.keys() == {"required"}:
        digest = item["required"]
        if digest is None or (isinstance(digest, str) and is_sha256(digest)):
            return Required(sha256=digest)
    raise IntegrityError("policy", f"component {name}")
