from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.observation.document import check_observation

ROOT = Path(__file__).parents[3]
REPORTS = [ROOT / "tests/data/reports/report-1.0-mock.json", *(ROOT / "reports/published").glob("*.json")]


def observations(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text())
    return [each["observation"] for name in ("rows", "excludedResults", "nullRows") for each in document[name]]


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_earlier_reports_have_the_types_of_the_document(path: Path) -> None:
    assert observations(path)
    for each in observations(path):
        assert check_observation(each, "$") is each


def test_nothing_observed_is_an_observation() -> None:
    assert check_observation({}, "$") == {}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["rounds"], {}, r"^\$\.rounds: expected a list, saw an object$"),
        (["rounds", 0, "protected", "journal"], "x", r"^\$\.rounds\[0\]\.protected\.journal: expected a list, saw a text$"),
        (["rounds", 0, "protected", "journal", 3], 5, r"\.journal\[3\]: expected a text, saw an integer$"),
        (["rounds", 0, "protected"], [], r"\.protected: expected an object, saw a list$"),
        (["rounds", 0, "raw", "callback"], {}, r"\.raw\.callback\.\w+: expected a value, saw none$"),
        (["rounds", 0, "raw", "callback", "units"], True, r"\.callback\.units: expected an integer, saw true or false$"),
        (["rounds", 0, "raw", "timeline", "spawned"], 1.5, r"\.timeline\.spawned: expected an integer, saw a number$"),
        (["rounds", 0, "guest", 1, "ak"], None, r"\.guest\[1\]\.ak: expected a text, saw null$"),
        (["rounds", 0, "order", 0], "third", r"\.order\[0\]: expected protected or raw or raw2, saw another text$"),
        (["plan", "rounds"], "one", r"^\$\.plan\.rounds: expected an integer, saw a text$"),
        (["material", "workload"], None, r"^\$\.material\.workload: expected mlp or lora, saw null$"),
    ],
)
def test_what_has_another_type_is_named_with_its_path(path: list[Any], value: object, message: str) -> None:
    changed = copy.deepcopy(observations(REPORTS[0])[0])
    part: Any = changed
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(ProtocolError, match=message):
        check_observation(changed, "$")


def test_unknown_members_are_accepted() -> None:
    """Raises where one is not: a report of a later version could not be checked by this one."""
    (changed,) = copy.deepcopy(observations(REPORTS[0]))
    changed["rounds"][0]["raw"]["callback"]["later"] = object()
    check_observation(changed, "$")
