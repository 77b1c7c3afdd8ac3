"""Recorded evidence in words, and policies from evidence and manifests: files in, lines out, nothing fetched."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.attestation.evidence_file import read_evidence_file
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.owner import references
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.tamper.fake_gpu import SpdmReport, make_device
from pytest_glasshouse.tamper.fake_snp import SnpFields, make_amd
from pytest_glasshouse.tamper.fake_tdx import QuoteFields, make_intel
from pytest_glasshouse.wire.canonical import canonical
from tests.unit.attestation.signed_manifests import HASHES, NOW, Manifest, make_maker

TODAY = int(time.time())
GPU, AMD, INTEL = make_device(TODAY), make_amd(TODAY), make_intel(TODAY)
SPDM = GPU.sign(bytes(SpdmReport(nonce=bytes(32))))
REPORT = AMD.sign(bytes(SnpFields(report_data=bytes(64))))
QUOTE = INTEL.sign(bytes(QuoteFields(report_data=bytes(64))))


def run(*arguments: str | Path) -> int:
    try:
        return main([str(each) for each in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def words(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> str:
    (tmp_path / "evidence").write_bytes(content)
    assert run("inspect", tmp_path / "evidence") == 0
    return capsys.readouterr().out


def test_devices_as_a_report_has_them_are_shown_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = {
        "gpu-0": GPU.item(bytes(32)),
        "cpu": AMD.item(SnpFields(report_data=bytes(64))),
        "td": INTEL.item(QuoteFields(report_data=bytes(64))),
    }
    shown = words(tmp_path, canonical(devices), capsys)
    assert "chip GH100, device 48B02D0000000001" in shown
    assert shown.count("signature: verified, ") == 2
    assert "VCEK of Milan-B0" in shown
    assert "debug off" in shown
    assert "needs collateral" in shown
    assert "cpu (sev-snp):" in words(tmp_path, canonical({"cpu": devices["cpu"]}), capsys)
    assert "device (tdx):" in words(tmp_path, canonical(devices["td"]), capsys)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (SPDM, "driver 580.95.05, VBIOS 96.00.74.00.1A"),
        (SPDM.hex().encode() + b"\n", "no certificates in this file"),
        (REPORT, "reported TCB: bootloader 3, tee 1, snp 20, microcode 209"),
        (QUOTE + bytes(9), "9 zeros behind it"),
        (REPORT[:100] + b"\1" + REPORT[101:], "VMPL 0"),
        (SPDM[:200], "malformed (spdm-format: cut off)"),
    ],
)
def test_raw_evidence_is_shown(content: bytes, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in words(tmp_path, content, capsys)


def test_nvidia_s_json_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [{"certificate": base64.b64encode(GPU.pem().encode()).decode(), "evidence": base64.b64encode(SPDM).decode()}] * 2
    shown = words(tmp_path, json.dumps(listed).encode(), capsys)
    assert "gpu-1 (nvidia-gpu):" in shown
    bad = [{**listed[0], "certificate": base64.b64encode(b"none").decode()}]
    assert "not verified (chain-format)" in words(tmp_path, json.dumps(bad).encode(), capsys)


def test_evidence_under_a_changed_chain_is_shown_as_not_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item: Any = AMD.item(SnpFields(report_data=bytes(64)))
    shown = words(tmp_path, canonical({"cpu": {**item, "endorsements": ["none"]}}), capsys)
    assert "signature: not verified (chain-format)" in shown


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"abc",
        b"00" * 20,
        b"{}",
        b"[1]",
        b"[]",
        b"{",
        b'{"GPU 0":{}}',
        b'{"cpu":{"type":"tdx"}}',
        b'{"cpu":1}',
        b'[{"certificate":"?","evidence":"?"}]',
        bytes(600_000),
    ],
    ids=range(13),
)
def test_what_is_no_evidence_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        read_evidence_file(content)
    assert caught.value.reason == "evidence"


def test_a_kind_of_device_that_is_not_known_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evidence").write_bytes(canonical({"x": {"type": "toaster", "evidence": "", "endorsements": []}}))
    assert run("inspect", tmp_path / "evidence") == 1
    assert "toaster" in capsys.readouterr().err


def captured(tmp_path: Path, *arguments: str | Path) -> Policy:
    assert run("policy", "capture", "--container", "c", "--out", tmp_path / "policy.json", *arguments) == 0
    return Policy.from_json(json.loads((tmp_path / "policy.json").read_text()))


def test_a_policy_is_captured_from_signed_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    maker = make_maker()
    monkeypatch.setattr(references, "NVIDIA_RIM_ROOT", maker.root)
    (tmp_path / "driver").write_bytes(Manifest().signed(maker))
    (tmp_path / "vbios").write_bytes(Manifest(version="96.00.74.00.1A", active={2: [HASHES[2]]}).signed(maker))
    both: list[str | Path] = ["--rim", tmp_path / "driver", "--rim", tmp_path / "vbios"]
    day = time.strftime("%Y-%m-%d", time.gmtime(NOW))
    policy = captured(tmp_path, *both, "--rim-date", day)
    assert policy.hardware is not None
    assert policy.hardware.required == ("nvidia-gpu",)
    assert policy.hardware.gpu is not None
    assert policy.hardware.gpu.measurements["5"] == (HASHES[4], HASHES[5])
    assert run("policy", "show", tmp_path / "policy.json") == 0
    output = capsys.readouterr().out
    assert "hardware nvidia-gpu roots: 102bf659" in output
    assert "(NVIDIA Device Identity CA)" in output
    for given, text in (
        ([*both[:2], "--rim-date", day], "a driver's manifest and a VBIOS's are needed"),
        ([*both, "--rim-date", "2001-01-01"], "chain-time; was it valid on an earlier day? --rim-date"),
        ([*both, "--rim-date", "yesterday"], "expected a day as YYYY-MM-DD"),
        (["--rim", tmp_path / "policy.json"], "expected a manifest that NVIDIA signed; refused: rim-format"),
    ):
        assert run("policy", "capture", "--container", "c", *given) == 4
        assert text in capsys.readouterr().err


def test_a_policy_is_captured_from_evidence_of_a_trusted_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report").write_bytes(REPORT)
    (tmp_path / "quote").write_bytes(QUOTE)
    (tmp_path / "collateral").write_text(json.dumps(dict(INTEL.collateral)))
    snp = captured(tmp_path, "--evidence", tmp_path / "report").hardware
    assert snp is not None
    assert snp.snp is not None
    assert (snp.required, snp.snp.tcb["microcode"], snp.snp.roots) == (("sev-snp",), 209, references.AMD_ROOTS)
    tdx = captured(tmp_path, "--evidence", tmp_path / "quote", "--collateral", tmp_path / "collateral").hardware
    assert tdx is not None
    assert tdx.tdx is not None
    assert (tdx.required, tdx.tdx.roots) == (("tdx",), (references.INTEL_ROOT,))
    assert run("policy", "show", tmp_path / "policy.json") == 0
    assert "hardware tdx collateral: sha256 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (SPDM, "for a GPU use --rim"),
        (b"text", "expected a TDX quote or an SEV-SNP report"),
        (QUOTE, "give it with --collateral"),
        (AMD.sign(bytes(SnpFields(report_data=bytes(64), policy=3 << 17 | 1 << 19))), "snp-debug"),
        (INTEL.sign(bytes(QuoteFields(report_data=bytes(64), attributes=1))), "--collateral"),
    ],
    ids=range(5),
)
def test_evidence_that_is_no_reference_is_refused(
    content: bytes, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evidence").write_bytes(content)
    assert run("policy", "capture", "--container", "c", "--evidence", tmp_path / "evidence") == 4
    assert text in capsys.readouterr().err


def test_a_debuggable_td_is_no_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "collateral").write_text(json.dumps(dict(INTEL.collateral)))
    (tmp_path / "quote").write_bytes(INTEL.sign(bytes(QuoteFields(report_data=bytes(64), attributes=1))))
    given: list[str | Path] = ["--evidence", tmp_path / "quote", "--collateral", tmp_path / "collateral"]
    assert run("policy", "capture", "--container", "c", *given) == 4
    assert "tdx-debug" in capsys.readouterr().err
    (tmp_path / "collateral").write_text("{}")
    assert run("policy", "capture", "--container", "c", *given) == 4


def test_options_that_contradict_each_other_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("{}")
    both: list[list[str | Path]] = [
        ["--hardware", tmp_path / "file", "--rim", tmp_path / "file"],
        ["--collateral", tmp_path / "file"],
    ]
    for given in both:
        assert run("policy", "capture", "--container", "c", *given) == 4
        assert "expected" in capsys.readouterr().err
