from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from pytest_glasshouse.wire import append_log
from pytest_glasshouse.wire.append_log import append_line


def test_lines_are_appended_to_a_file_of_the_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, b"one")
    append_line(path, b"two")
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_incomplete_line_is_ended_before_the_next_one(tmp_path: Path) -> None:
    """What a kill tore would swallow the line after it otherwise."""
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"one\ntw")
    append_line(path, b"three")
    assert path.read_bytes() == b"one\ntw\nthree\n"


def test_a_link_is_refused(tmp_path: Path) -> None:
    """A link would redirect what is written to a place of another's choice."""
    (tmp_path / "lines.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        append_line(tmp_path / "lines.jsonl", b"one")
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_is_an_error_and_the_next_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, b"one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, before[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            append_line(path, b"two and more")
        with pytest.raises(OSError, match="too large"):
            append_line(path, b"three")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    append_line(path, b"four")
    assert path.read_bytes() == b"one\ntw\nfour\n"


def test_a_line_and_the_name_of_a_new_file_are_on_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def syncing(descriptor: int) -> None:
        synced.append("file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(append_log, "sync_directory", lambda path: synced.append(str(path)))
    append_line(tmp_path / "lines.jsonl", b"one")
    append_line(tmp_path / "lines.jsonl", b"two")
    assert synced == ["file", str(tmp_path), "file"]
