"""The hardware section of a policy reads back to what it was, and allows nothing by leaving something out."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.tamper.fake_gpu import genuine
from pytest_glasshouse.tamper.fake_snp import genuine_amd
from pytest_glasshouse.tamper.fake_tdx import genuine_intel
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.hardware import NVIDIA_GPU


def _json(section: Hardware) -> Any:
    return section.to_json()


HARDWARE = genuine(1_800_000_000).hardware()
SNP: dict[str, Any] = _json(genuine_amd(1_800_000_000).hardware())["sev-snp"]
TDX: dict[str, Any] = _json(genuine_intel(1_800_000_000).hardware())["tdx"]
GPU: dict[str, Any] = HARDWARE.gpu.to_json() if HARDWARE.gpu else {}


@pytest.mark.parametrize(
    "section",
    [
        HARDWARE,
        Hardware(required=("tdx",)),
        Hardware(gpu=HARDWARE.gpu),
        genuine_amd(1_800_000_000).hardware(allow=("smt",), certificates="PEM"),
        genuine_intel(1_800_000_000).hardware(advisories=("INTEL-SA-00001",)),
        genuine(1_800_000_000).hardware(count=8),
    ],
    ids=["both", "tdx", "gpu", "snp", "tdx-references", "count"],
)
def test_a_section_reads_back(section: Hardware) -> None:
    assert Hardware.from_json(section.to_json()) == section


def _snp(**changed: Json) -> Json:
    return {"required": [], "sev-snp": {**SNP, **changed}}


def _tdx(**changed: Json) -> Json:
    return {"required": [], "tdx": {**TDX, **changed}}


CANNOT_BE: dict[str, Json] = {
    "count of none": {"required": [], NVIDIA_GPU: {**GPU, "count": 0}},
    "count a flag": {"required": [], NVIDIA_GPU: {**GPU, "count": True}},
    "mode unknown": {"required": [], NVIDIA_GPU: {**GPU, "modes": ["off"]}},
    "firmware id never": {"required": [], NVIDIA_GPU: {**GPU, "firmware_id": "never"}},
    "chip in small letters": {"required": [], NVIDIA_GPU: {**GPU, "models": ["gh100"]}},
    "no tcb": _snp(tcb={}),
    "tcb of another component": _snp(tcb={"bios": 1}),
    "tcb a flag": _snp(tcb={"snp": True}),
    "tcb beyond a byte": _snp(tcb={"snp": 256}),
    "signed by nobody": _snp(signers=[]),
    "signed by another": _snp(signers=["vkek"]),
    "debugging allowed": _snp(allow=["debug"]),
    "certificates a number": _snp(certificates=1),
    "collateral with more": _tdx(collateral={**TDX["collateral"], "more": ""}),
    "collateral a number": _tdx(collateral={**TDX["collateral"], "tcb_info": 1}),
    "collateral of another date": _tdx(collateral_date="2027-01-15T08:00:01Z"),
    "collateral without a date": _tdx(collateral={**TDX["collateral"], "tcb_info": "{}"}),
    "a register left out": _tdx(measurements={name: each for name, each in TDX["measurements"].items() if name != "rtmr3"}),
    "status in words": _tdx(statuses=["up to date"]),
    "advisory in words": _tdx(advisories=["all"]),
    "a list": [],
    "nothing": {},
    "nobody asked": {"required": []},
    "required a word": {"required": "nvidia-gpu", NVIDIA_GPU: GPU},
    "required a number": {"required": [1]},
    "required twice": {"required": ["tdx", "tdx"]},
    "more": {"required": ["tdx"], "more": 1},
    "references a list": {"required": ["tdx"], NVIDIA_GPU: []},
    "references with more": {"required": [], NVIDIA_GPU: {**GPU, "more": 1}},
    "no root": {"required": [], NVIDIA_GPU: {**GPU, "roots": []}},
    "root in capitals": {"required": [], NVIDIA_GPU: {**GPU, "roots": ["AB" * 32]}},
    "no driver": {"required": [], NVIDIA_GPU: {**GPU, "drivers": []}},
    "driver without a name": {"required": [], NVIDIA_GPU: {**GPU, "drivers": [""]}},
    "vbios a word": {"required": [], NVIDIA_GPU: {**GPU, "vbios": "96.00.74.00.1A"}},
    "no measurement": {"required": [], NVIDIA_GPU: {**GPU, "measurements": {}}},
    "measurement without a value": {"required": [], NVIDIA_GPU: {**GPU, "measurements": {"2": []}}},
    "index in another spelling": {"required": [], NVIDIA_GPU: {**GPU, "measurements": {"02": ["ab" * 48]}}},
    "measurement cut": {"required": [], NVIDIA_GPU: {**GPU, "measurements": {"2": ["ab" * 32]}}},
}


@pytest.mark.parametrize("name", CANNOT_BE)
def test_an_invalid_section_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Hardware.from_json(CANNOT_BE[name])
    assert caught.value.reason == "policy"
