"""Recorded evidence in words: what `glasshouse inspect` prints of a quote, a report or a GPU's measurements.

This module knows lines of text. It verifies what the file itself allows, and the lines say what was verified and what was not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.wire.hardware import NVIDIA_GPU, SEV_SNP, TDX
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.attestation.device_evidence import DeviceEvidence


def about_evidence(name: str, item: DeviceEvidence, *, now: int) -> Iterator[str]:
    """Lines about one device's evidence; certificates are judged at `now` (wall seconds)."""
    from pytest_glasshouse.wire.canonical import unb64u

    words = {NVIDIA_GPU: _gpu, SEV_SNP: _snp, TDX: _tdx}.get(item.type)
    if words is None:
        raise IntegrityError("evidence", f"{printable(name)}: a kind of device that is not known: {printable(item.type)}")
    try:
        lines = list(words(unb64u(item.evidence), item, now))
    except RefusedError as refusal:
        detail = f": {printable(refusal.detail)}" if refusal.detail else ""
        yield f"{printable(name)} ({item.type}): malformed ({refusal.reason}{detail})"
        return
    yield f"{printable(name)} ({item.type}):"
    yield from (f"  {line}" for line in lines)


def _verified(check: str, reason: str) -> str:
    return f"signature: verified, {check}" if not reason else f"signature: not verified ({reason})"


def _root_name(digest: str) -> str:
    from pytest_glasshouse.owner.references import KNOWN_ROOTS

    return f"{KNOWN_ROOTS.get(digest, 'a root that is not known here')} ({digest[:16]}...)"


def _gpu(data: bytes, item: DeviceEvidence, now: int) -> Iterator[str]:
    from pytest_glasshouse.attestation import nvidia_spdm as spdm
    from pytest_glasshouse.attestation.certificates import pem_blocks, read_chain
    from pytest_glasshouse.wire.canonical import sha256_hex

    measured = spdm.read_evidence(data)
    if item.endorsements:
        root, reason = "", ""
        try:
            root = sha256_hex(pem_blocks(item.endorsements[0])[-1])
            leaf, *_ = read_chain(item.endorsements[0], roots=(root,), now=now, known_critical=spdm.FWID_EXTENSIONS)
            chip, number = spdm.device_info(leaf)
            spdm.check_signature(measured, leaf)
            yield f"chip {printable(chip) or 'unnamed'}, device {printable(number)}"
            firmware = spdm.check_firmware(measured, leaf, required=False)
            yield f"firmware id: {'the one the key was derived for' if firmware else 'not reported'}"
        except RefusedError as refusal:
            reason = refusal.reason
        yield _verified(f"root {_root_name(root)}", reason)
    else:
        yield _verified("", "no certificates in this file")
    yield f"nonce {measured.nonce.hex()}"
    yield f"driver {printable(measured.driver) or 'not reported'}, VBIOS {measured.vbios or 'not reported'}"
    yield f"mode {measured.mode or 'unknown'}"
    yield f"{len(measured.blocks)} measurements"
    yield from (f"  {index:3} {value.hex()}" for index, value in sorted(measured.blocks.items()) if any(value))


def _snp(data: bytes, item: DeviceEvidence, now: int) -> Iterator[str]:
    from pytest_glasshouse.attestation import snp_report as snp
    from pytest_glasshouse.attestation.sev_snp import key_of

    report = snp.read_report(data)
    if item.endorsements:
        reason = product = root = ""
        try:
            key, root = key_of(report, item.endorsements[0], roots=None, now=now)
            snp.check_key(report, key)
            product = key.product
        except RefusedError as refusal:
            reason = refusal.reason
        yield _verified(f"{report.signer.upper()} of {printable(product)}, root {_root_name(root)}", reason)
    else:
        yield _verified("", "no certificates in this file")
    yield f"report version {report.version}, signed by {report.signer.upper() or 'no key'}, VMPL {report.vmpl}"
    named = {"debug": snp.DEBUG, "migration": snp.MIGRATION, "SMT": snp.SMT}
    yield f"policy allows: {', '.join(name for name, bit in named.items() if report.allows(bit)) or 'nothing more'}"
    turin = report.family is not None and report.family >= snp.TURIN_FAMILY
    yield "reported TCB: " + ", ".join(f"{name} {level}" for name, level in snp.levels(report, turin=turin).items())
    yield f"measurement {report.measurement.hex()}"
    yield f"host data {report.host_data.hex()}"
    yield f"report data {report.report_data.hex()}"
    yield f"report id {report.report_id.hex()}"


def _tdx(data: bytes, _item: DeviceEvidence, _now: int) -> Iterator[str]:
    from pytest_glasshouse.attestation.tdx_quote import read_quote

    quote = read_quote(data)
    yield _verified("", "needs collateral: a policy has it, and the server verifies")
    yield f"quote version {quote.version}, {len(quote.whole)} bytes, {len(data) - len(quote.whole)} zeros behind it"
    yield f"debug {'on' if quote.debuggable else 'off'}, migration {'on' if quote.migratable else 'off'}"
    yield from (f"{name:10} {value}" for name, value in quote.measurements.items())
    yield f"report data {quote.report_data.hex()}"
