"""A part that lies in a file is read in pieces, and only while the file is the one that was listed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.part_file import PartFile


@pytest.fixture(name="path")
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(200)))
    return path


def test_the_pieces_are_the_file(path: Path) -> None:
    with PartFile.of(path).reading() as take:
        assert b"".join(bytes(take(size)) for size in (120, 0, 80)) == path.read_bytes()


def test_a_file_that_was_replaced_before_is_refused(path: Path) -> None:
    part = PartFile.of(path)
    path.unlink()
    path.write_bytes(bytes(201))
    with pytest.raises(ConfigurationError, match="weights: was changed"), part.reading():
        pass


def test_a_file_that_is_written_to_meanwhile_is_refused_at_the_end(path: Path) -> None:
    """A package of half the old weights and half the new ones would be nobody's model."""
    part = PartFile.of(path)
    with contextlib.ExitStack() as stack:
        take = stack.enter_context(part.reading())
        take(100)
        path.write_bytes(bytes(201))
        take(100)
        with pytest.raises(ConfigurationError, match="was changed"):
            stack.close()


def test_a_file_that_was_cut_off_is_refused(path: Path) -> None:
    with PartFile.of(path).reading() as take:
        take(200)
        with pytest.raises(ConfigurationError, match="was changed"):
            take(1)


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "regular file"), ("absent", "No such file")):
        with pytest.raises(ConfigurationError, match=said):
            PartFile.of(tmp_path / name)


def test_a_file_that_is_gone_when_it_is_read_is_one_sentence(path: Path) -> None:
    part = PartFile.of(path)
    path.unlink()
    with pytest.raises(ConfigurationError, match=r"weights: cannot be read \(No such file"), part.reading():
        pass
