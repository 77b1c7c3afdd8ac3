"""What an installed wheel has: the rows and the tamper suite, the examples, and messages that lead to pages that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

import pytest_glasshouse
from tests.limits import HANG_S

ROOT = Path(__file__).parents[2]
PACKAGE = Path(pytest_glasshouse.__file__).parent


@pytest.fixture(scope="module", name="installed")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        name = build_wheel(str(folder))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(folder / name) as wheel:
        wheel.extractall(folder / "installed")
    return folder / "installed"


def run(installed: Path, cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In a process that has the unpacked wheel in place of the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False
    )


def test_tamper_suite_and_rows_run_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    done = run(
        installed, tmp_path, "-m", "pytest", "--pyargs", "pytest_glasshouse.benchmarks", "-m", "tamper", "-k", "control or nonce"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"tamper: (\d+) of \1 refused as expected", done.stdout)
    listed = run(installed, tmp_path, "-m", "pytest", "--pyargs", "pytest_glasshouse.benchmarks", "-m", "smoke", "--co", "-q")
    assert listed.stdout.count("::test_") == 6


def test_init_works_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-m", "pytest_glasshouse", "init")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".github" / "workflows" / "glasshouse-nightly.yml").is_file()


@pytest.mark.torch
def test_three_commands_lead_from_an_installed_wheel_to_a_page_with_the_users_own_row(installed: Path, tmp_path: Path) -> None:
    commands = (
        ("-m", "pytest_glasshouse", "init"),
        ("-m", "pytest", "rows", "--glasshouse-leg-seconds", "0.3"),
        ("-m", "pytest_glasshouse", "site", "reports/"),
    )
    for command in commands:
        done = run(installed, tmp_path, *command)
        assert done.returncode == 0, done.stdout + done.stderr

    index = (tmp_path / "public" / "index.html").read_text("utf-8")
    assert "1 row in them" in index  # what it measured in so short a time on a busy machine is another matter
    assert (tmp_path / "public" / re.findall(r'href="(rows/[^"]+)"', index)[0]).is_file()


def test_every_test_of_the_benchmarks_is_in_the_wheel(installed: Path) -> None:
    ours = {path.name for path in (ROOT / "benchmarks").glob("test_*.py")}
    assert {path.name for path in (installed / "pytest_glasshouse" / "benchmarks").glob("test_*.py")} == ours


def test_no_message_names_a_file_of_the_checkout_and_every_page_is_there() -> None:
    pages = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        code = re.sub(r'"""[\s\S]*?"""|#.*', "", text)
        assert not re.search(r"docs/[a-z-]+\.md", code), path
        pages |= set(re.findall(r"""page\(["']([a-z-]+)["']\)""", code))
    assert len(pages) >= 3
    assert not [name for name in pages if not (ROOT / "docs" / f"{name}.md").is_file()]
