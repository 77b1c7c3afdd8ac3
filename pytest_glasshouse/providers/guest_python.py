"""What a guest on this machine will run with: the folders its packages are imported from, and the device it trains on.

A guest's interpreter starts with `-I -S` and sees only the folders that it is given, so they are found here: those that this
process imports a guest's packages from, wherever `pip --target`, `--user` or `--system-site-packages` put them. Which device it
will have is asked in a process that starts as the guest will.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.guest.machine import Device, find_device
from pytest_glasshouse.guest.nvml import Nvml
from pytest_glasshouse.guest.torch_probe import NEEDED, TRAINING, TorchAnswer, ask_torch

#: By the name of their distribution, which a requirement names.
_ROOTS = ("cryptography", "joserfc", "rfc8785", "safetensors", "numpy", "nvidia-ml-py", "torch", "transformers", "peft")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def guest_folders() -> tuple[str, ...]:
    """The folders a guest imports from, in the order in which this process searches them.

    Its own purelib and platlib, and every other folder that one of a guest's packages, or a package that one of these requires,
    is imported from here.
    """
    return _folders_of(tuple(sys.path))


@cache
def _folders_of(path: tuple[str, ...]) -> tuple[str, ...]:
    own = [os.path.realpath(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
    used = {*own, *_imported_from((*NEEDED, *TRAINING))}
    others = [Path(each) for each in path if os.path.realpath(each) not in used and Path(each).is_dir()]
    if any(entry.name.endswith((".dist-info", ".egg-info")) for each in others for entry in each.iterdir()):
        used |= {*_installed_in(_ROOTS)}
    given = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    return tuple(dict.fromkeys(str(Path.cwd() / each) for each in (*path, *given) if each and os.path.realpath(each) in used))


def _imported_from(modules: Iterable[str]) -> Iterable[str]:
    for name in modules:
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # imported, and without a record of where from
            continue
        if spec is not None and spec.origin is not None:
            here = Path(spec.origin)
            yield os.path.realpath(here.parent.parent if spec.submodule_search_locations is not None else here.parent)


def _installed_in(roots: Iterable[str]) -> Iterable[str]:
    """The folders of these distributions and of all that they require, as far as they are installed."""
    pending, seen = [*roots], set[str]()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield os.path.realpath(str(found.locate_file("")))
        wanted = (each for each in found.requires or () if "extra ==" not in each)
        pending += [match[0] for each in wanted if (match := _NAME.match(each)) is not None]


def check_imports(folders: Sequence[str]) -> None:
    """Raise `ConfigurationError` for a package that a guest with these folders cannot import. Imports nothing."""
    missing = [name for name in NEEDED if PathFinder.find_spec(name, [*folders]) is None]
    if missing:
        raise ConfigurationError(
            f"a guest on this machine cannot import {', '.join(missing)} from {len(folders)} folders of packages; install "
            "pytest-glasshouse and what it needs into one environment. Nothing was started"
        )


def ask_here(archive: bytes, folders: Sequence[str]) -> TorchAnswer:
    """What a guest with this archive will find. Raises `ProbeFailedError`."""
    descriptor = os.memfd_create("glasshouse-guest")
    with os.fdopen(descriptor, "wb") as file:
        file.write(archive)
        file.flush()
        return ask_torch(archive_fd=descriptor, site_packages=folders, environ=guest_variables())


@cache
def device_here(archive: bytes, folders: tuple[str, ...]) -> Device:
    """The device that a guest with this archive will train on. Asked once: it takes as long as importing torch."""
    nvml = Nvml()
    try:
        return find_device(nvml, lambda: ask_here(archive, folders), os.environ)
    finally:
        nvml.close()


def guest_variables() -> dict[str, str]:
    """The variables of this process by which a guest finds its GPU."""
    from pytest_glasshouse.channel.pod_install import device_environment

    return device_environment(os.environ)
