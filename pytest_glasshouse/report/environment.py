"""The host and the subject of a run. No host name, no user and no path: reports are published."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.wire.canonical import is_sha256
from pytest_glasshouse.wire.installed import direct_url, part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_glasshouse.report.fields import Environment, GeneratedBy, Subject

_PACKAGES = (
    "pytest-glasshouse", "pytest", "pytest-xdist", "cryptography", "joserfc", "rfc8785", "jsonschema", "scipy", "numpy",
    "safetensors", "torch", "transformers", "peft",
)  # fmt: skip

#: Where the user's own git settings are. Every other variable named GIT_* selects a repository or changes how it is read.
_GIT_SETTINGS = frozenset({"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"})


def host_environment() -> Environment:
    """Interpreter, system, processor count and the versions of the packages that took part."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpuCount": os.cpu_count(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def generated_by() -> GeneratedBy:
    """The program that made the report."""
    return {"name": "pytest-glasshouse", "version": _version("pytest-glasshouse") or "unknown"}


def subject(directory: str | os.PathLike[str], *, name: str | None = None, version: str | None = None) -> Subject:
    """What the run judges: by default this project as installed, at the commit of `directory` where that is a git tree."""
    commit = _git(directory, "rev-parse", "HEAD")
    status = None if commit is None else _git(directory, "status", "--porcelain", "--untracked-files=no")
    distribution = name or "pytest-glasshouse"
    return {
        "name": distribution,
        "version": version or _version(distribution),
        "wheelSha256": _wheel(distribution),
        "gitCommit": commit,
        "dirty": None if status is None else bool(status),
    }


def uncommitted_tests(directory: str | os.PathLike[str], files: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Test files, and conftest.py files above them, that lie in the git tree of `directory` and are not tracked by it.

    No commit names what ran from such a file, however clean git finds the rest. Where git cannot list them, every one of them
    counts. Files outside the tree, and other untracked files in it, do not count.
    """
    top = _git(directory, "rev-parse", "--show-toplevel")
    if top is None:
        return ()
    root = Path(top).resolve()
    # Git tracks a link, not its target.
    tests = {Path(file).parent.resolve() / Path(file).name for file in files}
    inside = {file for file in tests if file.is_relative_to(root)}
    above = {folder / "conftest.py" for file in inside for folder in file.parents if folder.is_relative_to(root)}
    listed = _git(root, "ls-files", "-z", "--recurse-submodules")
    tracked = set() if listed is None else set(listed.split("\0"))
    ran = {file.relative_to(root).as_posix() for file in inside | {each for each in above if each.is_file()}}
    return tuple(sorted(ran - tracked))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _wheel(name: str) -> str | None:
    """The digest of the file the distribution was installed from, where the installer recorded it (PEP 610)."""
    digest = part(part(direct_url(name), "archive_info"), "hashes").get("sha256")
    return digest if isinstance(digest, str) and is_sha256(digest) else None


def _git(directory: str | os.PathLike[str], *arguments: str) -> str | None:
    # A git hook's variables name its own repository; here `directory` selects it. Only reading, without a daemon.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _GIT_SETTINGS}
    environ |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-c", "core.fsmonitor=false", "-C", os.fspath(directory), *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=10,
            check=False,
            env=environ,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
