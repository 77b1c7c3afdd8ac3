"""A row on a machine whose processor attests: asked for on a real leg, bound to its keys, and checkable from the notes alone.

The processor is simulated inside the guest: in place of the module that asks the kernel is one that signs with a key made here.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pytest_glasshouse.attestation.certificates import as_pem
from pytest_glasshouse.attestation.reappraisal import device_faults
from pytest_glasshouse.channel.archive import GUEST_MAIN
from pytest_glasshouse.legs.allocation_policy import base_policy
from pytest_glasshouse.legs.row_runner import ProtectedRuntime
from pytest_glasshouse.report.attestation_root import attestation_root, bound_to_hardware
from pytest_glasshouse.tamper.fake_snp import FakeAmd, SnpFields, make_amd
from pytest_glasshouse.wire.canonical import Json, b64u, sha256_hex, unb64u
from pytest_glasshouse.wire.evidence import TYP_EVIDENCE, TYP_RESULT
from pytest_glasshouse.wire.tokens import peek, sign
from tests.numpy_guest.archive import numpy_archive_with
from tests.rounds.conftest import carry_out, short_row

_SIGNS = """
from dataclasses import dataclass
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_pem_private_key

@dataclass
class TsmReport:
    report: bytes
    certificates: tuple

def tsm_report(kind, data, *, root=None):
    fields = bytes.fromhex({fields!r})
    fields = fields[:0x50] + data + fields[0x90:]
    r, s = decode_dss_signature(load_pem_private_key({key!r}, None).sign(fields, ec.ECDSA(SHA384())))
    report = (fields + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(0x4A0, bytes(1))
    return TsmReport(report, ({chain!r},))
"""


def guest_on(chip: FakeAmd) -> bytes:
    """The archive of a guest whose kernel passes on what `chip` signs."""
    key = chip.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    source = _SIGNS.format(fields=bytes(SnpFields(report_data=bytes(64))).hex(), key=key, chain="".join(map(as_pem, chip.chain)))
    return numpy_archive_with({"__main__.py": GUEST_MAIN.encode(), "pytest_glasshouse/agent/tsm_report.py": source.encode()})


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The observation of one row that ran under a policy which requires the processor."""
    chip = make_amd(int(time.time()))
    archive = guest_on(chip)
    captured = base_policy(name="snp", archive_sha256=sha256_hex(archive), container="any", completion_s=60)
    policy = dataclasses.replace(captured, hardware=chip.hardware())
    ran = carry_out(
        short_row(order="protected-first"),
        tmp_path_factory.mktemp("row"),
        archive=archive,
        runtime=lambda host_attestation: ProtectedRuntime(host_attestation, policy=policy),
    )
    assert ran.outcome.ended is None, ran.outcome.ended
    return ran.outcome.observation


def report(observation: Any, *, gpu: str | None = None) -> Any:
    """As much of a report as its root of trust is derived from."""
    return {"rows": [{"observation": observation, "gpuModel": gpu}], "excludedResults": [], "nullRows": []}


def test_a_row_whose_processor_attested_has_a_hardware_root(notes: Any) -> None:
    assert attestation_root(report(notes)) == "hardware"
    assert list(device_faults(report(notes))) == []


def test_a_row_on_a_gpu_that_did_not_attest_has_none(notes: Any) -> None:
    """The processor vouches for the machine, not for the GPU that the weights go to."""
    assert attestation_root(report(notes, gpu="NVIDIA H100 80GB HBM3")) == "software"


def test_a_round_in_which_no_device_was_asked_for_is_left_alone(notes: Any) -> None:
    changed = copy.deepcopy(notes)
    protected = changed["rounds"][0]["protected"]
    for name, typ in (("result", TYP_RESULT), ("evidence", TYP_EVIDENCE)):
        claims: Any = peek(protected[name])
        claims["submods"] = {name: each for name, each in claims["submods"].items() if name == "runtime"}
        if not claims["submods"]:
            del claims["submods"]
        protected[name] = sign(claims, key=Ed25519PrivateKey.generate(), typ=typ)
    del protected["devices"]
    assert list(device_faults(report(changed))) == []
    assert attestation_root(report(changed)) == "software"


def test_a_report_without_rows_has_none() -> None:
    assert attestation_root({"rows": [], "excludedResults": [], "nullRows": []}) == "software"


def test_a_round_without_a_result_has_none(notes: Any) -> None:
    changed = copy.deepcopy(notes["rounds"][0])
    del changed["protected"]["result"]
    assert list(device_faults(report({"rounds": [changed]}))) == []
    assert not bound_to_hardware(changed, gpu=False)
    changed["protected"]["result"] = "no token"
    assert not bound_to_hardware(changed, gpu=False)
    ((_, text),) = device_faults(report({"rounds": [changed]}))
    assert "cannot be appraised" in text
    del changed["protected"]["devices"]
    assert list(device_faults(report({"rounds": [changed]}))) == []


def _other_evidence(protected: Any) -> None:
    item = protected["devices"]["cpu"]
    changed = bytearray(unb64u(item["evidence"]))
    changed[0x90] ^= 1
    item["evidence"] = b64u(bytes(changed))


def _another_result(protected: Any) -> None:
    claims: Any = peek(protected["result"])
    claims["submods"]["cpu"]["product"] = "Genoa-B1"
    protected["result"] = sign(claims, key=Ed25519PrivateKey.generate(), typ=TYP_RESULT)


def _no_evidence(protected: Any) -> None:
    del protected["devices"]


def _other_policy(protected: Any) -> None:
    protected["policy"]["hardware"]["sev-snp"]["measurements"] = ["00" * 48]


def _no_policy(protected: Any) -> None:
    del protected["policy"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_other_evidence, "refused (hardware-digest)"),
        (_no_evidence, "refused (claims-type)"),
        (_other_policy, "not the one that the server appraised them by"),
        (_another_result, "does not follow from their evidence"),
        (_no_policy, "cannot be appraised (KeyError)"),
    ],
)
def test_what_the_server_affirmed_has_to_follow_from_the_evidence(change: Any, text: str, notes: Any) -> None:
    changed: dict[str, Json] = copy.deepcopy(notes)
    change(changed["rounds"][0]["protected"])  # type: ignore[index,call-overload]
    ((path, seen),) = device_faults(report(changed))
    assert (path, text in seen) == ("$.rows[0].observation.rounds[0].protected.devices", True), seen
