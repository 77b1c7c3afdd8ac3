"""`gate`, `compare`, `history` and `render --badge` as a shell sees them: exit codes and last lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.publish.writer import publish
from pytest_glasshouse.report.bundle import report_bytes
from tests.unit.check.gate_reports import good, report
from tests.unit.report import example


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory: no policy of this project is picked up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return tmp_path


def written(document: Any, name: str = "run.json") -> str:
    Path(name).write_bytes(report_bytes(document))
    return name


def run(*arguments: str) -> int:
    try:
        return main(arguments, derivation=example.EXAMPLE)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_gate_passes_and_shows_it_in_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gate", written(report()), "--max-overhead", "3") == 0

    assert capsys.readouterr().out.splitlines() == [
        "no policy: no pyproject.toml in this directory or above it has a table [tool.glasshouse.gate]",
        "GATE PASSED: 1 of 1 rows judged, report consistent",
    ]


def test_gate_without_a_limit_shows_that_no_overhead_was_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gate", written(report()), "--no-policy") == 0
    assert "no limit was given" in capsys.readouterr().out


def test_gate_takes_a_bundle(here: Path) -> None:
    done = publish(
        report(), report=here / "run.json", run_directory=here / "run", key=example.KEYS.report, derivation=example.EXAMPLE
    )

    assert run("gate", str(done.bundle), "--max-overhead", "3") == 0


def test_gate_reads_the_projects_policy_and_a_flag_wins(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pyproject.toml").write_text("[tool.glasshouse.gate]\nmax-overhead = 0.5\n", "utf-8")
    name = written(report())

    assert run("gate", name) == 1
    output = capsys.readouterr().out
    assert output.startswith("policy: [tool.glasshouse.gate] in pyproject.toml\n")
    assert "over the limit of 0.5 %" in output
    assert run("gate", name, "--max-overhead", "3") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.json",), "cannot be read"),
        (("run.json", "--min-rounds", "0"), "--min-rounds: expected"),
        (("run.json", "--require", "certain"), "--require: expected one of"),
        (("run.json", "--subject", "missing.whl"), "--subject missing.whl"),
        (("run.json", "--subject", "run.json", "--commit", "1234567"), "not allowed with"),
        (("run.json", "--policy", "missing.toml"), "no such file"),
        (
            ("run.json", "--max-overhead", "much"),
            "argument --max-overhead: expected a number, saw 'much' (see glasshouse gate --help)",
        ),
        (("run.json", "--min-rounds", "2.5"), "argument --min-rounds: expected a whole number, saw '2.5'"),
        (("run.json", "--max-overhed", "3"), "--max-overhed 3; did you mean --max-overhead? (see glasshouse gate --help)"),
        (("run.json", "--max-overhed=3"), "--max-overhed=3; did you mean --max-overhead? (see glasshouse gate --help)"),
        (("run.json", "another.json"), "unrecognized arguments: another.json (see glasshouse gate --help)"),
        (("empty.json",), "empty.json: not strict JSON"),
        (("other.json",), "other.json: "),
        (("other.json",), "schemaVersion"),
    ],
)
def test_unusable_input_is_exit_4_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(report())
    written({**report(), "schemaVersion": "0.9"}, "other.json")
    Path("empty.json").write_text("", "utf-8")

    assert run("gate", *arguments) == 4

    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("header", ["tool.glasshouse.gates", "tool.glashouse.gate"])
def test_misspelt_policy_of_the_project_is_exit_4_and_never_ignored(header: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pyproject.toml").write_text(f"[{header}]\nmax-overhead = 0.5\n", "utf-8")

    assert run("gate", written(report())) == 4
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [("gate", "{}"), ("render", "{}", "--markdown"), ("compare", "{}", "{}"), ("export", "{}", "--row", "a")],
    ids=["gate", "render", "compare", "export"],
)
@pytest.mark.parametrize("text", ["{}", "[tool]"], ids=["another shape", "no JSON"])
def test_file_that_is_no_report_is_named(arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("what.json").write_text(text, "utf-8")

    assert run(*(each.replace("{}", "what.json") for each in arguments)) == 4
    assert capsys.readouterr().err.startswith(f"glasshouse {arguments[0]}: what.json: ")


def test_json_output_of_the_gate_has_the_same_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gate", written(report(good(rounds=1))), "--max-overhead", "3", "--json") == 1

    output = json.loads(capsys.readouterr().out)
    assert output["policy"].startswith("no policy: ")
    assert (output["ruling"], output["exitCode"], output["objections"][0]["undecided"]) == ("inconclusive", 1, True)


def test_gate_annotates_on_github(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    assert run("gate", written(report(example.excluded())), "--no-policy") == 5
    assert capsys.readouterr().err.startswith("::error title=glasshouse gate::GATE NOTHING TO JUDGE")


def test_compare_answers_and_refuses_unlike_machines(capsys: pytest.CaptureFixture[str]) -> None:
    other = example.allocation(provider="local", gpu_model="NVIDIA RTX A4000", gpu_uuid="GPU-1", dry_run=False)
    one, two, unlike = written(report()), written(report(), "two.json"), written(report(good(allocation=other)), "unlike.json")

    assert run("compare", one, two) == 0
    assert "no difference shown" in capsys.readouterr().out
    assert run("compare", one, unlike) == 4
    assert "unlike machines" in capsys.readouterr().err
    assert run("compare", one, unlike, "--allow-unlike") == 0
    assert "UNLIKE MACHINES" in capsys.readouterr().out
    assert run("compare", one, written(report(good(name="another")), "three.json")) == 5


def test_compare_of_a_faulty_report_is_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    faulty = report()
    faulty["rows"][0]["overheadPct"] = 0.01

    assert run("compare", written(report()), written(faulty, "faulty.json")) == 1
    assert "faulty.json: $.rows[0].overheadPct" in capsys.readouterr().out


def test_history_of_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    written(report())

    assert run("history", ".") == 0
    assert "mlp-h100-60s on NVIDIA H100" in capsys.readouterr().out
    assert run("history", ".", "--row", "none*") == 5
    assert run("history", "missing") == 4


@pytest.mark.parametrize("form", ["--markdown", "--html", "--excerpt", "--badge"])
def test_every_form_of_a_faulty_report_is_called_faulty(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A reader of the figures has to see that they are not verified."""
    faulty = report()
    faulty["rows"][0]["overheadPct"] = 0.01

    assert run("render", written(report(), "sound.json"), form) == 0
    sound = capsys.readouterr()
    assert run("render", written(faulty), form) == 0
    output = capsys.readouterr()

    assert "FAULTY" not in sound.out + sound.err
    assert output.err.startswith("glasshouse render: run.json: FAULTY: ")
    assert "$.rows[0].overheadPct" in output.err
    assert output.err.endswith("see glasshouse check run.json\n")
    if form == "--markdown":
        assert output.out.splitlines()[2].startswith("**FAULTY: ")


def test_badge_is_written_to_out(here: Path) -> None:
    assert run("render", written(report()), "--badge", "--max-overhead", "3", "--out", "badge.svg") == 0
    assert "at most" in (here / "badge.svg").read_text("utf-8")
    assert run("render", "run.json", "--badge", "--out", "missing/badge.svg") == 4
