"""A device is asked with the session's own nonce, and one that cannot answer is left out."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.agent.hardware_evidence import EvidenceSource, NvidiaSource, collect
from pytest_glasshouse.errors import EvidenceUnavailableError
from pytest_glasshouse.guest.nvml import Nvml
from pytest_glasshouse.wire.canonical import Json, b64u
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import device_nonce, item_sha256

NONCE = "ab" * 32
CNF = Cnf(hpke=X25519PrivateKey.generate().public_key(), sig=Ed25519PrivateKey.generate().public_key())


class EchoDevice:
    """A fake device that returns the nonce it was given."""

    def __init__(self, name: str) -> None:
        self.name = name

    def collect(self, nonce32: bytes) -> dict[str, Json]:
        return {"type": "fake", "evidence": b64u(nonce32), "endorsements": []}


class UnavailableDevice(EchoDevice):
    def collect(self, nonce32: bytes) -> dict[str, Json]:
        raise EvidenceUnavailableError("silent: not available")


def two() -> Iterator[EvidenceSource]:
    return iter((EchoDevice("one"), UnavailableDevice("two"), EchoDevice("three")))


def test_nothing_is_claimed_where_nothing_is_asked_for() -> None:
    for wanted in (None, [], "fake", [7]):
        assert collect(wanted, nonce=NONCE, cnf=CNF, sources={"fake": two}) == ({}, {})  # type: ignore[arg-type]


def test_devices_are_asked_with_the_nonce_of_session_and_keys() -> None:
    claim, beside = collect(["fake"], nonce=NONCE, cnf=CNF, sources={"fake": two})
    expected: Json = {"type": "fake", "evidence": b64u(device_nonce(NONCE, CNF)), "endorsements": []}
    assert beside == {"devices": {"one": expected, "three": expected}}
    digest = item_sha256(expected)
    assert claim == {"submods": {name: {"type": "fake", "sha256": digest} for name in ("one", "three")}}


def test_device_that_cannot_be_asked_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        silent = {"fake": lambda: iter((UnavailableDevice("two"),))}
        assert collect(["fake"], nonce=NONCE, cnf=CNF, sources=silent) == ({}, {})
    assert "not available" in caplog.text


def test_a_kind_without_a_source_is_left_out() -> None:
    assert collect(["toaster"], nonce=NONCE, cnf=CNF) == ({}, {})


@pytest.mark.skipif(bool(Nvml().gpus()), reason="this machine has an NVIDIA GPU; its answer depends on its mode")
def test_a_machine_without_an_nvidia_gpu_has_no_evidence_to_show() -> None:
    with pytest.raises(EvidenceUnavailableError, match="not available"):
        NvidiaSource(0).collect(bytes(32))
    assert collect(["nvidia-gpu"], nonce=NONCE, cnf=CNF) == ({}, {})
