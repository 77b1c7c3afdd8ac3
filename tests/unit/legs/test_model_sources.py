"""The ways by which a model may reach a guest, in one order, or one sentence that says what would have to be given for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.legs.model_sources import Arriving, ModelSources
from pytest_glasshouse.workloads import stand_in
from pytest_glasshouse.workloads.base import BaseModel
from tests.unit.agent.arriving_models import FILES
from tests.unit.legs.model_row import base_of

HUB = "https://hub.example"
IN_MEMORY, ON_DISK = base_of(FILES), base_of(FILES, directory=Path("/nowhere"))
ON_HUB, BOTH = base_of(FILES, hub=HUB, on_host=False), base_of(FILES, hub=HUB, directory=Path("/nowhere"))
MADE = stand_in.base("org/model", None, in_guest=True)
_GUESTS = "there: name a directory of the guest with --glasshouse-guest-models"
_NO_HUB = "hub: the model is of no hub"
_NO_WEIGHTS = "pushed: this machine does not have its weights"

ORDERS: list[tuple[BaseModel, dict[str, Any], bool, tuple[Arriving, ...]]] = [
    (IN_MEMORY, {}, False, ("pushed",)),
    (IN_MEMORY, {}, True, ("pushed",)),
    (ON_DISK, {}, True, ("there",)),
    (ON_DISK, {}, False, ("pushed",)),
    (ON_HUB, {}, False, ("hub",)),
    (ON_HUB, {}, True, ("hub",)),
    (BOTH, {}, False, ("hub", "pushed")),
    (BOTH, {}, True, ("there",)),
    (BOTH, {"directory": "/models"}, False, ("there", "hub", "pushed")),
    (ON_HUB, {"directory": "/models"}, False, ("there", "hub")),
    (BOTH, {"only": "pushed"}, False, ("pushed",)),
    (BOTH, {"only": "hub"}, False, ("hub",)),
    (BOTH, {"only": "there", "directory": "/models"}, False, ("there",)),
    (BOTH, {"push_limit_bytes": 10}, False, ("hub",)),
    # On this machine, whatever was chosen for rented guests.
    *((IN_MEMORY, {"only": only}, True, ("pushed",)) for only in ("there", "hub", "pushed")),
    *((BOTH, {"only": only, "directory": "/models"}, True, ("there",)) for only in ("there", "hub", "pushed")),
    *((ON_HUB, {"only": only, "directory": "/models"}, True, ("hub",)) for only in ("there", "hub", "pushed")),
    (IN_MEMORY, {"push_limit_bytes": 10}, True, ("pushed",)),
    # A guest makes a stand-in that was asked for, whatever was chosen.
    *((MADE, {"only": only}, same_disk, ("made",)) for only in (None, "there", "hub") for same_disk in (True, False)),
    (stand_in.base("org/model", None), {}, True, ("pushed",)),
]


@pytest.mark.parametrize(("base", "options", "same_disk", "expected"), ORDERS)
def test_sources_come_in_one_order(
    base: BaseModel, options: dict[str, Any], same_disk: bool, expected: tuple[Arriving, ...]
) -> None:
    assert ModelSources(**options).of(base, same_disk=same_disk) == expected


REFUSED: list[tuple[BaseModel, dict[str, Any], str]] = [
    (IN_MEMORY, {"only": "there"}, _GUESTS),
    (IN_MEMORY, {"only": "hub"}, _NO_HUB),
    (ON_HUB, {"only": "pushed"}, _NO_WEIGHTS),
    (
        IN_MEMORY,
        {"push_limit_bytes": 10},
        f"{_GUESTS}; {_NO_HUB}; pushed: it has 0.0 GB, and at most 1e-08 are pushed unless --glasshouse-push-limit says more",
    ),
    (base_of(FILES, on_host=False), {}, f"{_GUESTS}; {_NO_HUB}; {_NO_WEIGHTS}"),
]


@pytest.mark.parametrize(("base", "options", "why"), REFUSED)
def test_no_source_at_all_is_one_sentence_with_what_would_have_to_be_given(
    base: BaseModel, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ModelSources(**options).of(base, same_disk=False)
    assert str(caught.value) == f"model org/model cannot reach a guest: {why}"
