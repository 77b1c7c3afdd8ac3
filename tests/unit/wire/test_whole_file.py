"""A file that a user names is written whole, keeps its type and mode, and is refused in time where it cannot be written."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire import whole_file
from pytest_glasshouse.wire.whole_file import is_passed_through, put, refuse_unwritable
from tests.ordinary_user import ordinary_user


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_is_there_whole_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path / "report.json", b"new")
    assert ((tmp_path / "report.json").read_bytes(), names(tmp_path)) == (b"new", ["report.json"])


def test_mode_of_a_new_file_is_the_callers_less_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        put(tmp_path / "a", b"")
        put(tmp_path / "b", b"", mode=0o600)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o640, 0o600]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_existing_file_keeps_its_mode_and_owner(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    before = path.stat()
    put(path, b"new", mode=0o644)
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_link_is_followed_and_stays_a_link(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    if there:
        target.write_bytes(b"old")
    link.symlink_to("far/target")
    (tmp_path / "link to link").symlink_to("link")
    put(tmp_path / "link to link", b"new")
    assert link.is_symlink()
    assert (tmp_path / "link to link").is_symlink()
    assert (target.read_bytes(), names(tmp_path / "far")) == (b"new", ["target"])


def test_pipe_is_written_through_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    put(pipe, b"x" * 200_000)
    reader.join()
    assert read == [b"x" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_device_behind_a_link_is_written_through(tmp_path: Path) -> None:
    link = tmp_path / "nowhere"
    link.symlink_to("/dev/null")
    refuse_unwritable(link, what="--out")
    put(link, b"gone")
    assert is_passed_through(link)
    assert link.is_symlink()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_descriptor_is_written_where_it_stands(tmp_path: Path) -> None:
    """Opened again, a file behind it would be written from its start, over earlier output."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"before ")
    put(Path(f"/dev/fd/{descriptor}"), b"report")
    os.write(descriptor, b" after")
    os.close(descriptor)
    assert path.read_bytes() == b"before report after"
    with pytest.raises(ConfigurationError, match="cannot be written"):
        refuse_unwritable(Path("/dev/fd/987654321"), what="--out")


def test_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(path, b"new")

    assert [(each.name, each.read_text("utf-8")) for each in tmp_path.iterdir()] == [("report.json", "old")]


def _loop(folder: Path) -> Path:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return folder / "a"


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"")
    return folder / "file" / "report.json"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "is a directory"),
        (lambda folder: folder / ("x" * 300), "File name too long"),
        (lambda folder: folder / ("y/" * 3000) / "z", "File name too long"),
        (lambda folder: folder / "missing" / "x", "No such file or directory"),
        (lambda folder: folder / "a\0b", "is no path"),
        (_loop, "symbolic links"),
        (_below_a_file, "Not a directory"),
    ],
    ids=["directory", "long name", "long path", "no parent", "no path", "loop", "below a file"],
)
def test_unwritable_path_is_an_error_of_one_line_and_leaves_nothing(tmp_path: Path, make: object, message: str) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    before = names(tmp_path)
    with pytest.raises(ConfigurationError, match=message) as caught:
        refuse_unwritable(path, what="--out")
    assert str(caught.value).startswith("--out: ")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


def test_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        with pytest.raises(ConfigurationError, match="neither a file nor a pipe"):
            refuse_unwritable(tmp_path / "s", what="--out")


def test_directory_that_may_not_be_written_is_refused_and_a_file_in_it_is_not() -> None:
    """The file is written in place, and shorter than before: nothing of the old content stays behind the new."""
    with ordinary_user() as folder:
        path = folder / "file"
        path.write_bytes(b"old content")
        before = path.stat()
        folder.chmod(0o555)
        with pytest.raises(ConfigurationError, match="Permission denied"):
            refuse_unwritable(folder / "new", what="--out")
        with pytest.raises(PermissionError):
            put(folder / "new", b"new")
        refuse_unwritable(path, what="--out")
        put(path, b"new")
        assert (path.read_bytes(), path.stat().st_ino, names(folder)) == (b"new", before.st_ino, ["file"])
        path.chmod(0o444)
        with pytest.raises(ConfigurationError, match="Permission denied"):
            refuse_unwritable(path, what="--out")
        with pytest.raises(PermissionError):
            put(path, b"newer")
        assert path.read_bytes() == b"new"


def test_pipe_that_may_not_be_written_is_refused() -> None:
    with ordinary_user() as folder:
        os.mkfifo(folder / "pipe", 0o400)
        with pytest.raises(ConfigurationError, match="Permission denied"):
            refuse_unwritable(folder / "pipe", what="--out")
        (folder / "pipe").chmod(0o600)
        refuse_unwritable(folder / "pipe", what="--out")


def test_descriptor_that_is_open_is_not_refused(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        refuse_unwritable(Path(f"/proc/self/fd/{log.fileno()}"), what="--out")
    assert names(tmp_path) == ["log"]


class Clock:
    """Time that passes only in `sleep`; `then` happens in the first."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.now, self._then = 0.0, [then]

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._then:
            self._then.pop()()


def test_fifo_that_nobody_reads_is_an_error_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run must not wait for ever with its report in hand."""
    clock = Clock()
    monkeypatch.setattr(whole_file, "time", clock)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        put(tmp_path / "pipe", b"report")
    assert 10 <= clock.now < 11
    assert names(tmp_path) == ["pipe"]


def test_fifo_whose_reader_comes_later_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[int] = []
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(
        whole_file, "time", Clock(lambda: readers.append(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)))
    )
    put(tmp_path / "pipe", b"report")
    (reader,) = readers
    assert os.read(reader, 100) == b"report"
    os.close(reader)


def test_fifo_that_may_not_be_opened_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a reader that may still come is waited for."""
    clock = Clock()
    monkeypatch.setattr(whole_file, "time", clock)
    with ordinary_user() as folder:
        os.mkfifo(folder / "pipe", 0o400)
        with pytest.raises(PermissionError):
            put(folder / "pipe", b"report")
    assert clock.now == 0
