"""Real GPUs' evidence, recorded by others: accepted or refused by a real server, for what it is."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.tamper.fake_gpu import item
from pytest_glasshouse.wire.canonical import Json, canonical
from tests.unit.attestation.recorded import (
    VECTORS,
    RecordedGpu,
    needs_vectors,
    nvidia,
    nvidia_json,
    nvidia_root,
    serving,
    show,
    with_one_bit_flipped,
)

pytestmark = needs_vectors

HOPPER = ("hopperAttestationReport.txt", "hopperCertChain.txt")
BLACKWELL = ("blackwellAttestationReport.txt", "blackwellCertChain.txt")


def shown(gpu: RecordedGpu, **references: Any) -> dict[str, Json]:
    hardware = gpu.hardware(nvidia_root(), **references)
    return show({"gpu-0": gpu.item()}, hardware, nonce32=gpu.measured.nonce)["gpu-0"]


def refusal(gpu: RecordedGpu, **references: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        shown(gpu, **references)
    return caught.value.reason


def test_a_recorded_hopper_is_accepted_and_says_which_device_it_is() -> None:
    gpu = shown(nvidia(*HOPPER), models=("GH100",))
    assert (gpu["driver"], gpu["vbios"], gpu["model"], gpu["mode"]) == ("580.159.03", "96.00.74.00.20", "GH100", "single")
    assert (gpu["id"], gpu["firmware_id"], gpu["ear_status"]) == ("48B02D51C9C1070B", "compared", "none")


def test_a_recorded_blackwell_is_accepted() -> None:
    """Its firmware id is the first of a list in another extension, whose last bytes are zeros."""
    gpu = shown(nvidia(*BLACKWELL))
    assert (gpu["model"], gpu["vbios"], gpu["firmware_id"]) == ("GB100", "97.00.88.00.0F", "compared")


def test_a_row_s_chip_is_held_to_the_device_s_own_name() -> None:
    assert refusal(nvidia(*BLACKWELL), models=("GH100",)) == "gpu-model"


def test_a_signature_that_nvidia_recorded_as_bad_is_refused() -> None:
    bad = nvidia("hopperAttestationReportInvalidSignature.txt", "hopperCertChain.txt")
    assert refusal(bad, modes=("protected-pcie",)) == "spdm-signature"


def test_a_recorded_gpu_of_a_protected_pcie_machine_needs_a_policy_that_says_so() -> None:
    """The switches of such a machine see plaintext and have not attested."""
    (gpu,) = nvidia_json("hopper_evidence.json")
    assert refusal(gpu) == "gpu-mode"
    assert shown(gpu, modes=("single", "protected-pcie"))["mode"] == "protected-pcie"


def test_eight_gpus_of_one_machine_fit_into_one_request() -> None:
    gpus = nvidia_json("eight_gpus_evidence.json")
    devices: dict[str, Json] = {f"gpu-{place}": gpu.item() for place, gpu in enumerate(gpus)}
    assert len(canonical(devices)) > 80_000
    hardware = gpus[0].hardware(nvidia_root(), modes=("protected-pcie",), count=8, measurements={"2": _second(gpus)})
    found = show(devices, hardware, nonce32=gpus[0].measured.nonce)
    assert len({submod["id"] for submod in found.values()}) == 8
    with pytest.raises(RefusedError) as caught:
        show({**devices, "gpu-7": gpus[0].item()}, hardware, nonce32=gpus[0].measured.nonce)
    assert caught.value.reason == "device-twice"
    del devices["gpu-7"]
    with pytest.raises(RefusedError) as caught:
        show(devices, hardware, nonce32=gpus[0].measured.nonce)
    assert caught.value.reason == "gpu-count"


def _second(gpus: list[RecordedGpu]) -> tuple[str, ...]:
    return tuple({gpu.measured.blocks[2].hex() for gpu in gpus})


def test_recorded_evidence_is_not_for_this_session() -> None:
    """Without a replaced nonce, a recording is a replay."""
    gpu = nvidia(*HOPPER)
    with pytest.raises(RefusedError) as caught:
        show({"gpu-0": gpu.item()}, gpu.hardware(nvidia_root()))
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


def _accepted() -> dict[str, RecordedGpu]:
    """One of each recording that a server accepts."""
    return {
        "hopper": nvidia(*HOPPER), "blackwell": nvidia(*BLACKWELL), "protected-pcie": nvidia_json("hopper_evidence.json")[0],
        "one-of-eight": nvidia_json("eight_gpus_evidence.json")[7],
    }  # fmt: skip


@pytest.mark.parametrize("recording", ["hopper", "blackwell", "protected-pcie", "one-of-eight"])
def test_one_flipped_bit_of_report_or_chain_is_refused_by_a_server(recording: str) -> None:
    """Each on a nonce of its own, and nothing is released."""
    gpu = _accepted()[recording]
    hardware = gpu.hardware(nvidia_root(), modes=(gpu.measured.mode,))
    with serving(hardware, nonce32=gpu.measured.nonce) as ask:
        ask({"gpu-0": gpu.item()})
        for at, evidence in with_one_bit_flipped(gpu.evidence):
            with pytest.raises(RefusedError) as caught:
                ask({"gpu-0": item(evidence, gpu.pem)})
            assert caught.value.reason != "internal", at
        for at, chain in with_one_bit_flipped(gpu.pem.rstrip("\n").encode()):
            with pytest.raises(RefusedError) as caught:
                ask({"gpu-0": item(gpu.evidence, chain.decode("latin-1"))})
            assert caught.value.reason != "internal", at


def test_a_recording_is_read_as_nvidia_reads_it() -> None:
    """Its own parse lies beside the recording."""
    theirs = json.loads((VECTORS / "nvidia" / "spdm_parsed_output.json").read_text("ascii"))
    ours = nvidia(*HOPPER).measured
    assert theirs["Signature"] == f"0x{ours.signature.hex()}"
    fields = theirs["OpaqueData"]["OpaqueDataField"]
    named = {"DRIVER_VERSION": spdm.DRIVER, "VBIOS_VERSION": spdm.VBIOS, "NVDEC0_STATUS": spdm.VIDEO_DECODER, "FWID": spdm.FWID}
    named["PROTECTED_PCIE_STATUS"] = spdm.PROTECTED_PCIE
    assert {name: fields[f"OPAQUE_FIELD_ID_{name}"] for name in named} == {
        name: f"0x{ours.opaque[kind].hex()}" for name, kind in named.items()
    }
    blocks = theirs["MeasurementRecord"]["MeasurementBlocks"]
    assert {int(index): block["DMTFSpecMeasurementValue"] for index, block in blocks.items()} == {
        index: f"0x{value.hex()}" for index, value in ours.blocks.items()
    }
