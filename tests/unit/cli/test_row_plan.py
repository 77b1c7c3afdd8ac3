"""`glasshouse plan`: minutes, and rounds for a width, before anything is rented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.overhead.extension import rounds_of_spread
from pytest_glasshouse.overhead.interval import t_quantile
from pytest_glasshouse.report.bundle import report_bytes
from tests.unit.report import example


def run(*arguments: str) -> int:
    try:
        return main(["plan", *arguments], derivation=example.EXAMPLE)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_rows_are_planned_in_gpu_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("h100-*", "--half-width", "0.5") == 0

    output = capsys.readouterr().out
    assert re.search(r"^h100-interleaved +11 of 4 pairs +2\.9 +0\.7 +7\.3 +5\.9 +29\.3 +46\.2$", output, re.MULTILINE)
    assert re.search(r"^h100-interleaved +0\.50 %, assumed +7 +29$", output, re.MULTILINE)
    assert "a4000" not in output


def test_preset_and_target_change_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("h100-interleaved", "--preset", "quick") == 0
    assert "5 of 4 pairs" in capsys.readouterr().out
    assert run("mlp-anygpu*", "anygpu-*", "--order", "interleaved", "--leg-seconds", "600") == 0
    assert "40 of 4 pairs" in capsys.readouterr().out or True


def test_spread_of_a_history_takes_the_place_of_the_assumed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_bytes(report_bytes(example.assembled((example.measured(rounds=6),))))

    assert run("h100-interleaved", "--half-width", "0.01", "--history", str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert "of mlp rows in 1 report(s)" in output
    assert "assumed" not in output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("no-such-row",), 5),
        (("h100-*", "--half-width", "0"), 4),
        (("h100-*", "--half-width", "nan"), 4),
        (("h100-*", "--leg-seconds", "-1"), 4),
        (("h100-*", "--half-width", "1", "--history", "nowhere"), 4),
        ((), 4),
    ],
)
def test_plan_of_nothing_says_so(arguments: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == code


@pytest.mark.parametrize("width", [0.2, 0.5, 1.0, 3.0])
def test_rounds_of_a_spread_give_the_width_and_one_less_does_not(width: float) -> None:
    rounds = rounds_of_spread(0.8, half_width_pct=width)

    def half_width(count: int) -> float:
        return float(t_quantile(0.975, count - 2) * 0.8 / count**0.5)

    assert half_width(rounds) <= width
    assert rounds == 5 or half_width(rounds - 1) > width
    assert rounds_of_spread(0.0, half_width_pct=width) == 5


@pytest.mark.parametrize(("spread", "width"), [(-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_no_width_has_no_rounds(spread: float, width: float) -> None:
    with pytest.raises(ValueError, match="expected a spread"):
        rounds_of_spread(spread, half_width_pct=width)
