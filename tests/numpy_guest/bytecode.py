"""Byte code that installing the libraries left beside them is linked into the caches of guests, which compile it no more.

The interpreter compares it with date and size of each source, as ever; compiler process, digest and both comparisons of the
cache stay. Guests of tests whose subject is that cache, and all that are started without `use_kept`, begin with an empty one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_glasshouse.providers.base import Instance
from pytest_glasshouse.providers.local_process import GuestProcesses
from pytest_glasshouse.providers.mock import MockProvider
from tests.limits import HANG_S

ROOT = Path(__file__).parents[2]
#: What processes of a guest of this kind import: agent, compiler and legs. It prints each source, and the byte code beside it.
_IMPORT = """
import importlib.machinery, importlib.util, os, sys
root, kind = sys.argv[1:]
loader, sources = importlib.machinery.SourceFileLoader, set()
sources.update(spec.origin for module in list(sys.modules.values()) if (spec := module.__spec__) and spec.cached)
honest = loader.get_code

def get_code(self, name):
    sources.add(self.path)
    return honest(self, name)

loader.get_code = get_code
sys.path.insert(0, root)
import pytest_glasshouse.agent.agent, pytest_glasshouse.agent.main, pytest_glasshouse.guest.leg_main, pytest_glasshouse.guest.training
import numpy.random, pynvml, safetensors.numpy
if kind == "numpy":
    pytest_glasshouse.guest.training._IMPORTS["mlp"] = ("numpy",)
pytest_glasshouse.agent.main.main(["compile", "--workload", "lora" if kind == "lora" else "mlp"])
for source in sources:
    compiled = importlib.util.cache_from_source(source)
    if os.path.exists(compiled):
        print(os.path.dirname(source), compiled, sep="\\t")
"""
#: The root of what is kept; without it every guest compiles.
_root: Path | None = None


def keep_below(folder: Path) -> Path:
    """Keep byte code in a folder below this one, which several processes may share, one after the other and at once.

    Returns that folder. What is kept of another installation is removed.
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
    return keep_below(tmp_path_factory.mktemp("bytecode") if cache is None else Path(cache.mkdir("library-bytecode")))


def _installation() -> str:
    """A name for what is installed here: other versions compile other files."""
    records = sorted(Path(sysconfig.get_path("purelib")).glob("*.dist-info/RECORD"))
    dated = [f"{path} {path.stat().st_mtime_ns}" for path in records]
    return hashlib.sha256("\n".join([sys.version, *dated]).encode()).hexdigest()[:16]


class _Guests(GuestProcesses):
    def __init__(self, given: Path) -> None:
        super().__init__()
        self._given = given

    def start(self, name: str, archive: bytes, *, stalled: bool = False) -> Instance:
        instance = super().start(name, archive, stalled=stalled)
        # The host knows of no guest before this returns, so its compiler cannot have started.
        cache = self.get(instance.instance_id).directory / "bytecode"
        give(cache, self._given)
        return instance


def give(cache: Path, given: Path) -> None:
    """Link what is kept in the folder `given` into the cache of a guest, which compiles nothing yet."""
    _link_tree(given, cache)


def use_kept(provider: MockProvider, kind: str, *, below: Path | None = None) -> None:
    """Let guests of `provider` find compiled what guests of this kind import; `below` is what `keep_below` returned.

    Without it, that is what it returned last in this process.
    """
    root = below or _root
    if root is not None:
        provider._guests = _Guests(kept(root, kind))


def kept(root: Path, kind: str) -> Path:
    """What guests of this kind import (`numpy`, `torch`, `lora`), as the installation compiled it; made by whoever comes first."""
    folder = root / kind
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        being_made = root / f"{kind}.new"
        shutil.rmtree(being_made, ignore_errors=True)
        being_made.mkdir()
        command = [sys.executable, "-I", "-c", _IMPORT, str(ROOT), kind]
        listed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_S)
        assert listed.returncode == 0, listed.stderr
        for source, compiled in (line.split("\t") for line in listed.stdout.splitlines()):
            path = Path(compiled)
            _link(path.parent, [path.name], being_made / source.lstrip("/"))
        being_made.rename(folder)
    return folder


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
