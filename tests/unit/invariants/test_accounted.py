"""How much time may be claimed: to the nanosecond what passed, and what two clocks may differ by."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.invariants import judge, time_accounted_for
from pytest_glasshouse.invariants.accounted import CLOCKS_PPM
from pytest_glasshouse.tamper import turns
from pytest_glasshouse.tamper.signed_round import SEGMENT_NS, SignedRound
from pytest_glasshouse.tamper.testbed import WEAK_KEY, TamperTestbed
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import b64u, canonical, sha256_hex

#: What a leg of the finished round claims: warm-up, a stretch of twice a segment, loading, prologue, export.
_CLAIMED_NS = 3 * SEGMENT_NS + 3_000_000


@pytest.fixture(scope="module", name="finished")
def a_finished_round() -> Any:
    with TamperTestbed() as testbed:
        return SignedRound(testbed).observation


def _with_window(observation: Any, passed_ns: int) -> Any:
    seen = copy.deepcopy(observation)
    seen["rounds"][0]["raw"]["host"] = {"startNs": 7, "exitNs": 7 + passed_ns}
    return seen


@pytest.mark.parametrize(
    ("short_ppm", "finding"), [(-1, "held"), (0, "held"), (CLOCKS_PPM - 2, "held"), (CLOCKS_PPM + 2, "broken")]
)
def test_leg_may_claim_the_elapsed_time_plus_the_clock_tolerance(finished: Any, short_ppm: int, finding: str) -> None:
    passed_ns = _CLAIMED_NS - _CLAIMED_NS * short_ppm // 1_000_000
    assert time_accounted_for(_with_window(finished, passed_ns)).finding == finding


def test_impossible_time_breaks_no_other_finding(finished: Any) -> None:
    findings = judge(_with_window(finished, 1))
    assert [each.invariant for each in findings if each.finding != "held"] == ["time accounted for"]


@pytest.mark.parametrize("host", [{}, {"startNs": 1}, {"startNs": 1, "exitNs": None}], ids=str)
def test_missing_clock_reading_is_unseen(finished: Any, host: Any) -> None:
    seen = copy.deepcopy(finished)
    seen["rounds"][0]["raw"]["host"] = host
    assert time_accounted_for(seen).finding == "unseen"


@pytest.mark.parametrize("ak", [b64u(WEAK_KEY), "no key", ""])
def test_invalid_agent_key_is_judged_and_never_held(ak: Any) -> None:
    """The guest sends its key, and every invariant that reads its signatures uses it."""
    with TamperTestbed() as testbed:
        seen = SignedRound(testbed, turns=turns.TURNS).observation
    for met in seen["rounds"][0]["guest"]:
        met["ak"] = ak
    findings = {each.invariant: each.finding for each in judge(seen)}
    assert findings["raw callback completed"] == findings["legs in order, not overlapping"] == "unseen"
    assert "held" not in {findings["time accounted for"], findings["same allocation"]}


def test_every_round_is_judged_by_its_own_clocks(finished: Any) -> None:
    """A long second round does not pay for a short first one."""
    seen = _with_window(finished, 1)
    seen["rounds"].append({**copy.deepcopy(finished["rounds"][0]), "round": 2})
    assert time_accounted_for(seen).finding == "broken"


def test_null_row_is_judged_by_the_host_clock(finished: Any) -> None:
    seen = copy.deepcopy(finished)
    seen["plan"], notes = {"null": True}, seen["rounds"][0]
    notes |= {"order": ["raw", "raw2"], "protected": None, "raw2": copy.deepcopy(notes["raw"])}
    notes["guest"][0]["leg"] = "raw2"
    assert time_accounted_for(seen).finding == "held"
    notes["raw2"]["host"]["exitNs"] = notes["raw2"]["host"]["startNs"] + SEGMENT_NS
    found = time_accounted_for(seen)
    assert (found.finding, "raw2" in found.reason) == ("broken", True)
    assert "time accounted for" in {each.invariant for each in judge(seen)}


def test_total_below_the_sum_of_its_segments_is_broken() -> None:
    """Segments of two hours each, beside a sum that would fit."""

    def long_segments(about: str, content: Any) -> None:
        if about == "callback":
            for segment in content["segments"]:
                segment[2] = 7_200_000_000_000

    with TamperTestbed() as testbed:
        seen = SignedRound(testbed, long_segments, turns=turns.TURNS).observation
    assert time_accounted_for(seen).finding == "broken"


def test_receipt_of_another_signer_bounds_nothing(finished: Any) -> None:
    seen = copy.deepcopy(finished)
    protected = seen["rounds"][0]["protected"]
    claims = {**tokens.peek(protected["receipt"]), "held_ms": 10**9}
    protected["receipt"] = tokens.sign(claims, key=Ed25519PrivateKey.generate(), typ="glasshouse-receipt+jwt")
    assert time_accounted_for(seen).finding == "broken"


def test_callback_is_bound_to_what_is_judged(finished: Any) -> None:
    """The stretch of this test's fixture is the one its agent signed for."""
    raw = finished["rounds"][0]["raw"]
    assert tokens.peek(raw["exit"])["head"] == sha256_hex(canonical(raw["callback"]))
    assert raw["callback"]["elapsed_ns"] + raw["callback"]["warmup_ns"] + sum(raw["callback"]["phases"].values()) == _CLAIMED_NS
