"""The live calibration: rows whose truth is known, on this machine, now, with neighbours. `make calibrate` runs it whole.

Seeds, counts and margins were written down before its first full run. In `make test` the same code runs for a moment, to
see that it works, and the arithmetic is checked on recorded runs: how well a busy machine can be measured in two seconds is
nothing a test may depend on.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.live import calibrate, summary
from tests.calibration.plan import COSTS, DEFERRED, DESIGN, ROWS, SEED, Design
from tests.calibration.stepper import Work

FULL = bool(os.environ.get("CALIBRATE"))
#: What must hold over 4 x 24 rows.
COVERED = 88
POOLED_ERROR_PCT = 0.5
SPREAD_RATIO = 8.0
RESULT = Path(os.environ.get("CALIBRATION_RESULT", "reports/calibration.json"))
RECORDED = sorted((Path(__file__).parents[1] / "data" / "calibration").glob("*.json"))


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """A calibration of this machine: the whole one, or a moment's."""
    design = DESIGN if FULL else Design(rounds=2, pairs=4, segment_s=0.05, washout_s=0.01, warmup_s=0.05, neighbours=1)
    found = calibrate(
        costs=COSTS if FULL else COSTS[:1], rows=ROWS if FULL else 1, seed=SEED, design=design,
        report=lambda text: print(text, flush=True), deferred=DEFERRED,
    )  # fmt: skip
    if FULL:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({**found, "summary": summary(found)}, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(summary(found), indent=1))
    return found


def test_mini_rows_are_measured_by_the_products_own_turn_scheduler(result: dict[str, Any]) -> None:
    for mini in result["minis"]:
        assert len(mini["log_ratios"]) == result["design"]["rounds"]
        assert len(mini["ci95"]) == 2
        assert mini["ci95"][0] < mini["pct"] < mini["ci95"][1]


def test_cost_deferred_to_a_thread_is_caught_by_the_paused_legs_processor_time(result: dict[str, Any]) -> None:
    assert [each["caught"] for each in result["deferred"]] == [True] * len(result["deferred"])


@pytest.mark.skipif(not FULL, reason="judged where the whole calibration runs: make calibrate")
def test_full_calibration_has_no_fault(result: dict[str, Any]) -> None:
    assert faults(summary(result)) == []


def faults(found: dict[str, Any]) -> list[str]:
    """What a calibration's summary shows that must not be."""
    checks = {
        f"{found['rows']} rows, expected {ROWS * len(COSTS)}": found["rows"] == ROWS * len(COSTS),
        f"the interval covers the truth in {found['covered']} rows": found["covered"] >= COVERED,
        f"pooled error of {found['pooledErrorPct']:.2f} points": abs(found["pooledErrorPct"]) < POOLED_ERROR_PCT,
        f"spread {found['spreadRatio']:.1f} times smaller": found["spreadRatio"] >= SPREAD_RATIO,
        f"{found['deferredCaught']} of {found['deferred']} deferred caught": found["deferredCaught"] == found["deferred"] == ROWS,
    }
    return [fault for fault, holds in checks.items() if not holds]


@pytest.mark.parametrize(("work", "truth"), [*zip(COSTS, (0.0, 0.4975, 1.9608, 5.0), strict=True)])
def test_truth_is_the_share_of_extra_steps(work: Work, truth: float) -> None:
    assert work.truth_pct == pytest.approx(truth, abs=1e-4)


def made(*, error: float = 0.0, wide: float = 1.0, sequential: float = 20.0, caught: int = 24) -> dict[str, Any]:
    """A calibration's result as it could be: 96 rows that lie `error` beside the truth and one point around it."""
    minis = []
    for truth in (0.0, 0.4975, 1.9608, 5.0):
        for row in range(ROWS):
            pct = truth + error + (1 if row % 2 else -1)
            minis.append({"truth_pct": truth, "pct": pct, "ci95": [pct - 1 - wide, pct + 1 + wide], "caught": False})
    return {
        "minis": minis,
        "sequentialPct": [sequential if row % 2 else -sequential for row in range(ROWS)],
        "deferred": [{"caught": row < caught} for row in range(ROWS)],
        "tookSec": 1.0,
    }


def test_summary_counts_the_rows_it_is_given() -> None:
    found = summary(made())

    assert (found["rows"], found["covered"], found["deferredCaught"]) == (96, 96, 24)
    assert found["pooledErrorPct"] == pytest.approx(0.0, abs=1e-9)
    assert found["spreadRatio"] == pytest.approx(20 * math.sqrt(24 / 23) / math.sqrt(96 / 92))
    low, high = found["spreadRatioCi95"]
    assert low < found["spreadRatio"] < high
    assert faults(found) == []


@pytest.mark.parametrize(
    "change", [{"error": 0.6}, {"wide": -0.5}, {"sequential": 7.0}, {"caught": 23}], ids=["error", "coverage", "spread", "idle"]
)
def test_calibration_that_fails_one_criterion_fails(change: dict[str, Any]) -> None:
    assert len(faults(summary(made(**change)))) == 1


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: str(path.stem))
def test_recorded_calibration_gives_its_recorded_summary(path: Path) -> None:
    recorded = json.loads(path.read_text("utf-8"))

    found = summary(recorded)

    assert {name: pytest.approx(value) for name, value in recorded["summary"].items()} == found
