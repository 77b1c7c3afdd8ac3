"""Asks the kernel for the processor's attestation report (configfs-tsm, Linux 6.7 and later).

Knows the files of `/sys/kernel/config/tsm/report` and the certificate table of SEV-SNP. Does not judge what is in a report. The
older devices (`/dev/tdx_guest`, `/dev/sev-guest`) are not asked: where only they are there, the error names them.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from pytest_glasshouse.errors import EvidenceUnavailableError
from pytest_glasshouse.wire.hardware import REPORT_DATA_BYTES, SEV_SNP, TDX

ROOT = Path("/sys/kernel/config/tsm/report")
PROVIDERS = {TDX: "tdx_guest", SEV_SNP: "sev_guest"}
OLD_DEVICES = {TDX: "/dev/tdx_guest", SEV_SNP: "/dev/sev-guest"}
#: The largest report and certificate table that the kernel gives.
REPORT_LIMIT, TABLE_LIMIT = 32_768, 65_536
#: An entry of the certificate table: what it is, where it is, its length. GHCB specification, section 4.1.8.1.
ENTRY = struct.Struct("<16sII")
#: The certificates in the order of a chain: the key's own (VCEK or VLEK), its issuer's, AMD's root.
CHAIN = (
    ("63da758d-e664-4564-adc5-f4b93be8accd", "a8074bc2-a25a-483e-aae6-39c045a0b8a1"),
    ("4ab7b379-bbac-4fe4-a02f-05aef327c782",),
    ("c0b406a4-a803-4952-9743-3fb6014cd0ae",),
)


@dataclass(frozen=True, kw_only=True)
class TsmReport:
    """A report, and the certificate chain that came with it: one PEM text, or none."""

    report: bytes
    certificates: tuple[str, ...]


def tsm_report(kind: str, data: bytes, *, root: Path | None = None) -> TsmReport:
    """A report of the TEE `kind` over 64 bytes of report data. Raises `EvidenceUnavailableError`."""
    if len(data) != REPORT_DATA_BYTES:
        raise EvidenceUnavailableError(f"{kind}: expected {REPORT_DATA_BYTES} bytes of report data, saw {len(data)}")
    root = ROOT if root is None else root
    entry = root / f"glasshouse-{secrets.token_hex(8)}"
    try:
        entry.mkdir()
    except OSError as error:
        raise EvidenceUnavailableError(_missing(kind, root, error)) from None
    try:
        provider = (entry / "provider").read_text("ascii").strip()
        if provider != PROVIDERS[kind]:
            raise EvidenceUnavailableError(f"{kind}: not available: this machine's TEE is {provider[:32]!r}")
        return _ask(entry, kind, data)
    except (OSError, ValueError) as error:
        raise EvidenceUnavailableError(f"{kind}: not available: the kernel gave no report ({error})") from None
    finally:
        with contextlib.suppress(OSError):
            entry.rmdir()


def _ask(entry: Path, kind: str, data: bytes) -> TsmReport:
    before = _generation(entry)
    if kind == SEV_SNP:
        (entry / "privlevel").write_text("0")
        before += 1
    (entry / "inblob").write_bytes(data)
    report = (entry / "outblob").read_bytes()
    table = (entry / "auxblob").read_bytes() if kind == SEV_SNP and (entry / "auxblob").exists() else b""
    # Each write counts once: another process has not changed what was asked.
    if _generation(entry) != before + 1 or not 0 < len(report) <= REPORT_LIMIT or len(table) > TABLE_LIMIT:
        raise EvidenceUnavailableError(f"{kind}: not available: the report was changed while it was read, or is too large")
    return TsmReport(report=report, certificates=certificates(table))


def certificates(table: bytes) -> tuple[str, ...]:
    """The chain in a certificate table, as one PEM text; none where the host gave none, or not all of it."""
    found: dict[str, bytes] = {}
    for at in range(0, len(table) - ENTRY.size + 1, ENTRY.size):
        name, start, length = ENTRY.unpack_from(table, at)
        if not any(name) and not start and not length:
            break
        found[str(uuid.UUID(bytes=name))] = table[start : start + length]
    chain = [next((found[name] for name in names if found.get(name)), b"") for names in CHAIN]
    if not all(chain):
        return ()
    return ("".join(_pem(each) for each in chain),)


def _pem(der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = (text[at : at + 64] for at in range(0, len(text), 64))
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----\n"))


def _generation(entry: Path) -> int:
    return int((entry / "generation").read_text("ascii"))


def _missing(kind: str, root: Path, error: OSError) -> str:
    old = OLD_DEVICES[kind]
    also = f"; only the older {old} is there, which is not asked: use a kernel with configfs-tsm" if Path(old).exists() else ""
    return f"{kind}: not available: expected {root} (Linux 6.7, configfs mounted and writable), saw {error.strerror}{also}"
