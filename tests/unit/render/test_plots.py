"""The plots draw what was observed, and nothing that was not."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.render.plot_interval import common_scale, interval_plot
from pytest_glasshouse.render.plot_rate import rate_plot, rate_spans
from pytest_glasshouse.render.plot_timeline import phases, timeline_plot, turns_played

ROOT = Path(__file__).parents[3]
REPORT = ROOT / "tests" / "data" / "reports" / "report-1.0-mock.json"
INTERLEAVED = ROOT / "reports" / "published" / "2026-11-21-mock-interleaved-mlp.json"


def row_with_progress(*progress: tuple[float, int]) -> Any:
    """The row of a run, its protected leg's journal with these progress lines (seconds, units), the last of them its end."""
    row = json.loads(REPORT.read_bytes())["rows"][0]
    protected = row["observation"]["rounds"][0]["protected"]
    (place,) = [at for at, line in enumerate(protected["journal"]) if '"type":"train_completed"' in line]
    completed = json.loads(protected["journal"][place])
    lines = []
    for number, (seconds, units) in enumerate(progress, 1):
        entry = copy.deepcopy(completed)
        entry["type"] = "train_completed" if number == len(progress) else "train_progress"
        entry["body"] |= {"elapsed_ns": int(seconds * 1e9), "units": units}
        lines.append(json.dumps(entry, separators=(",", ":"), sort_keys=True))
    protected["journal"][place : place + 1] = lines
    return row


def protected_rates(row: Any) -> list[float]:
    return [round(each.rate) for each in rate_spans(row) if each.leg == "protected"]


def test_end_of_a_leg_right_after_its_last_progress_line_is_no_rate_of_zero() -> None:
    """The axis began at 0 for it, and the difference between the legs could not be read."""
    row = row_with_progress((1.0, 200), (2.0, 391), (2.003, 391))

    assert protected_rates(row) == [200, 190]
    labels = [float(each) for each in re.findall(r'text-anchor="end">([\d.]+)</text>', rate_plot(row))]
    assert min(labels) > 100


@pytest.mark.parametrize("progress", [((1.0, 200), (1.001, 200)), ((0.5, 100),), ((0.001, 0), (1.0, 200), (2.0, 400))])
def test_no_stretch_without_length_is_drawn(progress: tuple[tuple[float, int], ...]) -> None:
    assert protected_rates(row_with_progress(*progress)) in ([200], [200, 200])


def test_leg_that_stood_still_is_drawn_at_zero() -> None:
    """A whole second without a unit is what was observed."""
    assert protected_rates(row_with_progress((1.0, 200), (2.0, 200), (3.0, 400))) == [200, 0, 200]


def test_rounds_of_legs_in_turn_are_separated() -> None:
    row = row_with_progress((1.0, 200))
    row["roundFigures"] *= 3

    assert rate_plot(row).count('class="round"') == 2


def test_each_phase_has_a_colour_of_its_own() -> None:
    found = [each for path in (REPORT, INTERLEAVED) for row in json.loads(path.read_bytes())["rows"]
             for _, every in phases(row["observation"]) for each in every]  # fmt: skip
    assert len({each.css for each in found}) == len({each.name for each in found}) > 8


def test_turns_are_on_the_timeline_and_short_phases_are_drawn_again() -> None:
    (row,) = json.loads(INTERLEAVED.read_bytes())["rows"]
    number, found = phases(row["observation"])[0]
    turns = turns_played(row["observation"], number)
    drawn = timeline_plot(row["name"], number, found, turns)

    assert [each.leg for each in turns] == row["observation"]["rounds"][0]["turns"]
    assert drawn.count('class="turn ') == len(turns)
    below = drawn.partition("too short to be seen above")[2]
    assert all(f"<title>{name}: " in below for name in ("attest", "key release", "zeroize"))


def test_turns_outside_of_their_round_are_not_drawn() -> None:
    """A guest that lies signs any clock."""
    (row,) = json.loads(INTERLEAVED.read_bytes())["rows"]
    observation = row["observation"]
    for leg in ("protected", "raw"):
        timeline = observation["rounds"][0][leg]["timeline"]
        observation["rounds"][0][leg]["timeline"] = {name: at + 10**12 for name, at in timeline.items()}

    assert turns_played(observation, 1) == []


def test_raw_against_raw_has_a_lane_of_its_own() -> None:
    (row,) = json.loads(INTERLEAVED.read_bytes())["rows"]
    drawn = interval_plot(row, common_scale([row]), (-1.0, 1.0))
    null = re.search(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)" class="null"', drawn)
    point = re.search(r'cy="([\d.]+)"', drawn)

    assert null is not None
    assert point is not None
    assert float(null[1]) > float(point[1]) + 4.5
