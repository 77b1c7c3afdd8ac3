"""Real processors' evidence, recorded by others: accepted or refused by a real server, for what it is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pytest_glasshouse.attestation.snp_report import read_report
from pytest_glasshouse.attestation.tdx_quote import read_quote
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.wire.canonical import Json
from tests.unit.attestation.recorded import (
    after_issue,
    needs_vectors,
    show,
    snp_hardware,
    snp_item,
    snp_report,
    tdx_hardware,
    tdx_item,
    tdx_quote,
)

pytestmark = needs_vectors


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
