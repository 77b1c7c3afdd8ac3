"""The lock of a GPU that several users share: one holder at a time, also while its file is removed and made again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_glasshouse.channel.host_lock import DIRECTORY, GpuLock


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    return tmp_path


def test_one_that_is_held_is_not_taken_and_shows_its_holder() -> None:
    first, second = GpuLock("g"), GpuLock("g")
    assert first.take("glasshouse-run-1-1700000000")
    assert not second.take("other")
    holder = second.holder()
    assert holder is not None
    assert holder["name"] == "glasshouse-run-1-1700000000"
    first.release()
    assert second.holder() is None
    assert second.take("other")
    second.release()


def test_two_gpus_have_two_locks() -> None:
    first, second = GpuLock("a"), GpuLock("b")
    assert (first.take("x"), second.take("y")) == (True, True)
    first.release()
    second.release()


def test_nothing_is_left_of_a_lock_that_was_freed(own_directory: Path) -> None:
    lock = GpuLock("g")
    assert lock.take("x")
    lock.release()
    assert list(own_directory.iterdir()) == []


def test_file_can_be_taken_over_by_any_user_whatever_the_umask(own_directory: Path) -> None:
    """A keeper that was killed leaves its file."""
    before = os.umask(0o077)
    try:
        lock = GpuLock("g")
        assert lock.take("x")
    finally:
        os.umask(before)
    (path,) = own_directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o666
    lock.release()


def test_link_in_place_of_the_file_is_not_followed(own_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Anybody can put one there: what it leads to must not be emptied."""
    target = tmp_path_factory.mktemp("elsewhere") / "precious"
    target.write_text("precious")
    lock = GpuLock("g")
    Path(lock.path).symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        lock.take("x")
    assert target.read_text() == "precious"


class Late(GpuLock):
    """Between opening the file and locking it, its holder frees it and somebody else takes it."""

    def __init__(self, gpu: str, holder: GpuLock, other: GpuLock) -> None:
        super().__init__(gpu)
        self._meanwhile = [holder, other]

    def open_file(self) -> int:
        file = super().open_file()
        if self._meanwhile:
            holder, other = self._meanwhile
            self._meanwhile = []
            holder.release()
            assert other.take("other")
        return file


def test_file_that_was_removed_meanwhile_is_no_lock() -> None:
    """Its holder removes the file: who had opened it before must not take what nobody can see any more."""
    holder, other = GpuLock("g"), GpuLock("g")
    assert holder.take("x")
    late = Late("g", holder, other)
    assert not late.take("late")
    other.release()
    assert late.take("late")
    late.release()
