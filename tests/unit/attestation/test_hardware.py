"""Devices are judged one by one, and the worst decides. (What each check refuses is in the tamper suite.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.attestation.device_evidence import Appraiser, DeviceEvidence, HardwareClaims
from pytest_glasshouse.attestation.hardware import APPRAISERS, appraise_hardware, worst
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.policy import Policy, Recorded
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.tamper.fake_gpu import CHIP, DRIVER, NUMBER, VBIOS, SpdmReport, genuine, item
from pytest_glasshouse.tamper.fake_snp import SnpFields, genuine_amd
from pytest_glasshouse.tamper.testbed import PLAN, SUB, TamperTestbed
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import TYP_RESULT, Cnf
from pytest_glasshouse.wire.hardware import device_nonce, named, report_data
from pytest_glasshouse.wire.tokens import verify

NOW = 1_800_000_000
NONCE = "ab" * 32
CNF = Cnf(hpke=X25519PrivateKey.generate().public_key(), sig=Ed25519PrivateKey.generate().public_key())
DEVICE = genuine(NOW)
GPU: dict[str, Json] = {"gpu-0": DEVICE.item(device_nonce(NONCE, CNF))}


def policy(hardware: Hardware | None) -> Policy:
    return Policy(name="n", version=1, components={"a": Recorded()}, container="c", hardware=hardware)


class Tee:
    """A processor whose tier the test sets."""

    status = "affirming"

    def __init__(self, now: int) -> None:
        self.now = now

    def appraise(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        return self.status, {"reason": "tee-bad"}


class Doubtful(Tee):
    status = "warning"


def judge(devices: dict[str, Json], hardware: Hardware | None, tee: type[Tee] | None = None) -> dict[str, HardwareClaims]:
    appraisers: dict[str, Callable[[int], Appraiser]] = dict(APPRAISERS)
    if tee is not None:
        appraisers["tdx"] = tee
    claims: dict[str, Json] = {"submods": named(devices)} if devices else {}
    return appraise_hardware(claims, devices, nonce=NONCE, cnf=CNF, policy=policy(hardware), now=NOW, appraisers=appraisers)


def test_a_policy_without_hardware_is_satisfied_without_evidence() -> None:
    assert judge({}, None) == {}


def test_a_gpu_without_cpu_evidence_is_unbound_and_has_no_tier() -> None:
    """Its evidence is given to any process that reaches the GPU: nothing in it shows where the leg's keys are."""
    found = judge(GPU, DEVICE.hardware())
    assert found["gpu-0"] == {
        "ear_status": "none",
        "type": "nvidia-gpu",
        "binding": "gpu-unbound",
        "driver": DRIVER,
        "vbios": VBIOS,
        "measurements": 2,
        "model": CHIP,
        "id": NUMBER,
        "mode": "single",
        "firmware_id": "compared",
    }


def test_a_gpu_is_bound_by_cpu_evidence_with_the_same_nonce() -> None:
    found = judge({**GPU, "cpu": item(b"quote", "", "tdx")}, DEVICE.hardware(), Tee)
    assert (found["gpu-0"]["ear_status"], found["cpu"]["ear_status"]) == ("affirming", "affirming")
    assert "binding" not in found["gpu-0"]


def test_a_gpu_behind_switches_that_did_not_attest_is_never_bound() -> None:
    """In protected-PCIe mode the switches see plaintext; a policy may accept such GPUs, and they raise no claim."""
    report = SpdmReport(nonce=device_nonce(NONCE, CNF))
    report = dataclasses.replace(report, opaque=(*report.opaque, (spdm.FEATURES, b"\x02\0")))
    gpu = item(DEVICE.sign(bytes(report)), DEVICE.pem())
    references = DEVICE.hardware().gpu
    assert references is not None
    allowed = Hardware(required=("nvidia-gpu",), gpu=dataclasses.replace(references, modes=("single", "protected-pcie")))
    found = judge({"gpu-0": gpu, "cpu": item(b"quote", "", "tdx")}, allowed, Tee)
    assert (found["gpu-0"]["ear_status"], found["gpu-0"]["binding"]) == ("none", "switches-unattested")


