"""Where a distribution was installed from (`direct_url.json`, PEP 610). Every member may be missing or of another type."""

from __future__ import annotations

from importlib import metadata

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, parse_object


def direct_url(distribution: str) -> dict[str, Json] | None:
    """The distribution's `direct_url.json`; empty where the installer left none. None for no distribution, or no JSON."""
    try:
        return parse_object(metadata.distribution(distribution).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, IntegrityError, OSError, ValueError):
        return None


def part(body: Json, name: str) -> dict[str, Json]:
    """An object inside an object; empty where it is none."""
    found = body.get(name) if isinstance(body, dict) else None
    return found if isinstance(found, dict) else {}
