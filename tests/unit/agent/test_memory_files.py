from __future__ import annotations

import os

import pytest

from pytest_glasshouse.agent.memory_files import MemoryFiles, sealed_copy
from pytest_glasshouse.errors import ProtocolError


def test_pieces_in_order_make_an_item() -> None:
    memory_files = MemoryFiles()
    memory_files.write("package", offset=0, total=5, piece=b"abc")
    memory_files.write("package", offset=3, total=5, piece=b"de")
    assert memory_files.read("package", offset=1, size=10) == (b"bcde", 5)


@pytest.mark.parametrize(
    ("offset", "total", "piece"),
    [(4, 5, b"e"), (3, 6, b"def"), (3, 5, b"def"), (0, 1, b"ab")],
    ids=["gap", "other-total", "too-long", "longer-than-announced"],
)
def test_piece_that_does_not_fit_is_refused(offset: int, total: int, piece: bytes) -> None:
    memory_files = MemoryFiles()
    memory_files.write("package", offset=0, total=5, piece=b"abc")
    with pytest.raises(ProtocolError):
        memory_files.write("package", offset=offset, total=total, piece=piece)


def test_incomplete_item_is_not_given_to_a_leg() -> None:
    """A leg that opened half a package would fail without a clear reason."""
    memory_files = MemoryFiles()
    memory_files.write("package", offset=0, total=5, piece=b"abc")
    with pytest.raises(ProtocolError, match="expected 5 bytes; saw 3"):
        memory_files.descriptor("package")


def test_dropped_item_is_gone() -> None:
    memory_files = MemoryFiles()
    memory_files.write("package", offset=0, total=3, piece=b"abc")
    memory_files.drop("package")
    with pytest.raises(ProtocolError, match="saw no such name"):
        memory_files.read("package", offset=0, size=1)


def test_sealed_copy_cannot_be_changed() -> None:
    """The measured bytes must be the ones that run."""
    fd = sealed_copy("test", b"measured")
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert os.pread(fd, 100, 0) == b"measured"
    os.close(fd)
