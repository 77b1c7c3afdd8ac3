"""What a run may change in a row, and which rows it makes equal."""

from __future__ import annotations

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.rows import MLP_ROWS, RowSpec
from pytest_glasshouse.rows.overrides import Overrides, collapse


def a_row(name: str = "mine", *, order: str = "raw-first", target_s: float = 60, provider: str = "mock") -> RowSpec:
    return RowSpec(name=name, workload="mlp", gpu="h100", order=order, target_s=target_s, provider=provider)  # type: ignore[arg-type]


def left_out(rows: tuple[RowSpec, ...], overrides: Overrides) -> list[str]:
    return [collapsed.row.name for collapsed in collapse([(row.name, row) for row in rows], overrides)]


def test_row_without_overrides_runs_as_declared() -> None:
    assert Overrides().apply(a_row()) == a_row()


def test_dry_run_shortens_seconds_and_steps_alike() -> None:
    """A rehearsal of 30 000 steps on a laptop must end."""
    lora = RowSpec(name="r", workload="lora", gpu="h100", order="raw-first", steps=30000, model="some/model")
    shortened = [Overrides(dry_run=True).apply(row) for row in (a_row(), lora)]
    assert [(row.target_s, row.steps, row.warmup_s) for row in shortened] == [(2.0, None, 0.5), (2.0, None, 0.5)]


def test_dry_run_keeps_the_target_the_user_asked_for() -> None:
    row = Overrides(dry_run=True, steps=7).apply(a_row())
    assert (row.steps, row.target_s, row.warmup_s) == (7, None, 0.5)


def test_model_is_changed_in_lora_rows_only() -> None:
    assert Overrides(model="some/model").apply(a_row()).model is None


def test_invalid_override_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="row 'mine': field rounds"):
        Overrides(rounds=0).apply(a_row())


def test_row_that_an_order_makes_equal_to_a_declared_one_is_left_out() -> None:
    """One measurement should not be paid for twice."""
    rows = (a_row("first"), a_row("second", order="protected-first"))
    assert left_out(rows, Overrides(order="protected-first")) == ["first"]


def test_rows_that_only_a_dry_run_shortens_to_the_same_length_all_run() -> None:
    rows = (a_row("short"), a_row("long", target_s=1800))
    assert left_out(rows, Overrides(dry_run=True)) == []


def test_rows_declared_alike_under_two_names_both_run() -> None:
    assert left_out((a_row("one"), a_row("two")), Overrides()) == []


def test_one_row_in_two_tests_runs_once() -> None:
    """`rowId` is unique in a report."""
    assert left_out((a_row(), a_row()), Overrides()) == ["mine"]


def test_published_h100_rows_collapse_under_one_order() -> None:
    h100 = tuple(row for row in MLP_ROWS if row.gpu == "h100")
    assert left_out(h100, Overrides(order="protected-first", dry_run=True)) == ["h100-60s-raw-first", "h100-1800s-raw-first"]


def test_rows_that_go_where_they_were_published_are_shortened_on_the_mock_alone() -> None:
    """`--provider row`: a rented row keeps its length, a dry run does not."""
    overrides = Overrides(own_provider=True)
    rented = a_row(provider="runpod")
    assert overrides.apply(rented) == rented
    assert overrides.apply(a_row(provider="mock")).target_s == 2.0


@pytest.mark.parametrize("order", ["raw-first", "interleaved"])
def test_an_order_of_two_legs_leaves_a_row_with_one_as_it_is(order: str) -> None:
    """A row whose base is sealed has no raw leg, so that there is nothing to put in order."""
    row = RowSpec(
        name="r", workload="lora", gpu="h100", order="protected-first", target_s=60, model="some/model", base="sealed", rounds=3
    )
    chosen = Overrides(order=order, preset="quick").apply(row)  # type: ignore[arg-type]
    assert (chosen.order, chosen.rounds, chosen.preset) == ("protected-first", 3, None)