def test_a_gpu_and_a_real_appraiser_of_processors_make_one_chain() -> None:
    """Both sign for the same nonce and keys: nothing is left unbound."""
    amd = genuine_amd(NOW)
    cpu = amd.item(SnpFields(report_data=report_data(device_nonce(NONCE, CNF))))
    section = dataclasses.replace(DEVICE.hardware(), snp=amd.hardware().snp)
    found = judge({**GPU, "cpu": cpu}, section)
    assert {name: each["ear_status"] for name, each in found.items()} == {"gpu-0": "affirming", "cpu": "affirming"}


def test_doubtful_cpu_evidence_refuses_the_release() -> None:
    with pytest.raises(RefusedError) as caught:
        judge({**GPU, "cpu": item(b"quote", "", "tdx")}, DEVICE.hardware(), Doubtful)
    assert caught.value.reason == "tee-bad"


def test_a_required_device_that_is_absent_is_contraindicated_whatever_else_is_there() -> None:
    without: tuple[dict[str, Json], ...] = ({}, {"cpu": item(b"quote", "", "tdx")})
    for devices in without:
        with pytest.raises(RefusedError) as caught:
            judge(devices, DEVICE.hardware(), Tee)
        assert caught.value.reason == "hardware-absent"


def test_a_device_that_is_not_required_is_still_judged() -> None:
    found = judge(GPU, DEVICE.hardware(required=()))
    assert found["gpu-0"]["ear_status"] == "none"
    assert judge({}, DEVICE.hardware(required=())) == {}


def test_a_session_on_software_says_nothing_of_hardware() -> None:
    """Nor does its policy, so that its digest and everything that is signed stay what they were."""
    with TamperTestbed() as testbed:
        attempt = testbed.attempt()
        assert "hardware" not in attempt.challenge
        assert "hardware" not in testbed.policy.to_json()
        assert "submods" not in attempt.claims
        result = verify(attempt.release()["result"], key=testbed.embedded.public_key, typ=TYP_RESULT)
        assert isinstance(result["submods"], dict)
        assert list(result["submods"]) == ["runtime"]


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        ((), "affirming"),
        (("none",), "affirming"),
        (("affirming", "warning"), "warning"),
        (("warning", "contraindicated", "none"), "contraindicated"),
    ],
)
def test_the_worst_tier_decides(tiers: tuple[str, ...], expected: str) -> None:
    assert worst([{"ear_status": tier} for tier in tiers]) == expected


def test_a_key_is_released_to_a_session_with_gpu_evidence_and_the_result_holds_its_tier() -> None:
    """All steps: the challenge asks for devices, the evidence and the result have one submod for each, the leg opens the key."""
    with TamperTestbed() as testbed:
        device = genuine(testbed.now)
        testbed.policy = dataclasses.replace(testbed.make_policy(name="gpu"), hardware=device.hardware())
        testbed.sealed = testbed.seal()
        testbed.register(testbed.sealed, testbed.policy)
        testbed.enrol(f"{SUB}/gpu", grant=testbed.grant(f"{SUB}/gpu"))
        attempt = testbed.attempt(f"{SUB}/gpu")
        assert attempt.challenge["hardware"] == ["nvidia-gpu"]
        cnf = Cnf(hpke=attempt.hpke.public_key(), sig=attempt.sig.public_key())
        attempt.devices = {"gpu-0": device.item(device_nonce(attempt.nonce, cnf))}
        attempt.claims["submods"] = named(attempt.devices)
        released = attempt.release()
        result = verify(released["result"], key=testbed.embedded.public_key, typ=TYP_RESULT)
        assert isinstance(result["submods"], dict)
        assert {name: submod["ear_status"] for name, submod in result["submods"].items() if isinstance(submod, dict)} == {
            "gpu-0": "none",
            "runtime": "affirming",
        }
        assert (result["ear_status"], result["plan"]) == ("affirming", PLAN)
        attempt.unseal(released).close()
