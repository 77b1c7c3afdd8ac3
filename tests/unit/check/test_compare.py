"""Comparing reports, their history, and the badge: never a figure without its bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_glasshouse.check.compare import compare, lines
from pytest_glasshouse.check.history import history
from pytest_glasshouse.check.history import lines as history_lines
from pytest_glasshouse.publish.writer import publish
from pytest_glasshouse.render.badge import LABEL, badge, svg
from pytest_glasshouse.report.bundle import report_bytes
from tests.unit.report import example


def report(*records: Any, **changes: Any) -> Any:
    return example.document(*records, **changes)


def real(*, rounds: int = 6, name: str = "mlp-h100-60s", **changes: Any) -> Any:
    declared = example.row(name=name, rounds=rounds)
    seen = example.observation(rounds=rounds, unseen=())
    return example.publishable(row=declared, declared=declared, observation=seen, rounds=rounds, name=name, **changes)


def test_rows_of_both_are_compared_with_an_interval() -> None:
    shown = "\n".join(lines(compare(report(real(), real(name="a")), report(real(), real(name="b"))), names=("x.json", "y.json")))

    assert "B - A  0.00 points (95 % interval" in shown
    assert "no difference shown" in shown
    assert "only A measured: a" in shown
    assert "only B measured: b" in shown


def test_difference_of_single_samples_has_no_interval() -> None:
    shown = "\n".join(lines(compare(report(real(rounds=1)), report(real(rounds=1))), names=("x", "y")))

    assert "single sample: no interval" in shown


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
    assert "passed over: 2 JSON file(s) that are no report" in shown
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
    ("excluded", (real(), example.excluded()), {"max_overhead_pct": 3.0}, "1 row(s) not measured", "#b3261e"),
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
