"""`glasshouse init`: a row, the gate's table and the workflows in a user's own repository. It replaces nothing that is there."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.bounded_file import read_named, read_toml
from pytest_glasshouse.wire.documentation import page
from pytest_glasshouse.wire.output import write_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.cli.parser import Commands

_INIT = """\
Write what a project needs to have its own rows, in DIR (default: this directory): rows/test_rows.py with one row, reports/ in
.gitignore, [tool.glasshouse.gate] in pyproject.toml, and workflows for GitHub Actions. A file that is there is left as it is,
and named.
"""
_ROWS = '''\
"""The rows of this project: each is one test, and one line of the report."""

import pytest

from pytest_glasshouse.invariants import assert_held
from pytest_glasshouse.rows import RowSpec

# More rows: `from pytest_glasshouse.rows import PUBLISHED_ROWS`, and in the list `*PUBLISHED_ROWS`.
ROWS = [RowSpec(name="first", workload="mlp", gpu="anygpu", order="raw-first", target_s=60)]


@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(outcome := row.run(allocation, protected_runtime, raw_runner))
    assert_held(outcome)  # every invariant; name some to assert only those
'''
_GATE = """
# What `glasshouse gate` asks of a report.
[tool.glasshouse.gate]
max-overhead = 3.0
min-rounds = 5
publishable = true
"""
_IGNORED = "reports/"
#: Largest file of the user's that is added to.
_LIMIT = 1 << 20
#: The workflows among the examples, and what they are called in the user's repository.
_WORKFLOWS = ("pull-request", "nightly", "release", "sweeper", "site")


def declare(commands: Commands) -> None:
    """Add the command."""
    init = commands.add_parser(
        "init", help="write a first row, the gate and the workflows into a repository", description=_INIT, allow_abbrev=False
    )
    init.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR", help="where (default: here)")
    init.add_argument("--no-workflows", action="store_true", help="no files for GitHub Actions")
    init.set_defaults(run=_init, report_error_code=EXIT_USAGE)


def _init(options: argparse.Namespace) -> int:
    root: Path = options.directory
    if not root.is_dir():
        raise ConfigurationError(f"{root}: expected a directory, saw none")
    told = [_new(root / "rows" / "test_rows.py", _ROWS), _ignored(root / ".gitignore"), _gate(root / "pyproject.toml")]
    if not options.no_workflows:
        folder = root / ".github" / "workflows"
        told += [_new(folder / f"glasshouse-{name}.yml", _workflow(name)) for name in _WORKFLOWS]
    write_lines([*told, *_next()])
    return EXIT_OK


def _next() -> Iterator[str]:
    yield ""
    yield "next:"
    yield "  pytest rows                        runs the row here, as a dry run: nothing is rented, no account is needed"
    yield "  glasshouse site reports/           makes pages of all reports, in public/"
    yield f"  {page('writing-rows')}  how to write rows of your own"


def _new(path: Path, text: str) -> str:
    """Write a file that is not there."""
    if path.exists() or path.is_symlink():
        return f"kept     {path} (it was there)"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return f"written  {path}"


def _ignored(path: Path) -> str:
    lines = _text(path).splitlines()
    if any(line.strip() in {_IGNORED, "reports", "/reports", "/reports/", "reports/*"} for line in lines):
        return f"kept     {path} (it has {_IGNORED})"
    return _added(path, f"{_IGNORED}\n")


def _gate(path: Path) -> str:
    if path.exists():
        try:
            tables = read_toml(path)
        except (IntegrityError, OSError) as error:
            raise ConfigurationError(f"{path}: expected TOML to add [tool.glasshouse.gate] to, saw an error: {error}") from None
        tool = tables.get("tool", {})
        if isinstance(tool, dict) and "glasshouse" in tool:
            return f"kept     {path} (it has a table of glasshouse)"
    return _added(path, _GATE)


def _added(path: Path, text: str) -> str:
    """Add text at the end of a file that may not be there."""
    was_there = path.exists()
    before = _text(path)
    separator = "\n" if before and not before.endswith("\n") else ""
    with path.open("a", encoding="utf-8") as file:
        file.write(separator + (text if was_there else text.lstrip("\n")))
    return f"{'added to' if was_there else 'written '} {path}"


def _text(path: Path) -> str:
    """The text of a file of the user's; empty where there is none."""
    if not path.exists():
        return ""
    return read_named(path, what=str(path), limit=_LIMIT).decode("utf-8", "replace")


def _workflow(name: str) -> str:
    """An example, its rows those of the user. The packaged copy, else the checkout's."""
    packaged = resources.files("pytest_glasshouse").joinpath("examples", f"{name}.yml")
    checkout = Path(__file__).parents[2] / ".github" / "examples" / f"{name}.yml"
    text = packaged.read_text("utf-8") if packaged.is_file() else checkout.read_text("utf-8")
    return text.replace("pytest benchmarks/ -m smoke", "pytest rows").replace("pytest benchmarks/", "pytest rows")
