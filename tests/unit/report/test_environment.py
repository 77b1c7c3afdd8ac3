"""The host and the subject of a run, without a host name, user or path."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
from pathlib import Path

import pytest

from pytest_glasshouse.report import environment
from pytest_glasshouse.report.environment import generated_by, host_environment, subject, uncommitted_tests
from pytest_glasshouse.report.redaction import hits


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True)


def test_host_is_described_without_its_name_or_its_user() -> None:
    environment = host_environment()

    assert environment["packages"]["pytest"]
    assert not hits(environment)
    assert not {platform.node(), getpass.getuser()} & set(map(str, environment.values()))


def test_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("pytest", "no-such-package-of-ours"))

    assert list(host_environment()["packages"]) == ["pytest"]


def test_environment_names_the_product_and_its_version() -> None:
    assert generated_by()["name"] == "pytest-glasshouse"


def test_subject_outside_a_git_tree_has_no_commit(tmp_path: Path) -> None:
    found = subject(tmp_path, name="mine", version="2.0")

    assert found == {"name": "mine", "version": "2.0", "wheelSha256": None, "gitCommit": None, "dirty": None}


def test_subject_in_a_git_tree_names_commit_and_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one", encoding="utf-8")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")

    clean = subject(tmp_path)
    (tmp_path / "file").write_text("two", encoding="utf-8")

    assert len(clean["gitCommit"] or "") == 40
    assert (clean["dirty"], subject(tmp_path)["dirty"]) == (False, True)


def test_test_files_that_no_commit_names_are_found_and_nothing_else(tmp_path: Path) -> None:
    """What ran is what the report judges; a report or a virtual environment beside it is not."""
    git(tmp_path, "init")
    rows, others = tmp_path / "rows", tmp_path / "others"
    for folder in (rows, others):
        folder.mkdir()
        (folder / "test_it.py").write_text("", encoding="utf-8")
    git(tmp_path, "add", "rows")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "conftest.py").write_text("", encoding="utf-8")
    inside, outside = rows / "test_it.py", tmp_path.parent / "test_outside.py"

    assert uncommitted_tests(tmp_path, [inside, outside]) == ()
    assert uncommitted_tests(rows, [inside, others / "test_it.py"]) == ("others/test_it.py",)
    (tmp_path / "conftest.py").write_text("", encoding="utf-8")
    assert uncommitted_tests(tmp_path, [inside]) == ("conftest.py",)
    (tmp_path / ".gitignore").write_text("conftest.py\n", encoding="utf-8")
    assert uncommitted_tests(tmp_path, [inside]) == ("conftest.py",)
    git(tmp_path, "add", "-f", "conftest.py")
    assert uncommitted_tests(tmp_path, [inside]) == ()


def test_link_to_a_test_file_is_what_git_tracks(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "other").write_text("", encoding="utf-8")
    (tmp_path / "test_link.py").symlink_to("other")
    git(tmp_path, "add", "test_link.py")

    assert uncommitted_tests(tmp_path, [tmp_path / "test_link.py"]) == ()


def test_outside_a_git_tree_no_file_can_be_named(tmp_path: Path) -> None:
    assert uncommitted_tests(tmp_path, [tmp_path / "test_it.py"]) == ()


def test_host_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert subject(tmp_path)["gitCommit"] is None


def test_environment_is_json() -> None:
    assert json.loads(json.dumps(host_environment())) == host_environment()


def test_subject_installed_from_a_file_is_named_by_the_files_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate compares it with the wheel that is to be released."""
    information = tmp_path / "lab_trainer-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-trainer\nVersion: 1.0\n", "utf-8")
    direct_url = {"url": "file:///w.whl", "archive_info": {"hashes": {"sha256": "ab" * 32}}}
    (information / "direct_url.json").write_text(json.dumps(direct_url), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    assert subject(tmp_path, name="lab-trainer")["wheelSha256"] == "ab" * 32
    (information / "direct_url.json").write_text('{"url": "file:///src", "dir_info": {"editable": true}}', "utf-8")
    assert subject(tmp_path, name="lab-trainer")["wheelSha256"] is None
    (information / "direct_url.json").write_text("not JSON", "utf-8")
    assert subject(tmp_path, name="lab-trainer")["wheelSha256"] is None
