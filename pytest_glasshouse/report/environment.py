"""What the host was and what the run judges. No host name, no user, no path: a report is for strangers."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from pytest_glasshouse.wire.canonical import is_sha256

_PACKAGES = (
    "pytest-glasshouse", "pytest", "pytest-xdist", "cryptography", "joserfc", "rfc8785", "jsonschema", "scipy", "numpy",
    "safetensors", "torch", "transformers", "peft",
)  # fmt: skip


def host_environment() -> dict[str, Any]:
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


def generated_by() -> dict[str, str]:
    """The maker of the report, as it names itself."""
    return {"name": "pytest-glasshouse", "version": _version("pytest-glasshouse") or "unknown"}


def subject(directory: str | os.PathLike[str], *, name: str | None = None, version: str | None = None) -> dict[str, Any]:
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


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _wheel(name: str) -> str | None:
    """The digest of the file the distribution was installed from, where the installer left word of it (PEP 610)."""
    try:
        told = json.loads(metadata.distribution(name).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    archive = told.get("archive_info") if isinstance(told, dict) else None
    digest = archive.get("hashes", {}).get("sha256") if isinstance(archive, dict) else None
    return digest if isinstance(digest, str) and is_sha256(digest) else None


def _git(directory: str | os.PathLike[str], *arguments: str) -> str | None:
    command = ["git", "-C", os.fspath(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
