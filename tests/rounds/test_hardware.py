"""A policy that requires a device which this machine does not have: asked for on a real leg, and no key without it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.guest.nvml import Nvml
from pytest_glasshouse.legs.allocation_policy import base_policy
from pytest_glasshouse.legs.row_runner import ProtectedRuntime
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.hardware import NVIDIA_GPU
from tests.numpy_guest.archive import numpy_archive
from tests.rounds.conftest import carry_out, short_row


@pytest.mark.skipif(bool(Nvml().gpus()), reason="this machine has an NVIDIA GPU; what it says depends on its mode")
def test_no_key_is_released_where_a_required_gpu_has_no_evidence(tmp_path: Path) -> None:
    captured = base_policy(name="gpu", archive_sha256=sha256_hex(numpy_archive()), container="any", completion_s=60)
    policy = dataclasses.replace(captured, hardware=Hardware(required=(NVIDIA_GPU,)))
    ran = carry_out(
        short_row(order="protected-first"),
        tmp_path,
        runtime=lambda host_attestation: ProtectedRuntime(host_attestation, policy=policy),
    )
    (observed,) = ran.outcome.observation["rounds"]
    protected: Any = observed["protected"]
    assert protected["challenge"]["hardware"] == [NVIDIA_GPU]
    assert protected["refusal"] == {"reason": "hardware-absent"}
    assert "result" not in protected
    assert ran.outcome.ended is not None
    assert (ran.outcome.ended.outcome, ran.outcome.ended.reason) == ("failed", "the attestation server refused: hardware-absent")
