"""Appraises hardware evidence: one status and one set of claims per device, and the worst of them decides.

Knows which devices can be judged. Refuses what it does not know, what a policy requires and nobody showed, and to believe a GPU
more than it shows: without a processor that vouches for the machine in the same nonce chain it raises no claim at all.
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

#: AR4SI's tiers, the worst last. `none` states nothing, neither good nor bad.
NONE, AFFIRMING, WARNING, CONTRAINDICATED = "none", "affirming", "warning", "contraindicated"
_TIERS = (NONE, AFFIRMING, WARNING, CONTRAINDICATED)
GPU_UNBOUND = "gpu-unbound"

HardwareClaims = dict[str, Json]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One device's evidence, as it came."""

    type: str
    evidence: str
    endorsements: tuple[str, ...]


class Appraiser(Protocol):
    """Judges one kind of device."""

    def appraise(self, item: Item, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        """A tier, and what may be said about the device; a contraindicated one says its `reason`."""
        ...


class NvidiaAppraiser:
    """An NVIDIA GPU's SPDM measurements against the policy's references, at `now` (wall seconds)."""

    def __init__(self, now: int) -> None:
        self._now = now

    def appraise(self, item: Item, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        try:
            return AFFIRMING, self._judge(item, nonce, cnf, policy)
        except (RefusedError, IntegrityError) as refusal:
            return CONTRAINDICATED, {"reason": refusal.reason, "detail": refusal.detail}

    def _judge(self, item: Item, nonce: str, cnf: Cnf, policy: Policy) -> HardwareClaims:
        references = policy.hardware.gpu if policy.hardware else None
        if references is None:
            raise RefusedError("hardware-unpinned", "the policy names no root for it")
        # 1. The form: every byte accounted for.
        require(len(item.endorsements) == 1, "chain-format", "one chain")
        measured = spdm.read_evidence(unb64u(item.evidence))
        # 2. A chain to a pinned root, and a signature by its leaf.
        leaf = spdm.read_chain(item.endorsements[0], roots=references.roots, now=self._now)
        spdm.check_signature(measured, leaf)
        # 3. Made for this session and these keys.
        require(measured.nonce == device_nonce(nonce, cnf), "device-nonce")
        # 4. By the firmware its key was made for, in versions and with measurements the policy allows.
        spdm.check_firmware(measured, leaf)
        require(measured.driver in references.drivers, "gpu-driver")
        require(measured.vbios in references.vbios, "gpu-vbios")
        for index, allowed in references.measurements.items():
            require(measured.blocks.get(int(index), b"").hex() in allowed, "gpu-measurement", index)
        return {"driver": measured.driver, "vbios": measured.vbios, "measurements": len(references.measurements)}


#: Who judges which kind.
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
        judge = appraisers.get(item.type)
        unknown: tuple[str, HardwareClaims] = (CONTRAINDICATED, {"reason": "hardware-unknown", "detail": item.type})
        status, said = judge(now).appraise(item, nonce, cnf, policy) if judge else unknown
        found[name] = {"ear_status": status, "type": item.type, **said}
    shown = {item.type for item in items.values()}
    for kind in policy.hardware.required if policy.hardware else ():
        if kind not in shown:
            found[f"{kind}-absent"] = {"ear_status": CONTRAINDICATED, "type": kind, "reason": "hardware-absent", "detail": kind}
    _unbind(found)
    for said in found.values():
        require(worst([said]) in {NONE, AFFIRMING}, str(said.get("reason", "hardware")), str(said.get("detail", "")))
    return found


def worst(submods: list[HardwareClaims]) -> str:
    """The tier that decides: the worst of them, affirming where there is none at all."""
    return max([AFFIRMING, *(str(said["ear_status"]) for said in submods)], key=_TIERS.index)


def _read(submods: Json) -> dict[str, Item]:
    require(isinstance(submods, dict) and 0 < len(submods) <= ITEMS_LIMIT, "claims-type", "submods")
    found: dict[str, Item] = {}
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
        found[name] = Item(type=str(value["type"]), evidence=str(value["evidence"]), endorsements=texts)
    return found


def _unbind(found: dict[str, HardwareClaims]) -> None:
    """A GPU answers whoever reaches it, from whatever machine: good evidence of a GPU says nothing about where the key is."""
    if any(said["type"] in CPU_TEES and said["ear_status"] == AFFIRMING for said in found.values()):
        return
    for said in found.values():
        if said["type"] == NVIDIA_GPU and said["ear_status"] == AFFIRMING:
            said.update(ear_status=NONE, binding=GPU_UNBOUND)
