"""An archive matches its own directory, or it is refused before anything large is built."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.bounded_zip import read_zip

LIMIT = 1 << 20


def archive(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for name, data in files:
            out.writestr(name, data)
    return buffer.getvalue()


def refused(data: bytes, *, limit: int = LIMIT, members: int = 10) -> str:
    with pytest.raises(IntegrityError) as caught:
        read_zip(data, limit=limit, members=members)
    return caught.value.detail


def changed(data: bytes, *, entry_at: int, form: str, value: int) -> bytes:
    """The archive with one field of its directory's first entry changed."""
    edited = bytearray(data)
    struct.pack_into(form, edited, data.index(b"PK\1\2") + entry_at, value)
    return bytes(edited)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_plain_archive_is_read_whole(method: int) -> None:
    files = (("a", b"1"), ("rows/b-1/c.jws", b"2" * 1000), ("empty", b""))

    assert read_zip(archive(*files, method=method), limit=1001, members=3) == dict(files)


def test_sum_of_all_members_is_bounded() -> None:
    assert "holds more than 1000 bytes" in refused(archive(("a", b"1" * 600), ("b", b"2" * 600)), limit=1000)
    assert "has more than 1 members" in refused(archive(("a", b""), ("b", b"")), members=1)


@pytest.mark.parametrize("stated", [10, 70_000])
def test_member_is_decompressed_no_further_than_its_stated_size(stated: int) -> None:
    """zipfile itself decompresses everything there is and cuts it afterwards."""
    bomb = changed(archive(("a", b"\0" * (200 << 20))), entry_at=24, form="<I", value=stated)
    tracemalloc.start()
    try:
        refused(bomb)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


ODD = {
    "larger than it is": (24, "<I", 5000),
    "encrypted": (8, "<H", 0x1),
    "strongly encrypted": (8, "<H", 0x41),
    "masked": (8, "<H", 0x2001),
    "bzip2": (10, "<H", 12),
    "another checksum": (16, "<I", 7),
    "begins elsewhere": (42, "<I", 3),
    "begins beyond the end": (42, "<I", 1 << 30),
    "is longer than the file": (20, "<I", 1 << 20),
}


@pytest.mark.parametrize(("at", "form", "value"), ODD.values(), ids=ODD)
def test_central_directory_that_contradicts_the_members_is_refused(at: int, form: str, value: int) -> None:
    assert refused(changed(archive(("a", b"12345" * 100), ("b", b"")), entry_at=at, form=form, value=value))


@pytest.mark.parametrize(
    "name", ["/a", "../a", "a/../b", "a//b", "a/", ".", "..", "a\\b", "C:a", "a b", "é", "a\nb", "\x1b[2J", "a" * 300]
)
def test_odd_name_is_refused(name: str) -> None:
    assert "under a name" in refused(archive((name, b"")))


def test_name_with_a_nul_is_not_cut_to_another() -> None:
    data = archive(("report.jsonXX", b"1"), ("b", b"")).replace(b"report.jsonXX", b"report.json\0X")

    assert "under a name" in refused(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_named_twice_is_refused() -> None:
    assert refused(archive(("a", b"1"), ("a", b"2"))) == "names a member twice"


def test_members_that_share_their_bytes_are_refused() -> None:
    """A few bytes that every entry of the directory points at would be decompressed once for each."""
    one = archive(("a", b"\0" * 100_000))
    at, end = one.index(b"PK\1\2"), one.index(b"PK\5\6")
    entry = one[at:end]
    entries = b"".join(entry[:-1] + bytes([ord("a") + each]) for each in range(5))
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 5, 5, len(entries), at, 0)

    assert refused(one[:at] + entries + tail) in {"has members that overlap", "cannot be read: BadZipFile"}


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"PK\5\6" + b"\0" * 18, b"\0" * 1000, zlib.compress(b"a"), archive(("a", b"1"))[:-1]]
)
def test_file_that_is_no_archive_is_refused_or_empty(data: bytes) -> None:
    if data.startswith(b"PK\5"):
        assert read_zip(data, limit=LIMIT, members=10) == {}
    else:
        assert refused(data).startswith("cannot be read: ")
