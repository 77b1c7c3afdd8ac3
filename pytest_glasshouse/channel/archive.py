"""The guest's code as one archive, built from this installation: the guest must run what the host hashed.

The bytes depend on the sources alone (sorted names, one fixed date, stored), so two hosts with the same
sources expect the same digest. Reference values never come from the guest that is judged.
"""

from __future__ import annotations

import importlib.resources
import io
import zipfile
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

#: The rooms a guest needs; the host's own rooms never travel.
ROOMS = ("agent", "guest", "wire", "workloads")

#: `__main__.py` of an honest guest's archive.
GUEST_MAIN = "import sys\n\nfrom pytest_glasshouse.agent.main import main\n\nsys.exit(main())\n"

_PACKAGE = "pytest_glasshouse"
_DATE = (1980, 1, 1, 0, 0, 0)


@cache
def guest_archive() -> bytes:
    """The archive every honest guest runs."""
    return archive_from(importlib.resources.files(_PACKAGE))


def archive_from(root: Traversable) -> bytes:
    """The same archive from another copy of this package, such as the one in a wheel."""
    return build_archive({"__main__.py": GUEST_MAIN.encode()}, root=root)


def build_archive(extra: Mapping[str, bytes], *, root: Traversable | None = None) -> bytes:
    """The guest's rooms and `extra` files (path in the archive to content) as one zip archive."""
    root = importlib.resources.files(_PACKAGE) if root is None else root
    files = {f"{_PACKAGE}/{name}": (root / name).read_bytes() for name in ("__init__.py", "errors.py")}
    for room in ROOMS:
        files.update(_below(root / room, f"{_PACKAGE}/{room}"))
    files.update(extra)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _DATE), files[name])
    return buffer.getvalue()


def _below(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _below(entry, name)
        elif not entry.name.endswith(".pyc"):
            yield name, entry.read_bytes()


def reference_source() -> str:
    """Where the guest archive's reference value comes from: `wheel`, or `checkout` for an editable install."""
    from pytest_glasshouse.wire.installed import direct_url, part

    source = direct_url("pytest-glasshouse")
    # An unreadable record may be of an editable install: only a known wheel may be published from.
    return "checkout" if source is None or part(source, "dir_info").get("editable") else "wheel"
