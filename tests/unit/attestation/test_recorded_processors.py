"""Real processors' evidence, recorded by others: accepted or refused by a real server, for what it is."""

from __future__ import annotations

import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation.snp_report import read_report
from pytest_glasshouse.attestation.tdx_quote import read_quote
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import Cnf
from tests.unit.attestation.recorded import (
    after_issue,
    needs_vectors,
    serving,
    show,
    snp_chain,
    snp_hardware,
    snp_item,
    snp_report,
    tdx_hardware,
    tdx_item,
    tdx_quote,
    with_one_bit_flipped,
)

pytestmark = needs_vectors
CNF = Cnf(hpke=X25519PrivateKey.generate().public_key(), sig=Ed25519PrivateKey.generate().public_key())


def show_tdx(hardware: Hardware | None = None, **changed: Any) -> dict[str, Json]:
    hardware = tdx_hardware() if hardware is None else hardware
    changed = {"now": after_issue(hardware), "report_data": read_quote(tdx_quote()).report_data, **changed}
    quote = changed.pop("quote", None)
    return show({"cpu": tdx_item(quote)}, hardware, **changed)["cpu"]


def test_a_recorded_quote_is_accepted_while_its_collateral_is_valid() -> None:
    cpu = show_tdx()
    assert (cpu["ear_status"], cpu["status"], cpu["advisories"]) == ("affirming", "UpToDate", [])
    assert cpu["collateral_date"] == "2025-06-19T10:16:03Z"


@pytest.mark.parametrize("now", [int(time.time()), 1_000_000_000], ids=["today", "before-its-issue"])
def test_collateral_outside_its_time_is_refused(now: int) -> None:
    with pytest.raises(RefusedError) as caught:
        show_tdx(now=now)
    assert caught.value.reason in {"tdx-collateral-expired", "tdx-quote"}


def test_a_recorded_quote_is_a_replay_under_a_fresh_nonce() -> None:
    with pytest.raises(RefusedError) as caught:
        show_tdx(report_data=b"")
    assert caught.value.reason == "report-data"


def test_what_follows_a_quote_is_no_part_of_it() -> None:
    """Kernels give a buffer of fixed length: zeros are accepted and change nothing, other bytes are refused."""
    whole = read_quote(tdx_quote()).whole
    assert len(whole) < len(tdx_quote())
    ids = {show_tdx(quote=each)["id"] for each in (whole, whole + bytes(9), tdx_quote())}
    assert len(ids) == 1
    with pytest.raises(RefusedError) as caught:
        show_tdx(quote=whole + b"\1")
    assert caught.value.reason == "tdx-format"


def test_the_recorded_snp_report_is_refused_for_its_debug_bit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_report(snp_report()).report_data
    with pytest.raises(RefusedError) as caught:
        show({"cpu": snp_item()}, snp_hardware(), report_data=data)
    assert caught.value.reason == "snp-debug"
    monkeypatch.setattr("pytest_glasshouse.attestation.snp_report.DEBUG", 63)
    cpu = show({"cpu": snp_item()}, snp_hardware(), report_data=data)["cpu"]
    assert (cpu["ear_status"], cpu["product"], cpu["signer"]) == ("affirming", "Milan-B0", "vcek")
    assert cpu["tcb"] == {"bootloader": 2, "tee": 0, "snp": 5, "microcode": 68}


def test_one_flipped_bit_of_the_recorded_quote_is_refused_by_a_server() -> None:
    """The zeros behind it too. Each on a nonce of its own, and nothing is released."""
    hardware = tdx_hardware()
    with serving(hardware, now=after_issue(hardware), report_data=read_quote(tdx_quote()).report_data) as ask:
        ask({"cpu": tdx_item()})
        for at, quote in with_one_bit_flipped(tdx_quote()):
            with pytest.raises(RefusedError) as caught:
                ask({"cpu": tdx_item(quote)})
            assert caught.value.reason != "internal", at


def test_one_flipped_bit_of_the_recorded_snp_report_or_its_chain_is_refused_by_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its debug bit overlooked, without which it is refused as it is."""
    monkeypatch.setattr("pytest_glasshouse.attestation.snp_report.DEBUG", 63)
    with serving(snp_hardware(), report_data=read_report(snp_report()).report_data) as ask:
        ask({"cpu": snp_item()})
        for at, report in with_one_bit_flipped(snp_report()):
            with pytest.raises(RefusedError) as caught:
                ask({"cpu": snp_item(report)})
            assert caught.value.reason != "internal", at
        for at, chain in with_one_bit_flipped(snp_chain().rstrip("\n").encode()):
            with pytest.raises(RefusedError) as caught:
                ask({"cpu": {**snp_item(), "endorsements": [chain.decode("latin-1")]}})
            assert caught.value.reason != "internal", at
