"""Reads a leg's files once before it starts, so that every leg finds them in the page cache, whichever runs first.

Building the byte-code cache has read what both legs import; the base model's files remain.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.workloads.model_files import covered_files

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import BasePlan

_BUFFER_BYTES = 1 << 22


def warm_page_cache(base: BasePlan | None) -> dict[str, Json]:
    """Read every file that loading a base model reads; the counts for the report. One in memory, or none, needs nothing."""
    directory = None if base is None else base.get("directory")
    files = covered_files(Path(directory)) if directory else []
    total = 0
    buffer = bytearray(_BUFFER_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return {"state": "pre-read", "files": len(files), "bytes": total}
