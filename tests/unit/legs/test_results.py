from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from pytest_glasshouse.legs.results import results

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "guest_conversations.json").read_text())
OBSERVATION: dict[str, Any] = RECORDED["one after the other"]["observation"]


def test_a_leg_that_was_never_timed_has_no_figures() -> None:
    """Its rate would be a division by nothing, an exception in place of a record."""
    (honest,) = results(OBSERVATION)
    assert honest.raw is not None
    for name in ("units", "elapsed_ns"):
        changed = copy.deepcopy(OBSERVATION)
        changed["rounds"][0]["raw"]["callback"][name] = 0
        assert results(changed)[0].raw is None
