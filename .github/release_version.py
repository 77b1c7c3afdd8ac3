"""Refuses a release whose tag, version and changelog do not name the same one: `release_version.py v1.2.3`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def trouble(tag: str, *, root: Path = ROOT) -> str | None:
    """What keeps `tag` from being released, in one sentence; None where nothing does."""
    version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    if tag != f"v{version}":
        return f"the tag is {tag!r} and pyproject.toml has version {version!r}: expected the tag 'v{version}'"
    heading = re.search(rf"^## {re.escape(version)} \((.*)\)$", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    if heading is None:
        return f"CHANGELOG.md has no section '## {version} (date)'"
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", heading[1]):
        return f"CHANGELOG.md calls {version} {heading[1]!r}: expected the date of the release, as 2027-01-31"
    return None


if __name__ == "__main__":
    sys.exit(trouble(sys.argv[1]))
