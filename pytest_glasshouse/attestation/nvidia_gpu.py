"""Appraises an NVIDIA GPU: its SPDM measurements against the references of a policy."""

from __future__ import annotations

from cryptography import x509

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.attestation.certificates import read_chain
from pytest_glasshouse.attestation.device_evidence import DeviceEvidence, HardwareClaims, judged
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.owner.references import GpuReferences
from pytest_glasshouse.wire.canonical import unb64u
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import device_nonce


class NvidiaAppraiser:
    """An NVIDIA GPU, at `now` (wall seconds)."""

    def __init__(self, now: int) -> None:
        self._now = now

    def appraise(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        return judged(lambda: self._judge(item, nonce, cnf, policy))

    def _judge(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> HardwareClaims:
        references = policy.hardware.gpu if policy.hardware else None
        if references is None:
            raise RefusedError("hardware-unpinned", "the policy has no root for this device")
        # 1. The form, to the last byte.
        require(len(item.endorsements) == 1, "chain-format", "one chain")
        measured = spdm.read_evidence(unb64u(item.evidence))
        # 2. A chain to a pinned root, and the leaf's signature.
        leaf, *_ = read_chain(item.endorsements[0], roots=references.roots, now=self._now, known_critical=spdm.FWID_EXTENSIONS)
        spdm.check_signature(measured, leaf)
        # 3. Bound to this session and these keys.
        require(measured.nonce == device_nonce(nonce, cnf), "device-nonce")
        return self._compare(measured, leaf, references)

    def _compare(self, measured: spdm.SpdmMeasurements, leaf: x509.Certificate, references: GpuReferences) -> HardwareClaims:
        # 4. The firmware that the device's key was derived for, on an allowed chip, in an allowed mode.
        checked = spdm.check_firmware(measured, leaf, required=references.firmware_id_required)
        chip, number = spdm.device_info(leaf)
        require(not references.models or chip in references.models, "gpu-model", chip)
        require(measured.mode in references.modes, "gpu-mode", measured.mode or "unknown")
        # 5. Allowed versions and measurements.
        require(measured.driver in references.drivers, "gpu-driver")
        require(measured.vbios.upper() in {each.upper() for each in references.vbios}, "gpu-vbios")
        compared = {int(index): allowed for index, allowed in references.measurements.items() if measured.counts(int(index))}
        for index, allowed in compared.items():
            require(measured.blocks.get(index, b"").hex() in allowed, "gpu-measurement", str(index))
        return {
            "driver": measured.driver, "vbios": measured.vbios, "measurements": len(compared), "model": chip, "id": number,
            "mode": measured.mode, "firmware_id": "compared" if checked else "not-reported",
        }  # fmt: skip
