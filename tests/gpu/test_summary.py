"""The page of `make gpu`: what each step's files say, in few lines, and never more than there is."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.steps import StepResult
from benchmarks.gpu.summary import collect, figures, page
from pytest_glasshouse.overhead.interval import t_quantile

PUBLISHED = Path(__file__).parents[2] / "reports" / "published" / "2026-11-21-mock-interleaved-mlp.json"
MACHINE = {"title": "The steps", "GPU": "NVIDIA H200", "commit": "c0ffee"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    return tmp_path


@pytest.fixture
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return found


def result(name: str, status: Any = "passed", **fields: Any) -> StepResult:
    return StepResult(name=name, status=status, seconds=12.3, **fields)


def lines(work: Path, report: dict[str, Any]) -> list[str]:
    (work / "reports" / "interleaved.json").write_text(json.dumps(report), encoding="utf-8")
    return list(figures(work, result("interleaved")))


def test_a_row_is_told_with_findings_interval_processor_time_and_spread(work: Path, report: dict[str, Any]) -> None:
    row = report["rows"][0]
    told = lines(work, report)
    assert "14 of 14 held; overhead +2.77 % (95 % -1.24 to +6.63)" in told[0]
    assert f"protected {row['protectedCpuSecPerUnit']:.6f}, raw {row['rawCpuSecPerUnit']:.6f} (+2.72 %)" in told[1]
    assert "spread of process starts 2.96 % (10 starts)" in told[3]
    assert any("anygpu-null" in line and "raw against raw" in line for line in told)


def test_the_half_width_reached_stands_beside_the_one_predicted(work: Path, report: dict[str, Any]) -> None:
    row = report["rows"][0]
    row["overheadCi95Pct"] = [1.0, 2.0]
    # Log ratios of 0.00, 0.01 and 0.02: their standard deviation is 0.01.
    for place, each in enumerate(row["roundFigures"]):
        each["overheadPct"] = 100 * (1 - math.exp(0.01 * min(place, 2)))
    predicted = 100 * t_quantile(0.975, 2) * 0.01 / math.sqrt(5)
    assert f"half-width of the 95 % interval: 0.50 points reached, {predicted:.2f} predicted" in "\n".join(lines(work, report))


def test_one_round_is_called_a_single_sample(work: Path, report: dict[str, Any]) -> None:
    row = report["rows"][0]
    row["overheadCi95Pct"], row["roundFigures"] = None, row["roundFigures"][:1]
    row["estimates"].update(processStartPct=None, betweenRoundsPct=None)
    told = "\n".join(lines(work, report))
    assert "(single sample)" in told
    assert "spread of process starts not known" in told
    assert "half-width" not in told


def test_a_finding_that_is_not_held_is_told_with_its_reason(work: Path, report: dict[str, Any]) -> None:
    report["rows"][0]["findings"][3] |= {"finding": "broken", "reason": "2 MiB are left"}
    told = lines(work, report)
    assert "13 of 14 held" in told[0]
    assert "BROKEN runtime zeroized: 2 MiB are left" in told


def test_an_excluded_row_is_told_with_its_reason(work: Path, report: dict[str, Any]) -> None:
    report["rows"], report["nullRows"] = [], []
    report["excludedResults"] = [
        {"name": "mine", "outcome": "protected failed", "reason": "out of memory", "decision": "excluded"}
    ]
    assert lines(work, report) == ["mine: protected failed: out of memory"]


def test_probes_are_told_each_on_a_line_and_an_error_by_its_last_one(work: Path) -> None:
    answers = [
        {"probe": "pin", "seconds": 1.0, "pinned": True},
        {"probe": "idle", "seconds": 2.0, "error": "Traceback\n  x\nOSError: no"},
    ]
    (work / "probes.json").write_text(json.dumps(answers))
    assert list(figures(work, result("probes"))) == ['pin: {"pinned": true}', 'idle: {"error": "OSError: no"}']


def test_the_log_of_a_failed_step_says_why_and_that_of_a_passed_one_is_left_out(work: Path) -> None:
    (work / "local.log").write_text("noise\nFAILED benchmarks/x.py::y - zeroized\x1b[0m\nmore noise\n== 1 failed in 3 s ==\n")
    assert list(figures(work, result("local"))) == []
    assert list(figures(work, result("local", "failed"))) == ["FAILED benchmarks/x.py::y - zeroized[0m", "1 failed in 3 s"]


def test_the_page_has_every_step_and_stays_a_page(work: Path) -> None:
    (work / "local.log").write_text("".join(f"FAILED {number} {'x' * 500}\n" for number in range(500)))
    steps = [
        result("doctor"),
        result("local", "failed", why="exit 1", commit="a"),
        result("null", "not run", why="0 s", commit="b"),
    ]
    text = page(work, steps, MACHINE)
    assert "| doctor | passed | 12 |  |" in text
    assert "| local | failed | 12 | exit 1 |" in text
    assert "steps ran on different code: a, b" in text
    assert len(text.splitlines()) < 60
    assert max(map(len, text.splitlines())) < 240


def test_what_is_taken_along_are_at_most_eight_files(work: Path) -> None:
    """A place that gives files back may give back no more."""
    for name in ("local", "mock", "interleaved", "lora-large", "null"):
        shutil.copy(PUBLISHED, work / "reports" / f"{name}.json")
    for name in ("doctor", "local"):
        (work / f"{name}.log").write_text(name)
    (work / "probes.json").write_text("[]")
    out = work / "out"
    collect(work, out, "page", MACHINE)
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 8
    assert any(name.endswith("-nvidia-h200-interleaved.json") for name in names)
    with tarfile.open(out / "logs.tar.gz") as archive:
        assert sorted(archive.getnames()) == ["doctor.log", "local.log"]
