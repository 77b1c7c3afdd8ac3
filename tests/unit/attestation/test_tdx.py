"""What a library in another language answers is believed only where it reads as we do; whatever it raises is a refusal."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import dcap_qvl
import pytest

from pytest_glasshouse.attestation.tdx import verify
from pytest_glasshouse.attestation.tdx_quote import read_quote
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.references import TdxReferences, read_collateral
from pytest_glasshouse.tamper.fake_tdx import QuoteFields, genuine_intel
from pytest_glasshouse.wire.canonical import Json

NOW = 1_800_000_000
INTEL = genuine_intel(NOW)
QUOTE = INTEL.sign(bytes(QuoteFields(report_data=bytes(64))))


def references() -> TdxReferences:
    section = INTEL.hardware().tdx
    assert section is not None
    return section


def refused(quote: bytes = QUOTE) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        verify(read_quote(quote), references(), now=NOW)
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [{}, {"version": 5}, {"version": 5, "body": (3, 648)}],
    ids=["version-4", "version-5-of-td-1.0", "version-5-of-td-1.5"],
)
def test_every_version_of_a_quote_is_verified(fields: dict[str, Any]) -> None:
    quote = read_quote(INTEL.sign(bytes(QuoteFields(report_data=bytes(64), **fields))))
    assert verify(quote, references(), now=NOW) == ("UpToDate", [])


def test_collateral_is_taken_as_its_clients_write_it() -> None:
    """With the chain of the platform's key, which is the quote's to show, and with either kind of newline."""
    given: dict[str, Json] = {**INTEL.collateral}
    assert read_collateral({**given, "pck_certificate_chain": "anything"}) == INTEL.collateral
    windows = {name: text.replace("\n", "\r\n") if name.endswith("chain") else text for name, text in INTEL.collateral.items()}
    assert verify(read_quote(QUOTE), dataclasses.replace(references(), collateral=windows), now=NOW) == ("UpToDate", [])
    for name in INTEL.collateral:
        with pytest.raises(IntegrityError):
            read_collateral({each: text for each, text in given.items() if each != name})
    with pytest.raises(IntegrityError):
        read_collateral({**given, "another": "x"})


def test_without_the_extra_nothing_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    assert refused().reason == "tdx-unavailable"


class Panic(BaseException):
    """As a panic of the library arrives: no `Exception`."""


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], str]) -> None:
    class Verified:
        def to_json(self) -> str:
            return answer()

    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", lambda *_: Verified())


def test_a_panic_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def panic() -> str:
        raise Panic("index out of bounds")

    answering(monkeypatch, panic)
    assert (refused().reason, refused().detail) == ("tdx-quote", "index out of bounds")


def test_a_user_s_interrupt_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    answering(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        verify(read_quote(QUOTE), references(), now=NOW)


_FIELDS = dict(read_quote(QUOTE).fields)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        "{}",
        json.dumps({"status": "UpToDate", "advisory_ids": [], "report": []}),
        json.dumps({"status": "UpToDate", "advisory_ids": [], "report": {"TD10": [], "TD15": []}}),
        json.dumps({"status": 1, "advisory_ids": [], "report": {"TD10": _FIELDS}}),
        json.dumps({"status": "UpToDate", "advisory_ids": [], "report": {"TD10": {**_FIELDS, "mr_td": "00" * 48}}}),
    ],
    ids=range(7),
)
def test_an_answer_of_another_form_or_about_another_quote_is_a_refusal(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda: answer)
    assert refused().reason == "tdx-quote"
