"""The gate finds its policy, or names what it looked for and judges nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.report.bundle import report_bytes
from tests.unit.check.gate_reports import report
from tests.unit.report import example

REPORT = report_bytes(report())
POLICY = "[tool.glasshouse.gate]\nmax-overhead = 0.5\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's directory, with a report in a folder of it where the gate is run."""
    folder = tmp_path / "project" / "sub"
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(REPORT)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return folder.parent


def gate(*arguments: str) -> int:
    try:
        return main(["gate", "run.json", *arguments], derivation=example.EXAMPLE)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_gate_without_any_policy_judges_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate() == 4

    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    for part in ("no pyproject.toml in this directory or above it has a table [tool.glasshouse.gate]", "--policy", "--no-policy"):
        assert part in output.err


def test_no_policy_needs_an_explicit_flag(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "pyproject.toml").write_text(POLICY, "utf-8")

    assert gate("--no-policy") == 0
    assert capsys.readouterr().out.startswith("no policy: --no-policy was given\n")
    assert gate("--no-policy", "--max-overhead", "0.5") == 1
    assert gate("--no-policy", "--policy", "pyproject.toml") == 4


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--max-overhead", "3"), 0),
        (("--max-overhead", "0"), 1),
        (("--row", "mlp-*"), 0),
        (("--min-rounds", "6"), 0),
        (("--publishable",), 0),
        (("--min-lifecycle", "0.1"), 0),
        (("--require", "authentic"), 1),
        (("--require", "consistent"), 4),
        (("--commit", "0" * 40), 4),
        (("--max-age", "1e6"), 4),
        (("--allow-dirty",), 4),
        (("--subject", "run.json"), 4),
    ],
)
def test_flags_that_require_measurements_are_a_policy_and_others_are_not(
    project: Path, flags: tuple[str, ...], code: int
) -> None:
    """A workflow that gives the commit relies on the table for the limit: without the table nothing would be judged."""
    assert gate(*flags) == code


def test_policy_of_the_directory_above_is_found_and_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "pyproject.toml").write_text(POLICY, "utf-8")
    (project / "sub" / "pyproject.toml").write_text("[tool.ruff]\n", "utf-8")

    assert gate() == 1
    assert capsys.readouterr().out.startswith("policy: [tool.glasshouse.gate] in ../pyproject.toml\n")
    assert gate("--commit", "0" * 40, "--max-overhead", "3") == 0


def test_nearest_policy_counts_and_its_keys_lie_beside_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "pyproject.toml").write_text('[tool.glasshouse.gate]\nlevel = "authentic"\ntrust = ["lab.pub"]\n', "utf-8")
    keys = example.document()["keys"]
    (project / "lab.pub").write_text("\n".join([keys["report"], *keys["servers"], *keys["owners"]]), "utf-8")
    (project.parent / "pyproject.toml").write_text(POLICY, "utf-8")

    assert gate() == 0
    assert "in ../pyproject.toml" in capsys.readouterr().out


NEARLY = [
    "[tool.gate]\nmax-overhead = 3",
    "[tool.glasshouse_gate]\nmax-overhead = 3",
    "[tool.glasshouse-gate]\nrows = ['a']",
    "[tool.glasshouse.gates]\nmax-overhead = 3",
    "[tool.glasshouse.Gate]\nmax-overhead = 3",
    "[tool.Glasshouse.gate]\nmax-overhead = 3",
    "[Tool.glasshouse.gate]\nmax-overhead = 3",
    "[TOOL.GLASSHOUSE.GATE]\nmax-overhead = 3",
    "[glasshouse.gate]\nmax-overhead = 3",
    "[glasshouse-gate]\nmax-overhead = 3",
    "[[glasshouse]]\nmax-overhead = 3",
    "[[tool.glasshouse.gate]]\nmax-overhead = 3",
    "[gate]\nmax_overhead = 3",
    '["tool.glasshouse.gate"]\nmax-overhead = 3',
    '[tool."glasshouse.gate"]\nmax-overhead = 3',
    "[tool.pytest.ini_options.glasshouse.gate]\nmax-overhead = 3",
    "[tool.pytest.glasshouse.gate]\nmin-rounds = 5",
    "[project.glasshouse.gate]\nmax-overhead = 3",
    "[tool.pytest-glasshouse.gate]\nmax-overhead = 3",
    "[tool.glasshouse]\nmax-overhead = 3",
    "[tool.glasshouse]\ngate = 3",
    "[tool.gl\u0430sshouse.gate]\nmax-overhead = 3".replace("gl\u0430sshouse", '"gl\u0430sshouse"'),
    "[tool.glasshouse.gate]\nMax-Overhead = 3",
    "[tool.glasshouse.gate]\nmax_overhead = 3",
]


