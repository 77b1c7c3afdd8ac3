"""From rows in a test file to the rows that run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pytest_glasshouse
from pytest_glasshouse.plugin.selection import without_effect
from pytest_glasshouse.plugin.settings import OTHER_VARIABLES, SETTINGS
from pytest_glasshouse.rows.overrides import RowItem
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run.options import Options

if TYPE_CHECKING:
    from tests.plugin.conftest import Project


def test_rows_are_listed_by_their_names(project: Project) -> None:
    result = project.rows("one", ("two", "anygpu", "protected-first")).run("--co", "-q")
    result.stdout.fnmatch_lines(["test_rows.py::test_row[[]one[]]", "test_rows.py::test_row[[]two[]]"])
    assert project.asked("") == []
    assert project.reports() == []


@pytest.mark.parametrize(
    ("marks", "names"), [("h100", ["one"]), ("anygpu and mlp", ["two"]), ("mlp", ["one", "two"]), ("qwen", [])]
)
def test_rows_carry_the_marks_of_their_fields(project: Project, marks: str, names: list[str]) -> None:
    project.rows("one", ("two", "anygpu", "raw-first")).run("-m", marks)
    assert [line.split()[1] for line in project.asked("acquire")] == names


def test_row_is_found_under_any_parameter_name(project: Project) -> None:
    project.pytester.makepyfile(
        """
        import pytest
        from pytest_glasshouse.rows import RowSpec
        ROW = RowSpec(name="mine", workload="mlp", gpu="a4000", order="raw-first", target_s=60)

        @pytest.mark.parametrize("number", [1])
        @pytest.mark.parametrize("work", [ROW])
        def test_it(work, number, allocation, protected_runtime, raw_runner, row_report):
            assert work.target_s == 2.0
            row_report.record(work.run(allocation, protected_runtime, raw_runner))
        """
    )
    project.run("-m", "a4000").stdout.fnmatch_lines(["*1 dry-run*"])


def test_malformed_row_is_a_collection_error_naming_row_and_field(project: Project) -> None:
    project.pytester.makepyfile(
        test_bad="""
        from pytest_glasshouse.rows import RowSpec
        ROW = RowSpec(name="mine", workload="mlp", gpu="a4000", order="raw-first", target_s=-1)
        """
    )
    result = project.rows("good").run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["test_bad.py: row 'mine': field target_s: expected a finite number above 0; saw -1"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert project.reports() == []


def test_rows_an_order_makes_equal_run_once_and_the_other_is_named(project: Project) -> None:
    project.pytester.makepyfile(
        """
        import pytest
        from pytest_glasshouse.rows import RowSpec
        ROWS = [RowSpec(name=f"row-{order}", workload="mlp", gpu="h100", order=order, target_s=60)
                for order in ("raw-first", "protected-first")]

        @pytest.mark.parametrize("row", ROWS)
        def test_it(row, allocation, protected_runtime, raw_runner, row_report):
            row_report.record(row.run(allocation, protected_runtime, raw_runner))
        """
    )
    result = project.run("--order", "protected-first")
    result.stdout.fnmatch_lines(["*1 deselected*", "*row-raw-first: left out, it is the same as row-protected-first in this run"])
    (row,) = project.report()["rows"]
    assert row["name"] == "row-protected-first"


def test_order_leaves_interleaved_rows_out_visibly(project: Project) -> None:
    project.rows("good", ("mixed", "h100", "interleaved"))
    result = project.run("--order", "raw-first")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*mixed: left out, --order raw-first runs no interleaved rows"])


def test_order_leaves_null_rows_out_visibly(project: Project) -> None:
    project.pytester.makepyfile(test_rows=NULLS)
    result = project.run("--order", "protected-first")
    result.stdout.fnmatch_lines(["*1 deselected*", "*same: left out, --order protected-first runs no null rows"])


def test_option_that_changes_no_row_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a variable that is not read: a setting is not ignored in silence."""
    project.rows("good", ("mixed", "h100", "interleaved"))
    monkeypatch.setenv("GLASSHOUSE_ORDR", "a-value-that-is-not-shown")
    monkeypatch.setenv("GLASHOUSE_BUDGET", "5")
    monkeypatch.setenv("GLASSHOUSE_TEAM", "mine")
    asked = ("--glasshouse-preset", "standard", "--glasshouse-model", "nope", "-k")
    result = project.run(*asked, "good")
    result.stdout.fnmatch_lines(
        [
            "glasshouse: GLASHOUSE_BUDGET in the environment is not read. Did you mean GLASSHOUSE_BUDGET?",
            "glasshouse: GLASSHOUSE_ORDR in the environment is not read. Did you mean GLASSHOUSE_ORDER?",
            "glasshouse: --glasshouse-preset standard changes nothing here: no interleaved row is selected *",
            "glasshouse: --glasshouse-model changes nothing here: no lora row is selected",
        ]
    )
    result.stdout.no_fnmatch_line("*a-value-that-is-not-shown*")
    result.stdout.no_fnmatch_line("*GLASSHOUSE_TEAM*")
    monkeypatch.delenv("GLASSHOUSE_ORDR")
    result = project.run(*asked, "mixed", "--collect-only")
    result.stdout.no_fnmatch_line("*--glasshouse-preset*changes nothing*")


def test_every_variable_that_is_read_is_known() -> None:
    """Or the right name would be called a misspelling of another."""
    texts = [path.read_text("utf-8") for path in Path(pytest_glasshouse.__file__).parent.rglob("*.py")]
    read = {name for text in texts for name in re.findall(r'environ(?:\.get\(|\[)"(GLASSHOUSE_[A-Z_]+)"', text)}
    read |= {name for text in texts for name in re.findall(r'^[A-Z_]+ = "(GLASSHOUSE_[A-Z_]+)"$', text, re.MULTILINE)}
    known = {setting.variable for setting in SETTINGS} | set(OTHER_VARIABLES)
    assert "GLASSHOUSE_SIGNING_KEY" in read
    assert {name for name in read - known if not name.startswith(("GLASSHOUSE_POD", "GLASSHOUSE_B64"))} == set()


NULLS = """
import pytest
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name="good", workload="mlp", gpu="h100", order="raw-first", target_s=60),
        RowSpec(name="same", workload="mlp", gpu="h100", order="interleaved", target_s=60, null=True)]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
"""


def test_unregistered_marker_that_looks_like_ours_is_named(project: Project) -> None:
    result = project.rows("good").run("-m", "h10")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: -m h10: no marker 'h10' is registered. Did you mean h100?"])


def test_allocation_in_a_test_without_a_row_is_refused_with_what_is_missing(project: Project) -> None:
    project.pytester.makepyfile("def test_it(allocation, row_report): pass")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*expected a parameter that is a RowSpec, saw none*"])


def test_row_that_cannot_be_configured_ends_the_run_as_a_usage_error(project: Project) -> None:
    result = project.rows("good", "unconfigurable").run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: row needs the extra train"])
    assert project.asked("acquire") == []
    assert project.left_behind() == []


def test_a_limit_on_the_overhead_says_which_rows_have_none() -> None:
    """A row whose base is sealed has no raw leg: it must not look as if it had been found within the limit."""
    row = RowSpec(
        name="ours", workload="lora", gpu="anygpu", order="protected-first", target_s=1, model="some/model", base="sealed"
    )
    item = RowItem(declared=row, row=row)
    assert without_effect([item], Options()) == ()
    (note,) = without_effect([item], Options(max_overhead_pct=5.0))
    assert note.startswith("--glasshouse-max-overhead limits nothing in ours: where the base is sealed there is no raw leg")
