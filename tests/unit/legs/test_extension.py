"""A row is extended once, after its first rounds, by the rule; and never by a second look."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_glasshouse.legs.row_runner import Allocation, RowSettings
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.providers.base import Grant
from pytest_glasshouse.rows.leg_order import orders_of_row, row_seed
from pytest_glasshouse.rows.spec import RowSpec

ROW = RowSpec(name="a", workload="mlp", gpu="anygpu", order="raw-first", target_s=1.0, rounds=4)


class Grants:
    """A provider that lists nothing and plays nothing."""

    def listing(self) -> tuple[()]:
        return ()

    def inject_fault(self, grant: Grant, action: str) -> None:
        raise AssertionError(action)


class Leg:
    """A leg that takes no time and remembers when it ran."""

    keys: dict[str, Any] = {}  # noqa: RUF012  (nothing is put in)

    def marks(self, **_about: Any) -> None:
        """No server witnesses it."""

    def __init__(self, name: str, ran: list[tuple[int, str]]) -> None:
        self._name, self._ran = name, ran

    def run(self, current: Any, _role: str = "") -> None:
        self._ran.append((current.number, self._name))


def carried_out(tmp_path: Path, row: RowSpec = ROW, **settings: Any) -> tuple[Outcome, list[tuple[int, str]]]:
    grant = Grant(
        grant_id="g", allocation_id="a", provider="mock", instance_id="i", address=str(tmp_path / "agent.sock"), gpu_model="CPU", gpu_uuid=None,
        device="cpu", dry_run=True, simulated=False, faults=(), archive_sha256="0" * 64, reference_source="checkout",
    )  # fmt: skip
    ran: list[tuple[int, str]] = []
    given = RowSettings(declared=row, run_id="r", seed=7, **settings)
    allocation = Allocation(grant, cast("Any", Grants()), given, lambda _: None)
    with socket.socket(socket.AF_UNIX) as guest:
        # A server that is reachable and gets no request.
        guest.bind(grant.address)
        guest.listen()
        outcome = allocation.carry_out(row, cast("Any", Leg("protected", ran)), cast("Any", Leg("raw", ran)))
    return outcome, ran


def test_rule_is_asked_when_the_rounds_it_gave_are_over(tmp_path: Path) -> None:
    asked: list[int] = []

    def rule(observation: dict[str, Any]) -> tuple[int, None]:
        asked.append(len(observation["rounds"]))
        return 7, None

    outcome, ran = carried_out(tmp_path, half_width_pct=0.5, max_rounds=24, rounds_in_all=rule)

    assert asked == [4, 7]  # after the last round it gives the same, and the row ends
    assert len(outcome.observation["rounds"]) == 7
    assert [number for number, _ in ran] == [number for number in range(1, 8) for _ in range(2)]
    plan = outcome.observation["plan"]
    assert (plan["rounds"], plan["halfWidthPct"], plan["maxRounds"]) == (4, "0.5", 24)


def test_rounds_of_the_extension_go_on_with_the_rows_own_orders(tmp_path: Path) -> None:
    outcome, _ = carried_out(tmp_path, half_width_pct=0.5, max_rounds=24, rounds_in_all=lambda _: (8, None))

    orders = [tuple(each["order"]) for each in outcome.observation["rounds"]]
    assert orders == list(orders_of_row("raw-first", rounds=8, seed=row_seed(7, ROW.row_id), fixed=False))


@pytest.mark.parametrize("in_all", [4, 2])
def test_rounds_that_are_enough_are_left_as_they_are(tmp_path: Path, in_all: int) -> None:
    outcome, _ = carried_out(tmp_path, half_width_pct=0.5, max_rounds=24, rounds_in_all=lambda _: (in_all, None))

    assert len(outcome.observation["rounds"]) == 4


def test_row_without_a_rule_is_not_extended(tmp_path: Path) -> None:
    outcome, _ = carried_out(tmp_path)

    assert len(outcome.observation["rounds"]) == 4
    assert "halfWidthPct" not in outcome.observation["plan"]
    assert outcome.observation["plan"]["sampling"] == {"version": "2"}
