"""An untrusted file is read whole, within limits, or not at all, and never blocks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.bounded_file import mapped, read_regular, read_toml


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


def test_an_error_names_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="expected a regular file, saw a directory"):
        read_regular(tmp_path, limit=5)
    with pytest.raises(IntegrityError, match="NUL"):
        read_regular(Path("a\0b"), limit=5)


def test_kernel_file_of_size_zero_is_read_up_to_the_limit() -> None:
    """Files of /proc have size 0 and any length; one that is named is read, within the limit."""
    assert read_regular(Path("/proc/self/status"), limit=100_000).startswith(b"Name:")
    with pytest.raises(IntegrityError, match="too-large"):
        read_regular(Path("/proc/self/status"), limit=10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbfa = 1", "byte order mark"),
        ("a = 1".encode("utf-16"), "not UTF-8"),
        (b"a = ", "not TOML"),
        (b"a = " + b"[" * 5_000, "nested too deep|not TOML"),
        (b"a = " + b"9" * 5_000, "not TOML"),
        (b"[" + b".".join([b"a"] * 100_000) + b"]", "a line of more than"),
        (b"#" * (1 << 18) + b"\n", "more than"),
        (b'a = "\x1b[2J', "not TOML"),
    ],
)
def test_invalid_toml_is_an_error_of_one_printable_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)

    with pytest.raises(IntegrityError, match=message) as caught:
        read_toml(path)
    assert caught.value.detail.isprintable()


def test_large_file_is_mapped_and_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 33)

    assert (len(mapped(path)), bytes(mapped(path)[:3])) == (1 << 33, b"\0\0\0")
    (tmp_path / "empty").touch()
    assert bytes(mapped(tmp_path / "empty")) == b""
    with pytest.raises(ConfigurationError, match="saw a directory"):
        mapped(tmp_path)
