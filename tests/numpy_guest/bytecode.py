"""Byte code that one guest compiled is linked into the cache of later ones, which compile it no more: those of later runs too.

The interpreter compares it with date and size of each source, as ever; compiler process, digest and both comparisons of the
cache stay. Guests of tests whose subject is that cache, and all that are started without `use_kept`, begin with an empty one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_glasshouse.providers.base import Instance
from pytest_glasshouse.providers.local_process import GuestProcesses
from pytest_glasshouse.providers.mock import MockProvider

#: A guest of which nothing is kept yet starts with another kind's, which imports a part of the same.
_PART_OF = {"lora": "torch"}
#: The root of what is kept; without it every guest compiles.
_root: Path | None = None


def keep_below(folder: Path) -> Path:
    """Keep byte code in a folder below this one, which several processes may share, one after the other and at once.

    Returns that folder. What another installation compiled is removed.
    """
    global _root  # noqa: PLW0603  (a session's fixture sets it once)
    _root = folder / _installation()
    for each in folder.glob("*"):
        if each != _root:
            shutil.rmtree(each, ignore_errors=True)
    return _root


def keep_in_cache(config: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`keep_below` in pytest's cache, or in a temporary folder where it keeps none."""
    cache = getattr(config, "cache", None)
    return keep_below(tmp_path_factory.mktemp("bytecode") if cache is None else Path(cache.mkdir("guest-bytecode")))


def _installation() -> str:
    """A name for what is installed here: other versions compile other files."""
    records = sorted(Path(sysconfig.get_path("purelib")).glob("*.dist-info/RECORD"))
    dated = [f"{path} {path.stat().st_mtime_ns}" for path in records]
    return hashlib.sha256("\n".join([sys.version, *dated]).encode()).hexdigest()[:16]


class _Guests(GuestProcesses):
    def __init__(self, kept: Path) -> None:
        super().__init__()
        self._kept = kept

    def start(self, name: str, archive: bytes, *, stalled: bool = False) -> Instance:
        instance = super().start(name, archive, stalled=stalled)
        # The host knows of no guest before this returns, so its compiler cannot have started.
        cache = self.get(instance.instance_id).directory / "bytecode"
        give(cache, self._kept)
        return instance


def give(cache: Path, kept: Path) -> None:
    """Put what is `kept`, or else what another kind of guest compiled, into the cache of a guest, which compiles nothing yet."""
    with contextlib.suppress(OSError):  # another process may be removing it: less is kept, then
        _link_tree(kept if kept.exists() else kept.with_name(_PART_OF.get(kept.name, kept.name)), cache)


def use_kept(provider: MockProvider, kind: str, *, below: Path | None = None) -> None:
    """Let guests of `provider` find what a guest of this kind compiled before them; `below` is what `keep_below` returned.

    Without it, that is what it returned last in this process.
    """
    root = below or _root
    if root is not None:
        provider._guests = _Guests(root / kind)


def keep(cache: Path, kind: str) -> None:
    """Keep what the guest with this cache compiled, if nothing of its kind is kept yet. Its row went well."""
    if _root is None or (_root / kind).exists():
        return
    being_made = _root / f"{kind}-{secrets.token_hex(4)}"
    try:
        _link_tree(cache, being_made)
        being_made.rename(_root / kind)
    except OSError:  # another process was first, or the run is over
        shutil.rmtree(being_made, ignore_errors=True)


def _link_tree(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source):
        _link(Path(folder), names, target / Path(folder).relative_to(source))


def _link(folder: Path, names: Iterable[str], inside: Path) -> None:
    inside.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            os.link(folder / name, inside / name)
        except FileExistsError:  # the guest's agent was faster
            continue
        except OSError:  # on another file system
            if not (inside / name).exists():
                whole = inside / f".{name}.copied"
                shutil.copy2(folder / name, whole)
                whole.rename(inside / name)
