"""Reads a leg's files once before it starts, so that every leg finds them in the page cache, whichever runs first.

Building the byte-code cache has read what both legs import; the base model's files remain.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json

_BUFFER_BYTES = 1 << 22


def warm_page_cache(directory: str | None) -> dict[str, Json]:
    """Read every file below `directory`; the counts for the report. Without a base model there is nothing to read."""
    files = sorted(path for path in Path(directory).rglob("*") if path.is_file()) if directory else []
    total = 0
    buffer = bytearray(_BUFFER_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return {"state": "pre-read", "files": len(files), "bytes": total}
