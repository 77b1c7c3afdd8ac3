"""Appraises hardware evidence: one status and one set of claims per device; the worst status decides.

Knows which devices can be appraised. Refuses unknown devices, missing required ones, and one that is shown twice. A GPU alone
affirms nothing: without a CPU TEE's evidence for the same nonce, nothing binds the GPU to the machine that holds the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_glasshouse.attestation.device_evidence import (
    AFFIRMING,
    CONTRAINDICATED,
    NONE,
    TIERS,
    Appraiser,
    DeviceEvidence,
    HardwareClaims,
)
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.attestation.nvidia_gpu import NvidiaAppraiser
from pytest_glasshouse.attestation.nvidia_spdm import PPCIE
from pytest_glasshouse.attestation.sev_snp import SnpAppraiser
from pytest_glasshouse.attestation.tdx import TdxAppraiser
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import (
    CPU_TEES,
    ITEM_NAME,
    ITEM_SHAPE,
    ITEMS_LIMIT,
    NAMED_SHAPE,
    NVIDIA_GPU,
    RUNTIME,
    SEV_SNP,
    TDX,
    item_sha256,
)
from pytest_glasshouse.wire.tokens import expect

#: Why an affirmed GPU makes no statement.
GPU_UNBOUND, SWITCHES_UNATTESTED = "gpu-unbound", "switches-unattested"

#: The appraiser of each kind of device.
APPRAISERS: Mapping[str, Callable[[int], Appraiser]] = {
    NVIDIA_GPU: NvidiaAppraiser,
    SEV_SNP: SnpAppraiser,
    TDX: TdxAppraiser,
}


def appraise_hardware(
    claims: Mapping[str, Json],
    devices: Mapping[str, Json],
    *,
    nonce: str,
    cnf: Cnf,
    policy: Policy,
    now: int,
    appraisers: Mapping[str, Callable[[int], Appraiser]] = APPRAISERS,
) -> dict[str, HardwareClaims]:
    """The attestation result's submods about devices, when the worst of them is no worse than affirming.

    `devices` is the evidence beside the token. Raises `RefusedError` with the reason of the first that is worse. The caller has
    appraised everything else.
    """
    items = _read(claims["submods"], devices) if "submods" in claims else {}
    require(devices.keys() == items.keys(), "hardware-digest", "evidence that the token does not name")
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
    _withdraw_unbound_gpus(found)
    for submod in found.values():
        require(worst([submod]) in {NONE, AFFIRMING}, str(submod.get("reason", "hardware")), str(submod.get("detail", "")))
    _count(found, policy)
    return found


def worst(submods: list[HardwareClaims]) -> str:
    """The worst tier of the submods, affirming where there are none."""
    return max([AFFIRMING, *(str(submod["ear_status"]) for submod in submods)], key=TIERS.index)


def _read(submods: Json, devices: Mapping[str, Json]) -> dict[str, DeviceEvidence]:
    """The evidence that the token names, each by its digest."""
    require(isinstance(submods, dict) and 0 < len(submods) <= ITEMS_LIMIT, "claims-type", "submods")
    found: dict[str, DeviceEvidence] = {}
    for name, value in submods.items() if isinstance(submods, dict) else ():
        require(ITEM_NAME.fullmatch(name) is not None and name != RUNTIME, "claims-type", "submods")
        named, item = _object(value, NAMED_SHAPE), _object(devices.get(name), ITEM_SHAPE)
        require(named["sha256"] == item_sha256(item), "hardware-digest", name)
        require(named["type"] == item["type"], "hardware-digest", "another kind of device")
        listed = item["endorsements"]
        texts = tuple(text for text in listed if isinstance(text, str)) if isinstance(listed, list) else ()
        require(isinstance(listed, list) and len(texts) == len(listed), "claims-type", "endorsements")
        found[name] = DeviceEvidence(type=str(item["type"]), evidence=str(item["evidence"]), endorsements=texts)
    return found


def _object(value: Json, shape: Mapping[str, type]) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise RefusedError("claims-type", "submods")
    try:
        expect(value, shape)
    except IntegrityError as error:
        raise RefusedError("claims-type", f"submods {error.detail}") from None
    return value


def _count(found: Mapping[str, HardwareClaims], policy: Policy) -> None:
    """Each device counts once, and there are as many GPUs as the policy names. A key lives in one machine."""
    devices = [(str(submod["type"]), str(submod["id"])) for submod in found.values() if "id" in submod]
    require(len(set(devices)) == len(devices), "device-twice", ", ".join(sorted(number for _, number in devices)))
    require(sum(submod["type"] in CPU_TEES for submod in found.values()) <= 1, "device-twice", "more than one processor")
    wanted = policy.hardware.gpu.count if policy.hardware and policy.hardware.gpu else None
    gpus = sum(submod["type"] == NVIDIA_GPU for submod in found.values())
    require(wanted is None or gpus == wanted, "gpu-count", f"{gpus} of {wanted}")


def _withdraw_unbound_gpus(found: dict[str, HardwareClaims]) -> None:
    """A GPU answers any machine that reaches it: its evidence alone does not show which machine holds the key."""
    bound = any(submod["type"] in CPU_TEES and submod["ear_status"] == AFFIRMING for submod in found.values())
    for submod in found.values():
        if submod["type"] == NVIDIA_GPU and submod["ear_status"] == AFFIRMING:
            if not bound:
                submod.update(ear_status=NONE, binding=GPU_UNBOUND)
            elif submod.get("mode") == PPCIE:
                submod.update(ear_status=NONE, binding=SWITCHES_UNATTESTED)
