from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from pytest_glasshouse.observation.results import results

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "guest_conversations.json").read_text())
OBSERVATION: Any = RECORDED["one after the other"]["observation"]


def test_a_leg_that_was_never_timed_has_no_figures() -> None:
    """Its rate would be a division by nothing, an exception in place of a record."""
    (honest,) = results(OBSERVATION)
    assert honest.raw is not None
    for name in ("units", "elapsed_ns"):
        changed = copy.deepcopy(OBSERVATION)
        changed["rounds"][0]["raw"]["callback"][name] = 0
        assert results(changed)[0].raw is None


def test_no_duration_is_negative_in_any_order_of_events() -> None:
    """A negative one is no report's, and the whole run would not be published for it."""
    changed = copy.deepcopy(OBSERVATION)
    for leg in ("protected", "raw"):
        timeline = changed["rounds"][0][leg]["timeline"]
        last = max(timeline.values())
        changed["rounds"][0][leg]["timeline"] = {name: last - t_ns for name, t_ns in timeline.items()}
    (round_result,) = results(changed)
    assert round_result.protected is not None
    assert round_result.raw is not None
    for result in (round_result.protected, round_result.raw):
        assert result.setup_ns >= 0
        assert min(result.phases_ns.values()) >= 0
    assert (round_result.protected.zeroize_ns or 0) >= 0
