"""Recorded evidence in a file of whatever form: what `inspect` shows, and what `policy capture` takes references from.

A raw SEV-SNP report, TDX quote or SPDM exchange; one of them in hexadecimal; NVIDIA's JSON (a list of GPUs); or devices as they
travel beside a token. Nothing is judged here.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.attestation import snp_report
from pytest_glasshouse.attestation.device_evidence import DeviceEvidence
from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import b64u, parse_strict
from pytest_glasshouse.wire.hardware import ITEM_NAME, ITEM_SHAPE, ITEMS_LIMIT, NVIDIA_GPU, RELEASE_LIMIT, SEV_SNP, TDX
from pytest_glasshouse.wire.tokens import expect

_HEX = re.compile(rb"[0-9a-fA-F\s]+")
_SPDM = bytes((spdm.VERSION, spdm.GET_MEASUREMENTS))
#: A quote begins with its version and the kind of key, and names its TEE.
_TDX = re.compile(rb"[\x04\x05]\x00[\x02\x03]\x00\x81\x00\x00\x00")


def read_evidence_file(data: bytes) -> dict[str, DeviceEvidence]:
    """The evidence in a file, by name. Raises `IntegrityError("evidence")`: it is none that is known."""
    if len(data) > 2 * RELEASE_LIMIT:
        raise IntegrityError("evidence", "too large")
    text = data.strip()
    if text[:1] in (b"{", b"["):
        return _of_json(data)
    if _HEX.fullmatch(text):
        compact = bytes(text.translate(None, b" \t\r\n"))
        data = bytes.fromhex(compact.decode("ascii")) if len(compact) % 2 == 0 else b""
    kind = kind_of(data)
    if not kind:
        raise IntegrityError("evidence", "no report, quote or measurements that are known")
    return {"evidence": DeviceEvidence(type=kind, evidence=b64u(data), endorsements=())}


def kind_of(data: bytes) -> str:
    """The kind of device that raw evidence is of, by its first bytes; "" where it is none that is known."""
    if data[:2] == _SPDM:
        return NVIDIA_GPU
    if _TDX.match(data):
        return TDX
    return SEV_SNP if len(data) == snp_report.REPORT_BYTES and data[0] in snp_report.VERSIONS else ""


def _of_json(data: bytes) -> dict[str, DeviceEvidence]:
    try:
        found: Any = parse_strict(data, limit=2 * RELEASE_LIMIT)
        if isinstance(found, list):
            found = {f"gpu-{place}": each for place, each in enumerate(found)}
        elif found.keys() == ITEM_SHAPE.keys():
            found = {"device": found}
        named = 0 < len(found) <= ITEMS_LIMIT and all(map(ITEM_NAME.fullmatch, found))
        devices = {name: _of_device(each) for name, each in found.items()} if named else {}
    except (IntegrityError, KeyError, TypeError, ValueError, AttributeError):
        devices = {}
    if not devices:
        raise IntegrityError("evidence", "no evidence of devices in this JSON")
    return devices


def _of_device(each: dict[str, Any]) -> DeviceEvidence:
    if "certificate" in each:
        pem = base64.b64decode(each["certificate"], validate=True).decode("ascii")
        evidence = base64.b64decode(each["evidence"], validate=True)
        return DeviceEvidence(type=NVIDIA_GPU, evidence=b64u(evidence), endorsements=(pem,))
    expect(each, ITEM_SHAPE)
    texts = tuple(text for text in each["endorsements"] if isinstance(text, str))
    return DeviceEvidence(type=each["type"], evidence=each["evidence"], endorsements=texts)
