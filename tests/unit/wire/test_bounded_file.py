"""A file that somebody else put there is read whole, in bounds, or not at all, and never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.bounded_file import read_regular


def test_a_regular_file_is_read_whole_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", limit=5) == b"12345"


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="too-large"):
        read_regular(path, limit=5)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = {"fifo": tmp_path / "fifo", "directory": tmp_path, "device": Path("/dev/zero")}[kind]
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(IntegrityError, match="not-a-file"):
        read_regular(path, limit=5)
