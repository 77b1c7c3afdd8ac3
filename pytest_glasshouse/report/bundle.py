"""The bundle: a zip of the report and, as files, the evidence in it: journals, tokens, policies, observations, public keys.

Every member is derived from the report, so a bundle is checked by deriving it again. Its bytes depend on nothing but the
report and, where it holds signed statements (`report.intoto`), the report key.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.observation.reading import journal_lines, observed_rounds, parts_of_round, protected_of
from pytest_glasshouse.report.fields import protected_rows
from pytest_glasshouse.report.indented_json import indented_json
from pytest_glasshouse.report.intoto import envelopes
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.bounded_zip import read_zip
from pytest_glasshouse.wire.canonical import parse_strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.analysis.fields import RowRecord
    from pytest_glasshouse.observation.document import RoundNotes
    from pytest_glasshouse.report.fields import Report

REPORT_MEMBER = "report.json"
SUFFIX = ".glasshouse.zip"
#: The largest report in bytes. A row of five interleaved rounds has half a megabyte.
REPORT_LIMIT = 48 << 20
#: The largest bundle: it holds its report, and most of it again in files.
BUNDLE_LIMIT = 5 * REPORT_LIMIT // 2
MEMBER_COUNT_LIMIT = 50_000
_ZIP = b"PK"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_TOKENS = ("evidence", "result", "receipt", "head", "exit", "manifest", "grant")


def report_bytes(document: Mapping[str, object]) -> bytes:
    """The report as written: members in their order, no NaN, a newline at the end."""
    return _json(document)


def members(document: Report, written: bytes | None = None) -> dict[str, bytes]:
    """Every file of the bundle by name, in order. `written` are the report's bytes, where they are known."""
    found = {
        REPORT_MEMBER: report_bytes(document) if written is None else written,
        "keys/report.pub": _line(document["keys"]["report"]),
    }
    for name, keys in (("server", document["keys"]["servers"]), ("owner", document["keys"]["owners"])):
        found |= {f"keys/{name}-{number}.pub": _line(key) for number, key in enumerate(keys, start=1)}
    for record in protected_rows(document):
        found |= dict(_of_row(f"rows/{record['rowId']}", record))
    return found


def bundle_bytes(document: Report, *, key: Ed25519PrivateKey | None = None, written: bytes | None = None) -> bytes:
    """The bundle's bytes: fixed times and modes, sorted names. With the report's `key`, signed statements too.

    `written` are the report's bytes, where they are known.
    """
    files = members(document, written) | ({} if key is None else envelopes(document, key=key))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def read_report(path: Path) -> bytes:
    """The bytes of a report or bundle of any origin. Raises `ReportError`, which names the file."""
    try:
        return read_regular(path, limit=REPORT_LIMIT)
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from error
    except IntegrityError as error:
        raise ReportError(f"{path}: expected a report or a bundle; {error.detail}") from error


def is_bundle(data: bytes) -> bool:
    """Whether the bytes are those of a bundle."""
    return data.startswith(_ZIP)


def members_of(data: bytes) -> dict[str, bytes]:
    """The members of a bundle, or a report as the only member. Raises `ReportError` as `bundle_members` does."""
    return bundle_members(data) if is_bundle(data) else {REPORT_MEMBER: data}


def parse_report(data: bytes) -> Any:
    """The JSON of a report's bytes, not validated. Raises `IntegrityError`."""
    return parse_strict(data, limit=REPORT_LIMIT, floats=True)


def bundle_members(data: bytes) -> dict[str, bytes]:
    """The members of a bundle. Raises `ReportError` for what is no bundle or too large."""
    try:
        found = read_zip(data, limit=BUNDLE_LIMIT, members=MEMBER_COUNT_LIMIT)
    except IntegrityError as error:
        raise ReportError(f"the bundle {error.detail}") from error
    if REPORT_MEMBER not in found:
        raise ReportError(f"the bundle has no {REPORT_MEMBER}")
    return found


def _of_row(folder: str, record: RowRecord) -> Iterator[tuple[str, bytes]]:
    observation = record["observation"]
    if not observation:
        return
    yield f"{folder}/observation.json", _json(observation)
    for place, observed in enumerate(observed_rounds(observation), start=1):
        for node, (_, part) in enumerate(parts_of_round(observed)):
            yield from _of_round(f"{folder}/round-{place}" + (f"/node-{node}" if node else ""), part)


def _of_round(folder: str, observed: RoundNotes) -> Iterator[tuple[str, bytes]]:
    lines = journal_lines(observed)
    if lines:
        yield f"{folder}/journal.jsonl", "".join(f"{line}\n" for line in lines).encode()
    protected = protected_of(observed)
    for name in _TOKENS:
        token = protected.get(name)
        if isinstance(token, str) and token:
            yield f"{folder}/{name}.jws", _line(token)
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
    return (indented_json(value) + "\n").encode()