@pytest.mark.parametrize("where", ["sub", "."], ids=["here", "above"])
@pytest.mark.parametrize("text", NEARLY)
@pytest.mark.parametrize("flags", [(), ("--max-overhead", "3")], ids=["alone", "with a flag"])
def test_policy_under_a_misspelt_name_is_exit_4_and_named(
    project: Path, text: str, where: str, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its author expects it to be read; a flag beside it does not replace its requirements."""
    (project / where / "pyproject.toml").write_text(f"{text}\n", "utf-8")

    assert gate(*flags) == 4
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "pyproject.toml" in output


@pytest.mark.parametrize("text", NEARLY)
def test_misspelt_policy_is_not_read_where_none_is_asked_for(project: Path, text: str) -> None:
    """Nor is anything else wrong with the report that the test above is about."""
    for place in (project, project / "sub"):
        (place / "pyproject.toml").write_text(f"{text}\n", "utf-8")

    assert gate("--no-policy") == 0


@pytest.mark.parametrize("text", ["[tool.gate]\nfoo = 1", "[gate]\nfoo = 1", "[tool.release]\nmax-overhead = 3"])
def test_similarly_named_table_is_named_where_no_policy_is_found(
    project: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pyproject.toml").write_text(f"{text}\n", "utf-8")

    assert gate() == 4
    assert f"almost: {text.splitlines()[0]} in ../pyproject.toml" in capsys.readouterr().err
    assert gate("--max-overhead", "3") == 0
    (project / "pyproject.toml").write_text(f"{POLICY}{text}\n", "utf-8")
    assert gate("--max-overhead", "3") == 0


@pytest.mark.parametrize("name", ["PyProject.toml", "pyproject.TOML", "glasshouse.toml", ".glasshouse.toml"])
def test_similarly_named_file_is_named(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "sub" / name).write_text(POLICY, "utf-8")

    assert gate() == 4
    assert f"almost: {name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "rows = []",
        "publishable = false",
        'level = "consistent"',
        "trust = []",
        "allow-dirty = true",
        "allow-lenient-policy = true\npublishable = false",
    ],
)
def test_table_that_asks_for_nothing_is_no_policy(project: Path, lines: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.glasshouse.gate]\n{lines}\n", "utf-8")

    assert gate() == 4


@pytest.mark.parametrize("lines", ["max-overhead = 0", "max-age = 1e6", f'commit = "{"0" * 40}"'])
def test_table_that_asks_for_anything_is_a_policy(project: Path, lines: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.glasshouse.gate]\n{lines}\n", "utf-8")

    assert gate() in {0, 1}


WRONG = [
    'max-overhead = "3"', "max-overhead = true", "max-overhead = nan", "max-overhead = inf", "max-overhead = -1", "max-overhead = [3]",
    "max-overhead = 1e400", f"max-overhead = 0x{'f' * 400}", f"max-overhead = {'9' * 5000}", "max-overhead = 2026-11-20",
    "min-rounds = true", "min-rounds = 0", "min-rounds = -5", "min-rounds = 2.5", f"min-rounds = 0x{'f' * 4000}", 'min-rounds = "5"',
    "publishable = 1", 'publishable = "true"', "level = 1", "level = ['authentic']", 'level = "nothing"', "commit = 1234567",
    "max-age = 0", "max-age = nan", "min-lifecycle = -0.1", "min-lifecycle = true", 'rows = "a"', "rows = [1]", "rows = ['']",
    "rows = {a = 1}", "trust = 'a.pub'", "trust = ['a\\u0000b']", 'trust = ["/dev/zero"]', "limit = 3", "'max-overhead ' = 3",
]  # fmt: skip


@pytest.mark.parametrize("line", WRONG, ids=lambda line: line[:40])
def test_value_of_another_type_is_exit_4_in_one_line(project: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "pyproject.toml").write_text(
        f"[tool.glasshouse.gate]\nmin-rounds = 1\n{line}\n".replace("min-rounds = 1\nmin-rounds", "min-rounds"), "utf-8"
    )

    assert gate() == 4
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert len(output) < 600


def deep(directory: Path) -> None:
    (directory / "pyproject.toml").write_text("a = " + "[" * 50_000, "utf-8")


def dotted(directory: Path) -> None:
    (directory / "pyproject.toml").write_text(f"[{'.'.join('a' * 100_000)}]\n", "utf-8")


FILES = {
    "byte order mark": lambda here: (here / "pyproject.toml").write_bytes(b"\xef\xbb\xbf" + POLICY.encode()),
    "UTF-16": lambda here: (here / "pyproject.toml").write_bytes(POLICY.encode("utf-16")),
    "Latin-1": lambda here: (here / "pyproject.toml").write_bytes(b"# caf\xe9\n" + POLICY.encode()),
    "no TOML": lambda here: (here / "pyproject.toml").write_text("[tool.glasshouse.gate\n", "utf-8"),
    "directory": lambda here: (here / "pyproject.toml").mkdir(),
    "FIFO": lambda here: os.mkfifo(here / "pyproject.toml"),
    "device": lambda here: (here / "pyproject.toml").symlink_to("/dev/zero"),
    "dangling link in a loop": lambda here: (here / "pyproject.toml").symlink_to("pyproject.toml"),
    "too large": lambda here: (here / "pyproject.toml").write_bytes(b"#" * (1 << 20)),
    "deep": deep,
    "many dots": dotted,
}


@pytest.mark.parametrize("where", ["sub", "."], ids=["here", "above"])
@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_policy_file_that_cannot_be_read_is_exit_4_in_one_line(
    project: Path, make: object, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be the policy: to pass over it would be to judge without one."""
    make(project / where)  # type: ignore[operator]

    assert gate("--max-overhead", "3") == 4
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "pyproject.toml: " in output


def test_subject_that_is_no_regular_file_is_exit_4(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe.whl")

    for name in ("pipe.whl", "/dev/zero", "."):
        assert gate("--max-overhead", "3", "--subject", name) == 4
        assert "expected a regular file" in capsys.readouterr().err


def test_gate_in_a_deleted_directory_is_exit_4(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "run.json").write_bytes(REPORT)
    path = str(project / "run.json")
    (project / "gone").mkdir()
    os.chdir(project / "gone")
    (project / "gone").rmdir()

    assert main(["gate", path], derivation=example.EXAMPLE) == 4
    assert "--policy" in capsys.readouterr().err
