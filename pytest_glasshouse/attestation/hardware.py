"""Appraises hardware evidence: one status and one set of claims per device; the worst status decides.

Knows which devices can be appraised. Refuses unknown devices and missing required ones. A GPU alone affirms nothing: without a
CPU TEE's evidence for the same nonce, nothing binds the GPU to the machine that holds the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.wire.canonical import Json, unb64u
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import CPU_TEES, ITEM_NAME, ITEM_SHAPE, ITEMS_LIMIT, NVIDIA_GPU, RUNTIME, device_nonce
from pytest_glasshouse.wire.tokens import expect

#: AR4SI's tiers, the worst last. `none` makes no statement.
NONE, AFFIRMING, WARNING, CONTRAINDICATED = "none", "affirming", "warning", "contraindicated"
_TIERS = (NONE, AFFIRMING, WARNING, CONTRAINDICATED)
GPU_UNBOUND = "gpu-unbound"

HardwareClaims = dict[str, Json]


@dataclass(frozen=True, kw_only=True)
class DeviceEvidence:
    """One device's evidence, not yet judged."""

    type: str
    evidence: str
    endorsements: tuple[str, ...]


class Appraiser(Protocol):
    """Appraises one kind of device."""

    def appraise(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        """The tier and the claims about the device, with the `reason` where it is contraindicated."""
        ...


class NvidiaAppraiser:
    """An NVIDIA GPU's SPDM measurements against the policy's references, at `now` (wall seconds)."""

    def __init__(self, now: int) -> None:
        self._now = now

    def appraise(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        try:
            return AFFIRMING, self._judge(item, nonce, cnf, policy)
        except (RefusedError, IntegrityError) as refusal:
            return CONTRAINDICATED, {"reason": refusal.reason, "detail": refusal.detail}

    def _judge(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> HardwareClaims:
        references = policy.hardware.gpu if policy.hardware else None
        if references is None:
            raise RefusedError("hardware-unpinned", "the policy has no root for this device")
        # 1. The form, to the last byte.
        require(len(item.endorsements) == 1, "chain-format", "one chain")
        measured = spdm.read_evidence(unb64u(item.evidence))
        # 2. A chain to a pinned root, and the leaf's signature.
        leaf = spdm.read_chain(item.endorsements[0], roots=references.roots, now=self._now)
        spdm.check_signature(measured, leaf)
        # 3. Bound to this session and these keys.
        require(measured.nonce == device_nonce(nonce, cnf), "device-nonce")
        # 4. The firmware that the device's key was derived for, in allowed versions and with allowed measurements.
        spdm.check_firmware(measured, leaf)
        require(measured.driver in references.drivers, "gpu-driver")
        require(measured.vbios in references.vbios, "gpu-vbios")
        for index, allowed in references.measurements.items():
            require(measured.blocks.get(int(index), b"").hex() in allowed, "gpu-measurement", index)
        return {"driver": measured.driver, "vbios": measured.vbios, "measurements": len(references.measurements)}


#: The appraiser of each kind of device.
APPRAISERS: Mapping[str, Callable[[int], Appraiser]] = {NVIDIA_GPU: NvidiaAppraiser}


def appraise_hardware(
    claims: Mapping[str, Json],
    *,
    nonce: str,
    cnf: Cnf,
    policy: Policy,
    now: int,
    appraisers: Mapping[str, Callable[[int], Appraiser]] = APPRAISERS,
) -> dict[str, HardwareClaims]:
    """The attestation result's submods about devices, when the worst of them is no worse than affirming.

    Raises `RefusedError` with the reason of the first that is worse. The caller has appraised everything else.
    """
    items = _read(claims["submods"]) if "submods" in claims else {}
    found: dict[str, HardwareClaims] = {}
    for name, item in items.items():
        appraiser = appraisers.get(item.type)
        unknown: tuple[str, HardwareClaims] = (CONTRAINDICATED, {"reason": "hardware-unknown", "detail": item.type})
        status, device = appraiser(now).appraise(item, nonce, cnf, policy) if appraiser else unknown
        found[name] = {"ear_status": status, "type": item.type, **device}
    shown = {item.type for item in items.values()}
    for kind in policy.hardware.required if policy.hardware else ():
        if kind not in shown:
            found[f"{kind}-absent"] = {"ear_status": CONTRAINDICATED, "type": kind, "reason": "hardware-absent", "detail": kind}
    _downgrade_unbound_gpus(found)
    for submod in found.values():
        require(worst([submod]) in {NONE, AFFIRMING}, str(submod.get("reason", "hardware")), str(submod.get("detail", "")))
    return found


def worst(submods: list[HardwareClaims]) -> str:
    """The worst tier of the submods, affirming where there are none."""
    return max([AFFIRMING, *(str(submod["ear_status"]) for submod in submods)], key=_TIERS.index)


def _read(submods: Json) -> dict[str, DeviceEvidence]:
    require(isinstance(submods, dict) and 0 < len(submods) <= ITEMS_LIMIT, "claims-type", "submods")
    found: dict[str, DeviceEvidence] = {}
    for name, value in submods.items() if isinstance(submods, dict) else ():
        require(ITEM_NAME.fullmatch(name) is not None and name != RUNTIME, "claims-type", "submods")
        if not isinstance(value, dict):
            raise RefusedError("claims-type", "submods")
        try:
            expect(value, ITEM_SHAPE)
        except IntegrityError as error:
            raise RefusedError("claims-type", f"submods {error.detail}") from None
        listed = value["endorsements"]
        texts = tuple(text for text in listed if isinstance(text, str)) if isinstance(listed, list) else ()
        require(isinstance(listed, list) and len(texts) == len(listed), "claims-type", "endorsements")
        found[name] = DeviceEvidence(type=str(value["type"]), evidence=str(value["evidence"]), endorsements=texts)
    return found


def _downgrade_unbound_gpus(found: dict[str, HardwareClaims]) -> None:
    """A GPU answers any machine that reaches it: its evidence alone does not show which machine holds the key."""
    if any(submod["type"] in CPU_TEES and submod["ear_status"] == AFFIRMING for submod in found.values()):
        return
    for submod in found.values():
        if submod["type"] == NVIDIA_GPU and submod["ear_status"] == AFFIRMING:
            submod.update(ear_status=NONE, binding=GPU_UNBOUND)
