"""The packages a guest needs beside its image's torch, as wheels pinned by hash.

A package that the image has in a new enough version is left alone. A missing one is fetched on the host by pip, checked
against the hashes below, copied, and checked again on the guest.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError, InfrastructureError
from pytest_glasshouse.wire.documentation import page

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: The oldest Python that the guest's code runs on.
OLDEST_PYTHON = (3, 11)

#: The oldest accepted version of each, as in `pyproject.toml`.
NEEDED = {"cryptography": "50", "joserfc": "1.8", "rfc8785": "0.1.4", "nvidia-ml-py": "13"}

#: Requirement and the SHA-256 of every wheel of it that a guest may install (CPython 3.11 to 3.14 on x86-64 Linux), with
#: the packages that these depend on.
PINNED: dict[str, tuple[str, ...]] = {
    "cryptography==50.0.2": ("4061c0079120205fb760c58acab6443e217307dcf05e3702cf970e0689972856",),
    "cffi==2.1.1": (
        "34e261f78cb6ceaaa36f42f2613f4380d94d9c759a9c73c769ee6e0247364632",
        "c1453022f490d2459a11819d83ad1d586e9ff65a12ac3e705ffebd46d3685dcf",
        "a931079504ecc49efed7744c476a5c343a92fabf66dec2db95edb1b2fdc770e2",
        "b0431303acaea1089ad4b3e9ce4e6518193def1118d4073ca848635ee4ea2e96",
    ),
    "pycparser==3.12": ("a076f3f489b39b43ed13563a1dafe42447445bec2e294154ec5c57fcdda4c85e",),
    "joserfc==1.8.0": ("176b836ac7ed9a46a88629e24076314b475f33a75d0bad7f26146e572eed7c79",),
    "rfc8785==0.1.4": ("520d690b448ecf0703691c76e1a34a24ddcd4fc5bc41d589cb7c58ec651bcd48",),
    "nvidia-ml-py==13.615.71": ("959bf4adf6fe1308e4bd739e722236b0d1ec8392e2cefad33ff70c311380b9b6",),
}
_FETCH_S = 600.0
_NEEDS = {"cryptography": ("cffi", "pycparser"), "joserfc": ("cryptography", "cffi", "pycparser")}
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel: file name, bytes, and their SHA-256 in hex."""

    name: str
    content: bytes
    sha256: str


def wheels(missing: Iterable[str], *, python: str, machine: str, directory: Path) -> tuple[Wheel, ...]:
    """Wheels of the `missing` packages for a guest with Python `python` ("3.12") on `machine`, fetched into `directory`.

    Raises `ConfigurationError` for a machine without pinned wheels, `InfrastructureError` when pip cannot fetch one.
    """
    wanted = sorted({name for one in missing for name in (one, *_NEEDS.get(one, ()))})
    if not wanted:
        return ()
    if machine != "x86_64":
        raise ConfigurationError(
            f"the image lacks {', '.join(wanted)}: expected x86_64, or an image that has them; saw {machine}. "
            f"See {page('guest-image')}"
        )
    requirements = directory / "requirements.txt"
    requirements.write_text("".join(_lines(wanted)), encoding="utf-8")
    fetched = directory / "wheels"
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    platforms = [part for platform in _PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", *options, *platforms, "--python-version", python]
    command += ["--requirement", str(requirements), "--dest", str(fetched)]
    try:
        done = subprocess.run(  # noqa: S603
            command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_FETCH_S
        )
    except subprocess.TimeoutExpired:
        raise InfrastructureError(
            f"expected pip to fetch what the image lacks ({', '.join(wanted)}) within {_FETCH_S:g} s; it did not. "
            "Check this machine's package index, or use an image that has them"
        ) from None
    if done.returncode != 0:
        raise InfrastructureError(
            f"pip could not fetch what the image lacks ({', '.join(wanted)}): {_last(done.stderr)}. "
            "Check this machine's package index, or use an image that has them"
        )
    return tuple(wheel_of(path) for path in sorted(fetched.glob("*.whl")))


def wheel_of(path: Path) -> Wheel:
    """A wheel on disk."""
    content = path.read_bytes()
    return Wheel(name=path.name, content=content, sha256=hashlib.sha256(content).hexdigest())


def _lines(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        pin = next(requirement for requirement in PINNED if requirement.partition("==")[0] == name)
        yield " ".join([pin, *(f"--hash=sha256:{digest}" for digest in PINNED[pin])]) + "\n"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
