"""The hardware section of a policy reads back to what it was, and allows nothing by leaving something out."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.tamper.fake_gpu import genuine
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.hardware import NVIDIA_GPU

HARDWARE = genuine(1_800_000_000).hardware()
GPU: dict[str, Any] = HARDWARE.gpu.to_json() if HARDWARE.gpu else {}


@pytest.mark.parametrize(
    "section", [HARDWARE, Hardware(required=("tdx",)), Hardware(gpu=HARDWARE.gpu)], ids=["both", "tdx", "gpu"]
)
def test_a_section_reads_back(section: Hardware) -> None:
    assert Hardware.from_json(section.to_json()) == section


CANNOT_BE: dict[str, Json] = {
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
