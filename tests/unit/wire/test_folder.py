"""A directory that works, whatever the environment names."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_glasshouse.wire.folder import new_folder

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


def test_the_next_place_is_used_where_the_first_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python looks for its temporary directory once; a cleaner may remove it later."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    folder = new_folder("gh-")
    folder.rmdir()
    assert str(folder.parent) in {"/tmp", "/var/tmp", "/dev/shm"}


def test_the_reason_is_raised_where_no_folder_can_be_made() -> None:
    """The same in every place: a folder that does not exist is above it."""
    with pytest.raises(FileNotFoundError, match="missing/x"):
        new_folder("missing/x")
    with pytest.raises(OSError, match="short enough for a unix socket"):
        new_folder("x" * 80)


def test_the_environments_directories_are_tried_where_python_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the error, if there is one, is about the directory that the user named."""

    def found_none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", found_none)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as named:
        monkeypatch.setenv("TEMP", named)
        folder = new_folder("gh-")
        assert str(folder.parent) == named
