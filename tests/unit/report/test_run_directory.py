"""A run directory holds what this account's run wrote, or it is refused: nothing else in it is signed for later."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.report.run_directory import (
    FILE_LIMIT,
    QUARANTINE,
    ForeignError,
    check_run_directory,
    private_directory,
    read_run_file,
    read_unverified,
)


def test_run_directory_is_made_with_what_is_above_it_and_is_its_owners_alone(tmp_path: Path) -> None:
    made = private_directory(tmp_path / "reports" / "id.run")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o755)
    assert stat.S_IMODE(private_directory(made).stat().st_mode) == 0o700
    assert check_run_directory(made) == made.resolve()


def _file(path: Path) -> None:
    path.write_bytes(b"")


def _link_to_a_directory(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [(_file, "expected a directory, or nothing; saw something else"), (_link_to_a_directory, "expected a directory of yours")],
)
def test_run_directory_is_not_made_where_something_else_is(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    """A link would have the run write where somebody else said."""
    make(tmp_path / "id.run")
    with pytest.raises(ConfigurationError, match=message):
        private_directory(tmp_path / "id.run")


def _nothing(_path: Path) -> None:
    pass


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _open_to_others(path: Path) -> None:
    path.mkdir(mode=0o755)


def _with_a_link_inside(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / QUARANTINE).mkdir()
    (path / QUARANTINE / "report.json").symlink_to("/etc/hostname")


def _with_a_hard_link_inside(path: Path) -> None:
    path.mkdir(mode=0o700)
    _file(path.with_name("target"))
    os.link(path.with_name("target"), path / "rows.jsonl")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_nothing, "expected a run directory, saw none"),
        (_loop, "expected a run directory, saw none"),
        (_file, "expected a run directory, saw no directory"),
        (_open_to_others, "saw one that others may change"),
        (_with_a_link_inside, "expected a file of yours that others may not write to, and no link"),
        (_with_a_hard_link_inside, "expected a file of yours that others may not write to, and no link"),
    ],
)
def test_what_is_no_run_directory_of_this_account_is_refused(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "id.run")
    with pytest.raises(ForeignError, match=message):
        check_run_directory(tmp_path / "id.run")


def test_file_of_a_run_directory_that_no_run_writes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ForeignError, match="folder: expected a regular file, saw a directory"):
        read_run_file(tmp_path / "folder")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(FILE_LIMIT + 1)
    with pytest.raises(ForeignError, match=f"large: .*more than {FILE_LIMIT} bytes"):
        read_run_file(tmp_path / "large")
    with pytest.raises(FileNotFoundError):
        read_run_file(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{} {}"])
def test_file_that_is_no_object_was_not_written_by_a_run(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ForeignError, match="was not written by a run of this account"):
        read_unverified(tmp_path / "plan.json")
