"""Verification of hardware evidence is offline: collateral, chains and roots are the owner's to give."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys

import pytest

from tests.limits import HANG_S

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows two machines' numbers")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.unit.attestation.without_network", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)


def test_no_device_is_verified_with_a_network() -> None:
    ended = run()
    assert ended.stdout.splitlines() == ["nvidia-gpu affirming", "sev-snp affirming", "tdx affirming"], ended.stderr
    assert ended.returncode == 0


def test_a_socket_would_have_been_noticed() -> None:
    ended = run("ask")
    assert len(ended.stdout.splitlines()) == 3
    assert ended.returncode == -signal.SIGSYS
