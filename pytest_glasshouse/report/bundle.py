"""The bundle: the report and, as files of their own, everything in it that somebody may want to read or verify alone.

Every member is derived from the report, so a bundle is checked by deriving it again. The bytes of a bundle depend on
nothing but the report and, where it holds statements for others (`report.attest`), the report key.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.report.attest import envelopes
from pytest_glasshouse.report.evidence import journal_lines, observed_rounds, protected_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

REPORT_MEMBER = "report.json"
SUFFIX = ".glasshouse.zip"
#: Larger members are refused unread: a bundle comes from strangers.
MEMBER_LIMIT = 256 * 1024 * 1024
MEMBER_COUNT_LIMIT = 100_000
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_TOKENS = ("evidence", "result", "receipt", "head", "exit", "manifest", "grant")


def report_bytes(document: Mapping[str, Any]) -> bytes:
    """The report as it is written: readable order, no NaN, a newline at its end."""
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def members(document: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file of the bundle by name, in order."""
    found = {REPORT_MEMBER: report_bytes(document), "keys/report.pub": _line(document["keys"]["report"])}
    for name, keys in (("server", document["keys"]["servers"]), ("owner", document["keys"]["owners"])):
        found |= {f"keys/{name}-{number}.pub": _line(key) for number, key in enumerate(keys, start=1)}
    for record in [*document["rows"], *document["excludedResults"]]:
        found |= dict(_of_row(f"rows/{record['rowId']}", record))
    return found


def zipped(document: Mapping[str, Any], *, key: Ed25519PrivateKey | None = None) -> bytes:
    """The bundle's bytes: fixed times, fixed modes, sorted names. With the report's `key`, signed statements too."""
    files = members(document) | ({} if key is None else envelopes(document, key=key))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    """The members of a bundle. Raises `ReportError` for what is not one or is too large to be one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if len(names) != len(set(names)):
                raise ReportError("the bundle names a member twice")
            if len(infos) > MEMBER_COUNT_LIMIT or sum(info.file_size for info in infos) > 2 * MEMBER_LIMIT:
                raise ReportError("the bundle is too large to be one")
            if any(info.compress_type not in _COMPRESSIONS for info in infos):
                raise ReportError("the bundle is compressed in a way that bundles are not")
            found = {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError) as error:
        # zipfile says in many ways that a file is no archive; all of them were met by fuzzing.
        raise ReportError(f"the bundle cannot be read: {type(error).__name__}") from error
    if REPORT_MEMBER not in found:
        raise ReportError(f"the bundle has no {REPORT_MEMBER}")
    return found


def _of_row(folder: str, record: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    observation = record["observation"]
    if not observation:
        return
    yield f"{folder}/observation.json", _json(observation)
    for place, observed in enumerate(observed_rounds(observation), start=1):
        yield from _of_round(f"{folder}/round-{place}", observed)


def _of_round(folder: str, observed: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    lines = journal_lines(observed)
    if lines:
        yield f"{folder}/journal.jsonl", "".join(f"{line}\n" for line in lines).encode()
    protected = protected_of(observed)
    for name in _TOKENS:
        if isinstance(protected.get(name), str) and protected[name]:
            yield f"{folder}/{name}.jws", _line(protected[name])
    if protected.get("policy") is not None:
        yield f"{folder}/policy.json", _json(protected["policy"])
    raw = observed.get("raw")
    if isinstance(raw, dict):
        if raw.get("callback") is not None:
            yield f"{folder}/raw-callback.json", _json(raw["callback"])
        if isinstance(raw.get("exit"), str) and raw["exit"]:
            yield f"{folder}/raw-exit.jws", _line(raw["exit"])


def _line(text: str) -> bytes:
    return f"{text}\n".encode()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
