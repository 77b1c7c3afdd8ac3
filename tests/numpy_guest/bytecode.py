"""Byte code that the first guest of a test run compiled is linked into the cache of later ones, which compile it no more.

The interpreter compares it with date and size of each source, as ever; compiler process, digest and both comparisons of the
cache stay. The first guest starts from an empty cache, and so do those of tests whose subject is that cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_glasshouse.providers.base import Instance
from pytest_glasshouse.providers.local_process import GuestProcesses
from pytest_glasshouse.providers.mock import MockProvider

#: A guest of which nothing is kept yet starts with another kind's, which imports a part of the same.
_PART_OF = {"lora": "torch"}
#: The root of what is kept while `kept_below` lasts; without it every guest compiles.
_root: Path | None = None


@contextmanager
def kept_below(folder: Path) -> Iterator[None]:
    """Keep byte code below `folder` meanwhile, and remove it afterwards. Several processes may share the folder."""
    global _root  # noqa: PLW0603  (a session's fixture sets it once)
    _root = folder
    try:
        yield
    finally:
        _root = None
        shutil.rmtree(folder, ignore_errors=True)


class _Guests(GuestProcesses):
    def __init__(self, kept: Path) -> None:
        super().__init__()
        self._kept = kept

    def start(self, name: str, archive: bytes, *, stalled: bool = False) -> Instance:
        instance = super().start(name, archive, stalled=stalled)
        # The host knows of no guest before this returns, so its compiler cannot have started.
        cache = self.get(instance.instance_id).directory / "bytecode"
        with contextlib.suppress(OSError):  # another process may be removing it: less is kept, then
            kept = self._kept if self._kept.exists() else self._kept.with_name(_PART_OF.get(self._kept.name, self._kept.name))
            _link_tree(kept, cache)
        return instance


def use_kept(provider: MockProvider, kind: str, *, below: Path | None = None) -> None:
    """Let guests of `provider` find what a guest of this kind compiled before them, in this process or, `below`, in another."""
    root = below or _root
    if root is not None:
        provider._guests = _Guests(root / kind)


def shared_folder(basetemp: Path) -> Path:
    """The folder to keep it below that all workers of a test run share, with this base directory of one of them."""
    return (basetemp.parent if "PYTEST_XDIST_WORKER" in os.environ else basetemp) / "bytecode"


def keep(cache: Path, kind: str) -> None:
    """Keep what the guest with this cache compiled, if nothing of its kind is kept yet. Its row went well."""
    if _root is None or (_root / kind).exists():
        return
    being_made = _root / f"{kind}-{os.getpid()}"
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
            shutil.copy2(folder / name, inside / name)
