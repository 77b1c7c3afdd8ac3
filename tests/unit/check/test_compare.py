"""Comparing reports, their history, and the badge: never a figure without its bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_glasshouse.check.compare import compare, judged_difference
from pytest_glasshouse.check.history import history
from pytest_glasshouse.check.history import lines as history_lines
from pytest_glasshouse.overhead.difference import difference
from pytest_glasshouse.publish.writer import publish
from pytest_glasshouse.render.badge import LABEL, badge, svg
from pytest_glasshouse.render.comparison import lines, markdown
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.wire.output import RedLine
from tests.unit.report import example


def report(*records: Any, **changes: Any) -> Any:
    return example.document(*records, **changes)


def real(*, rounds: int = 6, name: str = "mlp-h100-60s", **changes: Any) -> Any:
    declared = example.row(name=name, rounds=rounds)
    seen = example.observation(rounds=rounds, unseen=())
    return example.publishable(row=declared, declared=declared, observation=seen, rounds=rounds, name=name, **changes)


def test_rows_of_both_are_compared_with_an_interval() -> None:
    shown = "\n".join(lines(compare(report(real(), real(name="a")), report(real(), real(name="b"))), names=("x.json", "y.json")))

    assert "B - A, points" in shown
    assert "0.00" in shown
    assert "no difference shown" in shown
    assert "only A measured: a" in shown
    assert "only B measured: b" in shown


def test_difference_of_single_samples_has_no_interval() -> None:
    shown = "\n".join(lines(compare(report(real(rounds=1)), report(real(rounds=1))), names=("x", "y")))

    assert "nothing can be said" in shown


def test_rows_of_one_name_say_what_differs() -> None:
    """They were "only A" and "only B" with no word on why."""
    one = report(real(rounds=6))
    other = report(example.measured(rounds=1, row=example.row(order="raw-first", rounds=1)))
    shown = "\n".join(lines(compare(one, other), names=("x", "y")))

    assert "not the same row in both: mlp-h100-60s: order: protected-first, raw-first; rounds: 6, 1" in shown
    assert "only" not in shown


def test_what_failed_comes_before_what_is_compared() -> None:
    compared = compare(report(real(), example.excluded()), report(real(), example.lost()))
    shown = list(lines(compared, names=("x", "y")))

    assert [isinstance(line, RedLine) for line in shown[:3]] == [True, True, False]
    assert shown[0].startswith("failed in A: mlp-h100-30m: raw callback completed broken")
    assert markdown(compared, names=("x", "y")).index("failed in B") < markdown(compared, names=("x", "y")).index("| row |")


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_comparison_and_history_fit_the_terminal(columns: int, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(
        report_bytes(report(real(name="a-row-with-a-rather-long-name-of-its-own"), example.excluded()))
    )
    document = report(real(name="a-row-with-a-rather-long-name-of-its-own"), example.excluded())
    compared = compare(document, document)
    shown = [*lines(compared, names=("x" * 200, "y"), width=columns, limit_points=1.0)]
    shown += history_lines(history(tmp_path, derivation=example.EXAMPLE), width=columns)

    assert max(map(len, shown)) <= columns
    assert any("+1.17" in line for line in shown)


LIMITS = [(0.0, "over the limit"), (0.2, "inconclusive"), (3.0, "within the limit")]


@pytest.mark.parametrize(("limit", "expected"), LIMITS)
def test_rise_of_the_overhead_is_judged_by_its_interval(limit: float, expected: str) -> None:
    before, after = [-0.010, -0.011, -0.012, -0.0105], [-0.012, -0.013, -0.0145, -0.0125]

    assert judged_difference(difference(before, after), limit_points=limit).value == expected
    assert judged_difference(difference(before[:1], after), limit_points=limit).value == "inconclusive"


def test_history_shows_what_failed_first_and_tells_rows_of_one_name_apart(tmp_path: Path) -> None:
    """Three headings looked alike, and a row that broke was not in it at all."""
    for number, records in enumerate(([real()], [example.excluded(name="mlp-h100-60s")], [real(rounds=3)]), 1):
        made = report(*records, run_id=f"run-{number}", created_at=f"2026-11-2{number}T17:00:00Z")
        (tmp_path / f"run-{number}.json").write_bytes(report_bytes(made))
    shown = list(history_lines(history(tmp_path, derivation=example.EXAMPLE)))

    assert isinstance(shown[0], RedLine)
    assert shown[0].startswith("failed: 2026-11-22T17:00:00Z  mlp-h100-60s: raw callback completed broken")
    headings = [line for line in shown if line.startswith("mlp-h100-60s on ")]
    assert len(set(headings)) == len(headings) == 3
    assert "6 rounds" in headings[0]


def test_unlike_machines_are_named() -> None:
    other = example.allocation(provider="local", gpu_model="NVIDIA RTX A4000", gpu_uuid="GPU-1", dry_run=False)
    (pair,) = compare(report(real()), report(real(allocation=other))).pairs

    assert pair.unlike == "GPU NVIDIA H100 80GB HBM3 and NVIDIA RTX A4000"


def test_reports_without_a_common_row_are_named() -> None:
    assert list(lines(compare(report(real(name="a")), report(real(name="b"))), names=("x", "y")))[-1].startswith("no row")


def test_history_is_in_order_counts_a_run_once_and_names_what_it_left_out(tmp_path: Path) -> None:
    for number, day in enumerate(("22", "20"), 1):
        made = report(real(), run_id=f"run-{number}", created_at=f"2026-11-{day}T17:00:00Z")
        publish(
            made,
            report=tmp_path / f"run-{number}.json",
            run_directory=tmp_path / f"run-{number}.run",
            key=example.KEYS.report,
            derivation=example.EXAMPLE,
        )
    faulty = report(real(), run_id="run-3")
    faulty["rows"][0]["overheadPct"] = 0.01
    (tmp_path / "faulty.json").write_bytes(report_bytes(faulty))
    (tmp_path / "deeper").mkdir()
    for name, text in {
        "other": "{}",
        "list": "[1]",
        "deeper/torn": '{"schemaVersion": "1.',
        "deeper/old": '{"runId": "r"}',
    }.items():
        (tmp_path / f"{name}.json").write_text(text, "utf-8")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").write_text("", "utf-8")
    (tmp_path / "venv" / "run-9.json").write_text('{"runId": "r"}', "utf-8")

    found = history(tmp_path, derivation=example.EXAMPLE)

    assert [entry.run_id for entry in found.entries] == ["run-2", "run-1"]
    assert [name for name, _ in found.left_out] == ["deeper/old.json", "deeper/torn.json", "faulty.json"]
    shown = "\n".join(history_lines(found))
    assert "95 % interval" in shown
    assert "left out: faulty.json" in shown
    assert "passed over: 2 JSON files that are no report" in shown
    assert history(tmp_path, pattern="a4000*", derivation=example.EXAMPLE).entries == ()
    assert "no measured row was found" in "\n".join(history_lines(history(tmp_path, pattern="x", derivation=example.EXAMPLE)))


BADGES = [
    ("bound", (real(),), {}, "at most 1.25 %", "#0a5ea8"),
    ("within", (real(),), {"max_overhead_pct": 3.0}, "at most 1.25 %", "#1a7f37"),
    ("over", (real(),), {"max_overhead_pct": 0.5}, "(over the limit)", "#b3261e"),
    ("inconclusive", (real(rounds=2),), {"max_overhead_pct": 1.05}, "(inconclusive)", "#6a737d"),
    ("single sample", (real(rounds=1),), {"max_overhead_pct": 3.0}, "no bound yet", "#6a737d"),
    ("one of two without bound", (real(), real(rounds=1, name="b")), {}, "no bound yet", "#6a737d"),
    ("single order", (real(given=example.settings(overridden=(), fixed_order=True)),), {}, "no bound yet", "#6a737d"),
    ("dry run", (example.measured(rounds=6),), {"max_overhead_pct": 3.0}, "dry run", "#6a737d"),
    ("excluded", (real(), example.excluded()), {"max_overhead_pct": 3.0}, "1 row not measured", "#b3261e"),
]


@pytest.mark.parametrize(
    ("records", "given", "expected_text", "colour"), [case[1:] for case in BADGES], ids=[case[0] for case in BADGES]
)
def test_badge_shows_the_upper_bound_or_that_there_is_none(
    records: tuple[Any, ...], given: dict[str, Any], expected_text: str, colour: str
) -> None:
    shown = badge(report(*records), sound=True, **given)

    assert expected_text in shown.message
    assert shown.colour == colour


def test_badge_of_a_faulty_or_empty_report_is_no_figure() -> None:
    assert badge(report(real()), sound=False).message == "report faulty"
    assert badge(example.assembled(()), sound=True).message == "not measured"


def test_badge_is_an_image_with_a_text_alternative() -> None:
    picture = ET.fromstring(svg(badge(report(real()), sound=True)))  # noqa: S314  (our own)

    assert picture.get("role") == "img"
    assert (picture.get("aria-label") or "").startswith(LABEL)
