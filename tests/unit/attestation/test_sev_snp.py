"""A report of every version, generation and kind of key is accepted for what it is. (Each refusal's reason is in the tamper suite.)"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation.certificates import as_pem
from pytest_glasshouse.attestation.device_evidence import DeviceEvidence
from pytest_glasshouse.attestation.sev_snp import SnpAppraiser
from pytest_glasshouse.owner.policy import Policy, Recorded
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.tamper.fake_certificates import value
from pytest_glasshouse.tamper.fake_snp import (
    CHIP,
    LEVELS,
    TURIN_LEVELS,
    FakeAmd,
    SnpFields,
    extensions,
    genuine_amd,
    make_amd,
)
from pytest_glasshouse.wire import der
from pytest_glasshouse.wire.canonical import Json, b64u
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import device_nonce, report_data

NOW = 1_800_000_000
NONCE = "ab" * 32
CNF = Cnf(hpke=X25519PrivateKey.generate().public_key(), sig=Ed25519PrivateKey.generate().public_key())
DATA = report_data(device_nonce(NONCE, CNF))
AMD = genuine_amd(NOW)


def appraise(
    chip: FakeAmd, report: bytes, hardware: Hardware | None = None, *, endorsed: bool = True
) -> tuple[str, dict[str, Json]]:
    section = chip.hardware() if hardware is None else hardware
    policy = Policy(name="n", version=1, components={"a": Recorded()}, container="c", hardware=section)
    pem = "".join(map(as_pem, chip.chain))
    item = DeviceEvidence(type="sev-snp", evidence=b64u(report), endorsements=(pem,) if endorsed else ())
    return SnpAppraiser(NOW).appraise(item, NONCE, CNF, policy)


def report(chip: FakeAmd, **fields: Any) -> bytes:
    return chip.sign(bytes(SnpFields(**{"report_data": DATA, **fields})))


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_every_version_of_a_report_is_accepted(version: int) -> None:
    over = ((0x1F8, b"\1" * 16),) if version == 5 else ()
    tier, claims = appraise(AMD, report(AMD, version=version, over=over))
    assert (tier, claims["tcb"], claims["signer"]) == ("affirming", LEVELS, "vcek")


def test_a_processor_of_turin_has_its_own_order_of_the_tcb_and_a_short_chip_id() -> None:
    turin = make_amd(NOW, "leaf", extensions=extensions(product="Turin-B0", levels=TURIN_LEVELS, chip=CHIP[:8]))
    shown = report(turin, levels=TURIN_LEVELS, turin=True, family=0x1A, chip_id=CHIP[:8])
    tier, claims = appraise(turin, shown, turin.hardware(tcb=TURIN_LEVELS))
    assert (tier, claims["tcb"], claims["product"]) == ("affirming", TURIN_LEVELS, "Turin-B0")


def test_a_cloud_s_key_is_accepted_where_the_policy_names_it() -> None:
    """A VLEK is no chip's own: whatever chip id the report has is not compared."""
    cloud = make_amd(NOW, "leaf", extensions=extensions(chip=None, provider="a cloud"))
    shown = report(cloud, flags=1 << 2, chip_id=bytes(64))
    tier, claims = appraise(cloud, shown, cloud.hardware(signers=("vcek", "vlek")))
    assert (tier, claims["signer"]) == ("affirming", "vlek")


def test_a_chip_id_that_is_spelled_as_an_octet_string_is_the_same() -> None:
    spelled = make_amd(NOW, "leaf", extensions=extensions(chip=value(CHIP, tag=der.OCTET_STRING)))
    assert appraise(spelled, report(spelled))[0] == "affirming"


def test_what_the_policy_allows_is_allowed() -> None:
    shown = report(AMD, policy=1 << 17 | 1 << 16 | 1 << 18, host_data=bytes(32))
    tier, claims = appraise(AMD, shown, AMD.hardware(allow=("smt", "migration"), host_data=()))
    assert (tier, claims["smt"], claims["migration"]) == ("affirming", True, True)


def test_a_guest_without_certificates_is_judged_by_the_owner_s() -> None:
    given = AMD.hardware(certificates="".join(map(as_pem, AMD.chain)))
    assert appraise(AMD, report(AMD), given, endorsed=False)[0] == "affirming"
    tier, claims = appraise(AMD, report(AMD), endorsed=False)
    assert (tier, claims["reason"]) == ("contraindicated", "chain-format")


def test_every_bit_is_bound() -> None:
    """One bit of every ninth byte; of every byte with SOAK=1."""
    genuine = report(AMD)
    for at in range(0, len(genuine), 1 if os.environ.get("SOAK") == "1" else 9):
        changed = genuine[:at] + bytes((genuine[at] ^ 1 << at % 8,)) + genuine[at + 1 :]
        assert appraise(AMD, changed)[0] == "contraindicated", at


def test_another_root_than_a_pinned_one_is_none() -> None:
    other = dataclasses.replace(AMD, chain=make_amd(NOW, "root", kind="P-384").chain)
    assert appraise(other, report(AMD), AMD.hardware())[1]["reason"] == "chain-root"
