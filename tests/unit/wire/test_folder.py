"""A directory that works, whatever the environment names."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

MAKE = "from pytest_glasshouse.wire.folder import new_folder; import os; print(ascii(os.fsencode(new_folder('gh-'))))"


def made(temporary: bytes | str, *, before: str = "") -> Path:
    """What a process with this TMPDIR makes; removed again."""
    result = subprocess.run(
        [sys.executable, "-c", before + MAKE], env={**os.environb, b"TMPDIR": os.fsencode(temporary)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    path = Path(os.fsdecode(eval(result.stdout)))  # noqa: S307  (our own process's bytes)
    path.rmdir()
    return path


@pytest.mark.parametrize("name", ["plain", "with space", "100%h", "naïve-☃", "'\"$(x)"])
def test_the_temporary_directory_is_used_where_it_fits(name: str, tmp_path: Path) -> None:
    folder = Path("/tmp") / f"t-{os.getpid()}{name}"
    folder.mkdir()
    try:
        assert made(str(folder)).parent == folder
    finally:
        folder.rmdir()


@pytest.mark.parametrize(
    "name",
    [b"x" * 90, "ü".encode() * 50, b"no-text-\xff\xfe", b"missing/deeper"],
    ids=["long", "long in bytes", "no text", "missing"],
)
def test_another_directory_is_used_where_it_does_not_fit(name: bytes, tmp_path: Path) -> None:
    """A guest's and a tool's socket must fit, and every program must be able to name it."""
    folder = os.fsencode(tmp_path) + b"/" + name
    if b"missing" not in name:
        os.mkdir(folder)  # noqa: PTH102  (bytes)
    path = made(folder)
    assert os.fsencode(path.parent) != folder
    with socket.socket(socket.AF_UNIX) as listener:
        path.mkdir()
        listener.bind(str(path / "agent.sock.new"))
        (path / "agent.sock.new").unlink()
        path.rmdir()


def test_its_owner_may_use_it_whatever_the_umask_is(tmp_path: Path) -> None:
    keep = MAKE.replace("print(", "p = new_folder('gh-'); print(oct(p.stat().st_mode)); p.rmdir(); (lambda _: 0)(")
    result = subprocess.run(
        [sys.executable, "-c", f"import os; os.umask(0o777); {keep}"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert stat.S_IMODE(int(result.stdout, 8)) == 0o700
