"""Real processors' evidence, recorded by others: accepted or refused by a real server, for what it is."""

from __future__ import annotations

import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation import sev_snp, tdx
from pytest_glasshouse.attestation.device_evidence import Appraiser, DeviceEvidence
from pytest_glasshouse.attestation.snp_report import read_report
from pytest_glasshouse.attestation.tdx_quote import read_quote
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.policy import Policy, Recorded
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import Cnf
from tests.unit.attestation.recorded import (
    NOW,
    after_issue,
    needs_vectors,
    show,
    snp_chain,
    snp_hardware,
    snp_item,
    snp_report,
    tdx_hardware,
    tdx_item,
    tdx_quote,
)

pytestmark = needs_vectors
CNF = Cnf(hpke=X25519PrivateKey.generate().public_key(), sig=Ed25519PrivateKey.generate().public_key())


def show_tdx(monkeypatch: pytest.MonkeyPatch, hardware: Hardware | None = None, **changed: Any) -> dict[str, Json]:
    hardware = tdx_hardware() if hardware is None else hardware
    changed = {"now": after_issue(hardware), "report_data": read_quote(tdx_quote()).report_data, **changed}
    quote = changed.pop("quote", None)
    return show({"cpu": tdx_item(quote)}, hardware, monkeypatch, **changed)["cpu"]


def test_a_recorded_quote_is_accepted_while_its_collateral_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = show_tdx(monkeypatch)
    assert (cpu["ear_status"], cpu["status"], cpu["advisories"]) == ("affirming", "UpToDate", [])
    assert cpu["collateral_date"] == "2025-06-19T10:16:03Z"


@pytest.mark.parametrize("now", [int(time.time()), 1_000_000_000], ids=["today", "before-its-issue"])
def test_collateral_outside_its_time_is_refused(now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError) as caught:
        show_tdx(monkeypatch, now=now)
    assert caught.value.reason in {"tdx-collateral-expired", "tdx-quote"}


def test_a_recorded_quote_is_a_replay_under_a_fresh_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError) as caught:
        show_tdx(monkeypatch, report_data=b"")
    assert caught.value.reason == "report-data"


def test_what_follows_a_quote_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels give a buffer of fixed length: zeros are accepted and change nothing, other bytes are refused."""
    whole = read_quote(tdx_quote()).whole
    assert len(whole) < len(tdx_quote())
    ids = {show_tdx(monkeypatch, quote=each)["id"] for each in (whole, whole + bytes(9), tdx_quote())}
    assert len(ids) == 1
    with pytest.raises(RefusedError) as caught:
        show_tdx(monkeypatch, quote=whole + b"\1")
    assert caught.value.reason == "tdx-format"


def test_the_recorded_snp_report_is_refused_for_its_debug_bit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_report(snp_report()).report_data
    with pytest.raises(RefusedError) as caught:
        show({"cpu": snp_item()}, snp_hardware(), monkeypatch, report_data=data)
    assert caught.value.reason == "snp-debug"
    monkeypatch.setattr("pytest_glasshouse.attestation.snp_report.DEBUG", 63)
    cpu = show({"cpu": snp_item()}, snp_hardware(), monkeypatch, report_data=data)["cpu"]
    assert (cpu["ear_status"], cpu["product"], cpu["signer"]) == ("affirming", "Milan-B0", "vcek")
    assert cpu["tcb"] == {"bootloader": 2, "tee": 0, "snp": 5, "microcode": 68}


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]


def test_a_bit_in_every_ninth_byte_of_the_recorded_quote_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zeros behind it too. Whole servers are above, here it is the appraiser alone."""
    monkeypatch.setattr(tdx, "report_data", lambda _nonce: read_quote(tdx_quote()).report_data)
    hardware = tdx_hardware()
    appraiser = tdx.TdxAppraiser(after_issue(hardware))
    assert appraise(appraiser, tdx_item(), hardware) == "affirming"
    for at in range(0, len(tdx_quote()), 9):
        assert appraise(appraiser, tdx_item(flipped(tdx_quote(), at)), hardware) == "contraindicated", at


def test_a_bit_in_every_ninth_byte_of_the_recorded_snp_report_and_its_chain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its debug bit overlooked, without which it is refused as it is."""
    monkeypatch.setattr(sev_snp, "report_data", lambda _nonce: read_report(snp_report()).report_data)
    monkeypatch.setattr("pytest_glasshouse.attestation.snp_report.DEBUG", 63)
    hardware, appraiser = snp_hardware(), sev_snp.SnpAppraiser(NOW)
    assert appraise(appraiser, snp_item(), hardware) == "affirming"
    for at in range(0, len(snp_report()), 9):
        assert appraise(appraiser, snp_item(flipped(snp_report(), at)), hardware) == "contraindicated", at
    chain = snp_chain().rstrip("\n").encode()
    for at in range(0, len(chain), 9):
        changed: dict[str, Json] = {**snp_item(), "endorsements": [flipped(chain, at).decode("latin-1")]}
        assert appraise(appraiser, changed, hardware) == "contraindicated", at


def appraise(appraiser: Appraiser, item: dict[str, Json], hardware: Hardware) -> str:
    policy = Policy(name="n", version=1, components={"a": Recorded()}, container="c", hardware=hardware)
    listed: Any = item["endorsements"]
    evidence = DeviceEvidence(type=str(item["type"]), evidence=str(item["evidence"]), endorsements=tuple(listed))
    return appraiser.appraise(evidence, "00" * 32, CNF, policy)[0]
