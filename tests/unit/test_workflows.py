"""The workflow examples: what a schema cannot check. Users copy these; a mistake in them costs money."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pytest_glasshouse.cli.main import _parser
from pytest_glasshouse.plugin.settings import SETTINGS

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / ".github" / "examples").glob("*.yml"))
RENTING = [path for path in EXAMPLES if path.stem in {"nightly", "release"}]
#: Commands that examples use; `glasshouse reap` ends what was left.
FLAGS = {setting.flag for setting in SETTINGS} | {setting.short for setting in SETTINGS if setting.short}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(path.read_text("utf-8"))
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def commands(path: Path) -> list[str]:
    return [step["run"] for step in steps(path) if "run" in step]


def test_there_is_an_example_for_each_purpose() -> None:
    assert [path.stem for path in EXAMPLES] == ["nightly", "pull-request", "release", "site", "sweeper"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_long_command_is_the_first_process_of_its_step(path: Path) -> None:
    """Otherwise a cancelled job signals a shell, and pytest gets no signal in the ten seconds it has to end what it rented."""
    for command in commands(path):
        if "pytest benchmarks" in command:
            assert command.startswith("exec "), command


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_least_rights_and_no_expression_inside_a_command(path: Path) -> None:
    assert read(path)["permissions"] == {"contents": "read"}
    assert not [command for command in commands(path) if "${{" in command]
    assert all(job["timeout-minutes"] for job in read(path)["jobs"].values())


@pytest.mark.parametrize("path", RENTING, ids=lambda path: path.stem)
def test_renting_workflow_has_a_budget_a_sweeper_and_a_final_reap(path: Path) -> None:
    document = read(path)
    assert document["concurrency"]["cancel-in-progress"] is False
    (job,) = document["jobs"].values()
    assert job["env"]["GLASSHOUSE_SWEEPER"] == read(ROOT / ".github/examples/sweeper.yml")["name"]
    (rows,) = [step for step in job["steps"] if "pytest benchmarks" in step.get("run", "")]
    assert "--budget" in rows["run"]
    after = job["steps"][job["steps"].index(rows) + 1 :]
    assert any(step.get("if") == "always()" and "glasshouse reap" in step["run"] for step in after if "run" in step)


def test_key_is_given_to_no_pull_request() -> None:
    assert "secrets." not in (ROOT / ".github/examples/pull-request.yml").read_text("utf-8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_option_in_an_example_exists(path: Path) -> None:
    for command in commands(path):
        arguments = shlex.split(command.replace("$GITHUB_SHA", "0" * 40))
        used = {
            argument.partition("=")[0]
            for argument in arguments
            if argument.startswith("--glasshouse") or argument in {"--budget", "--provider"}
        }
        if "pytest" in arguments:
            assert used <= FLAGS
        if arguments[:3] == ["exec", "glasshouse", "gate"]:
            assert _parser().parse_args(arguments[2:]).command == "gate"


@pytest.mark.parametrize(
    ("tag", "heading", "expected"),
    [
        ("v1.2.3", "## 1.2.3 (2027-01-31)", None),
        (
            "v1.2.4",
            "## 1.2.3 (2027-01-31)",
            "the tag is 'v1.2.4' and pyproject.toml has version '1.2.3': expected the tag 'v1.2.3'",
        ),
        (
            "v1.2.3",
            "## 1.2.3 (unreleased)",
            "CHANGELOG.md calls 1.2.3 'unreleased': expected the date of the release, as 2027-01-31",
        ),
        ("v1.2.3", "## 1.2.30 (2027-01-31)", "CHANGELOG.md has no section '## 1.2.3 (date)'"),
    ],
)
def test_a_release_needs_one_version_in_tag_metadata_and_changelog(
    tmp_path: Path, tag: str, heading: str, expected: str | None
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    release = runpy.run_path(str(ROOT / ".github" / "release_version.py"))
    assert release["trouble"](tag, root=tmp_path) == expected


def test_every_action_is_pinned_by_the_digest_of_a_commit() -> None:
    """A tag can be moved to other code after it was reviewed."""
    files = [*(ROOT / ".github").rglob("*.yml")]
    uses = [found[1] for path in files for found in re.finditer(r"^\s*(?:- )?uses: (.*)$", path.read_text("utf-8"), re.MULTILINE)]
    assert uses
    assert [each for each in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []
