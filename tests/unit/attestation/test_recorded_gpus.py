"""Real GPUs' evidence, recorded by others: accepted or refused by a real server, for what it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.tamper.fake_gpu import item
from pytest_glasshouse.wire.canonical import Json, canonical
from tests.unit.attestation.recorded import RecordedGpu, needs_vectors, nvidia, nvidia_json, nvidia_root, show

pytestmark = needs_vectors

HOPPER = ("hopperAttestationReport.txt", "hopperCertChain.txt")
BLACKWELL = ("blackwellAttestationReport.txt", "blackwellCertChain.txt")


def shown(gpu: RecordedGpu, monkeypatch: pytest.MonkeyPatch, **references: Any) -> dict[str, Json]:
    hardware = gpu.hardware(nvidia_root(), **references)
    return show({"gpu-0": gpu.item()}, hardware, monkeypatch, nonce32=gpu.measured.nonce)["gpu-0"]


def refusal(gpu: RecordedGpu, monkeypatch: pytest.MonkeyPatch, **references: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        shown(gpu, monkeypatch, **references)
    return caught.value.reason


def test_a_recorded_hopper_is_accepted_and_says_which_device_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = shown(nvidia(*HOPPER), monkeypatch, models=("GH100",))
    assert (gpu["driver"], gpu["vbios"], gpu["model"], gpu["mode"]) == ("580.159.03", "96.00.74.00.20", "GH100", "single")
    assert (gpu["id"], gpu["firmware_id"], gpu["ear_status"]) == ("48B02D51C9C1070B", "compared", "none")


def test_a_recorded_blackwell_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its firmware id is the first of a list in another extension, whose last bytes are zeros."""
    gpu = shown(nvidia(*BLACKWELL), monkeypatch)
    assert (gpu["model"], gpu["vbios"], gpu["firmware_id"]) == ("GB100", "97.00.88.00.0F", "compared")


def test_a_row_s_chip_is_held_to_the_device_s_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(nvidia(*BLACKWELL), monkeypatch, models=("GH100",)) == "gpu-model"


def test_a_signature_that_nvidia_recorded_as_bad_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = nvidia("hopperAttestationReportInvalidSignature.txt", "hopperCertChain.txt")
    assert refusal(bad, monkeypatch, modes=("protected-pcie",)) == "spdm-signature"


def test_a_recorded_gpu_of_a_protected_pcie_machine_needs_a_policy_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switches of such a machine see plaintext and have not attested."""
    (gpu,) = nvidia_json("hopper_evidence.json")
    assert refusal(gpu, monkeypatch) == "gpu-mode"
    assert shown(gpu, monkeypatch, modes=("single", "protected-pcie"))["mode"] == "protected-pcie"


def test_eight_gpus_of_one_machine_fit_into_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = nvidia_json("eight_gpus_evidence.json")
    devices: dict[str, Json] = {f"gpu-{place}": gpu.item() for place, gpu in enumerate(gpus)}
    assert len(canonical(devices)) > 80_000
    hardware = gpus[0].hardware(nvidia_root(), modes=("protected-pcie",), count=8, measurements={"2": _second(gpus)})
    found = show(devices, hardware, monkeypatch, nonce32=gpus[0].measured.nonce)
    assert len({submod["id"] for submod in found.values()}) == 8
    with pytest.raises(RefusedError) as caught:
        show({**devices, "gpu-7": gpus[0].item()}, hardware, monkeypatch, nonce32=gpus[0].measured.nonce)
    assert caught.value.reason == "device-twice"
    del devices["gpu-7"]
    with pytest.raises(RefusedError) as caught:
        show(devices, hardware, monkeypatch, nonce32=gpus[0].measured.nonce)
    assert caught.value.reason == "gpu-count"


def _second(gpus: list[RecordedGpu]) -> tuple[str, ...]:
    return tuple({gpu.measured.blocks[2].hex() for gpu in gpus})


def test_recorded_evidence_is_not_for_this_session() -> None:
    """Without a replaced nonce, a recording is a replay."""
    gpu = nvidia(*HOPPER)
    with pytest.MonkeyPatch.context() as nothing, pytest.raises(RefusedError) as caught:
        show({"gpu-0": gpu.item()}, gpu.hardware(nvidia_root()), nothing)
    assert caught.value.reason == "device-nonce"


def test_a_driver_that_reports_no_firmware_id_is_the_policy_s_to_accept() -> None:
    """As older drivers on Hopper. The bytes are no longer signed, so this is the check alone."""
    gpu = nvidia(*HOPPER)
    rest = {kind: data for kind, data in gpu.measured.opaque.items() if kind != spdm.FWID}
    without = dataclasses.replace(gpu.measured, opaque=rest)
    leaf = spdm_leaf(gpu)
    assert not spdm.check_firmware(without, leaf, required=False)
    with pytest.raises(RefusedError, match="reports no firmware id") as caught:
        spdm.check_firmware(without, leaf, required=True)
    assert caught.value.reason == "fwid"
    assert spdm.check_firmware(gpu.measured, leaf, required=False)
    other = dataclasses.replace(gpu.measured, opaque={**rest, spdm.FWID: bytes(48)})
    with pytest.raises(RefusedError, match="another firmware"):
        spdm.check_firmware(other, leaf, required=False)


def spdm_leaf(gpu: RecordedGpu) -> Any:
    from pytest_glasshouse.attestation.certificates import load, pem_blocks

    return load(pem_blocks(gpu.pem)[0])


@pytest.mark.parametrize("recording", [HOPPER, BLACKWELL])
def test_a_bit_in_every_ninth_byte_of_an_accepted_recording_is_refused(recording: tuple[str, str]) -> None:
    """Report and chain; whole servers are above, here it is the verifier alone."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from pytest_glasshouse.attestation import hardware
    from pytest_glasshouse.owner.policy import Recorded
    from pytest_glasshouse.wire.evidence import Cnf
    from pytest_glasshouse.wire.hardware import named

    gpu = nvidia(*recording)
    cnf = Cnf(hpke=X25519PrivateKey.generate().public_key(), sig=Ed25519PrivateKey.generate().public_key())
    policy = Policy(name="n", version=1, components={"a": Recorded()}, container="c", hardware=gpu.hardware(nvidia_root()))

    def judge(evidence: bytes, pem: str) -> None:
        devices: dict[str, Json] = {"gpu-0": item(evidence, pem)}
        hardware.appraise_hardware(
            {"submods": named(devices)}, devices, nonce="00" * 32, cnf=cnf, policy=policy, now=1_800_000_000
        )

    with pytest.MonkeyPatch.context() as patched:
        from pytest_glasshouse.attestation import nvidia_gpu

        patched.setattr(nvidia_gpu, "device_nonce", lambda _nonce, _cnf: gpu.measured.nonce)
        judge(gpu.evidence, gpu.pem)
        for at in range(0, len(gpu.evidence), 9):
            with pytest.raises(RefusedError):
                judge(_flipped(gpu.evidence, at), gpu.pem)
        text = gpu.pem.rstrip("\n").encode()
        for at in range(0, len(text), 9):
            with pytest.raises(RefusedError):
                judge(gpu.evidence, _flipped(text, at).decode("latin-1"))


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]
