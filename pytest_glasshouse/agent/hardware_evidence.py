"""Collects hardware evidence on the guest: one source per kind of device.

The server appraises it. A device that does not answer is left out, and a policy that requires it is then not met.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.agent.tsm_report import tsm_report
from pytest_glasshouse.errors import EvidenceUnavailableError
from pytest_glasshouse.guest.nvml import Gpu, Nvml
from pytest_glasshouse.wire.canonical import Json, b64u
from pytest_glasshouse.wire.hardware import NVIDIA_GPU, SEV_SNP, TDX, device_nonce, named, report_data

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.wire.evidence import Cnf

_log = logging.getLogger(__name__)


class EvidenceSource(Protocol):
    """One device that attests."""

    name: str

    def collect(self, nonce32: bytes) -> dict[str, Json]:
        """`{type, evidence, endorsements}` made for these 32 bytes. Raises `EvidenceUnavailableError` when there is none."""
        ...


class NvidiaSource:
    """One NVIDIA GPU in confidential-computing mode, through NVML: its SPDM measurements and its certificate chain."""

    def __init__(self, index: int) -> None:
        self._index = index
        self.name = f"gpu-{index}"

    def collect(self, nonce32: bytes) -> dict[str, Json]:
        nvml = Nvml()
        try:
            found = Gpu(nvml, self._index).attestation(nonce32)
        finally:
            nvml.close()
        if found.value is None:
            raise EvidenceUnavailableError(f"{self.name}: not available: {nvml.reason or found.reason}")
        evidence, certificates = found.value
        return {
            "type": NVIDIA_GPU,
            "evidence": b64u(evidence),
            "endorsements": [certificates.rstrip(b"\0").decode("ascii", "replace")],
        }


class TeeSource:
    """The processor's TEE, through the kernel (configfs-tsm): a TDX quote, or an SEV-SNP report and the host's certificates."""

    name = "cpu"

    def __init__(self, kind: str, *, root: Path | None = None) -> None:
        self._kind = kind
        self._root = root

    def collect(self, nonce32: bytes) -> dict[str, Json]:
        answer = tsm_report(self._kind, report_data(nonce32), root=self._root)
        return {"type": self._kind, "evidence": b64u(answer.report), "endorsements": [*answer.certificates]}


def nvidia_sources() -> Iterator[EvidenceSource]:
    """A source for each GPU of this machine; without a GPU, one whose error says what is missing."""
    nvml = Nvml()
    try:
        count = len(nvml.gpus())
    finally:
        nvml.close()
    return (NvidiaSource(index) for index in range(max(1, count)))


#: How to find the devices of a kind. Other kinds are ignored.
SOURCES: Mapping[str, Callable[[], Iterator[EvidenceSource]]] = {
    NVIDIA_GPU: nvidia_sources,
    TDX: lambda: iter((TeeSource(TDX),)),
    SEV_SNP: lambda: iter((TeeSource(SEV_SNP),)),
}


def collect(
    wanted: Json,
    *,
    nonce: str,
    cnf: Cnf,
    sources: Mapping[str, Callable[[], Iterator[EvidenceSource]]] = SOURCES,
) -> tuple[dict[str, Json], dict[str, Json]]:
    """The `submods` claim for the kinds that a challenge asks for, and the `devices` to send beside the token.

    Both are empty where none was asked for or none answered.
    """
    kinds = [kind for kind in wanted if isinstance(kind, str)] if isinstance(wanted, list) else []
    nonce32 = device_nonce(nonce, cnf)
    found: dict[str, Json] = {}
    for kind in kinds:
        for source in sources[kind]() if kind in sources else ():
            try:
                found[source.name] = source.collect(nonce32)
            except EvidenceUnavailableError as error:
                _log.warning("hardware evidence: %s", error)
    return ({"submods": named(found)}, {"devices": found}) if found else ({}, {})
