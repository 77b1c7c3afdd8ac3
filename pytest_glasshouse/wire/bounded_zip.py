"""Reading untrusted archives: few members, small in all, each where the directory puts it, or an error of one sentence.

Knows what a plain archive looks like: stored or deflated members under relative names, one after the other, none of them
encrypted. The sizes that an archive declares are compared with what is decompressed, and no more than declared is decompressed.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib

from pytest_glasshouse.errors import IntegrityError

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: A part of a member's name.
_PART = re.compile(r"[A-Za-z0-9._@+-]{1,255}")
#: Flag bits of APPNOTE 4.4.4: encrypted, patched, strongly encrypted, masked.
_ENCRYPTED = 0x1 | 0x20 | 0x40 | 0x2000
_ENTRY, _ENTRY_SIZE = b"PK\x01\x02", 30


def read_zip(data: bytes, *, limit: int, members: int) -> dict[str, bytes]:
    """Every member by name. Raises `IntegrityError` with reason `archive` for what is no plain archive, or `too-large`.

    `limit` bounds the bytes of all members together, `members` their number.
    """
    # The directory is as long as it likes to be; counted before an object is made of each of its entries.
    if data.count(_ENTRY) > members:
        raise IntegrityError("too-large", f"has more than {members} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _refuse_odd(infos, archive.start_dir, limit)
            return {info.filename: _member(archive, info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError) as error:
        # zipfile raises many kinds of error for a file that is no archive; fuzzing met all of these.
        raise IntegrityError("archive", f"cannot be read: {type(error).__name__}") from None


def _refuse_odd(infos: list[zipfile.ZipInfo], directory_at: int, limit: int) -> None:
    names = [info.filename for info in infos]
    if len(names) != len(set(names)):
        raise IntegrityError("archive", "names a member twice")
    if not all(_is_plain(name) and info.orig_filename == name for name, info in zip(names, infos, strict=True)):
        raise IntegrityError("archive", "has a member under a name that is no plain relative one")
    if any(info.flag_bits & _ENCRYPTED for info in infos):
        raise IntegrityError("archive", "has an encrypted member")
    if any(info.compress_type not in _COMPRESSIONS for info in infos):
        raise IntegrityError("archive", "is compressed in another way than stored or deflated")
    if sum(info.file_size for info in infos) > limit:
        raise IntegrityError("too-large", f"holds more than {limit} bytes")
    ends = 0
    for info in sorted(infos, key=lambda each: each.header_offset):
        if info.header_offset < ends:
            raise IntegrityError("archive", "has members that overlap")
        ends = info.header_offset + _ENTRY_SIZE + len(info.filename.encode()) + info.compress_size
    if ends > directory_at:
        raise IntegrityError("archive", "has a member that reaches into its directory")


def _is_plain(name: str) -> bool:
    """Whether a name is relative, leaves no folder and is no folder."""
    return all(_PART.fullmatch(part) and part not in {".", ".."} for part in name.split("/"))


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's content. One byte more than declared is asked for, and nothing further is decompressed."""
    with archive.open(info) as stream:
        found = stream.read(info.file_size + 1)
    if len(found) != info.file_size:
        raise IntegrityError("archive", "has a member of another size than it declares")
    return found
