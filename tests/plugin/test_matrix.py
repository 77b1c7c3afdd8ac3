"""A row in a matrix with other parameters, in two tests, and beside a second row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

HEAD = """
import dataclasses, enum, pytest
from pytest_glasshouse.rows import RowSpec

def row(name="mine", **changes):
    given = {"workload": "mlp", "gpu": "h100", "order": "raw-first", "target_s": 60, **changes}
    return RowSpec(name=name, **given)

class Thing:
    pass

class Size(enum.Enum):
    SMALL = object()
"""
BODY = """
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
"""
FIXTURES = "allocation, protected_runtime, raw_runner, row_report"


def written(project: Project, *parts: str) -> Project:
    project.pytester.makepyfile(test_matrix="\n".join([HEAD, *parts]))
    return project


def named(project: Project) -> list[tuple[str, Any]]:
    return [(row["name"], row.get("parameters")) for row in project.report()["rows"]]


def test_other_parameters_are_part_of_what_a_row_is(project: Project) -> None:
    """A matrix of a row and something else is several rows, and the report says which is which."""
    test = f"""
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("row", [row("mine"), row("other", target_s=70)])
def test_it(row, batch, {FIXTURES}):
    assert dict(row.parameters) == {{"batch": str(batch)}}
{BODY}"""
    assert written(project, test).run().ret == 0
    assert sorted(named(project), key=str) == [(name, {"batch": batch}) for name in ("mine", "other") for batch in ("1", "2")]
    assert len({row["rowId"] for row in project.report()["rows"]}) == 4


VALUES = {
    "[1, '1', 1.0, True]": ["1", "'1'", "1.0", "True"],
    "[float('nan'), float('inf'), None]": ["nan", "inf", "None"],
    "[Size.SMALL, Thing]": ["Size.SMALL", "Thing"],
    "[{'lr': 1e-4, 'of': (1, 2)}]": ["{'lr': 0.0001, 'of': (1, 2)}"],
    "[Thing(), Thing(), {3, 4}]": ["value0", "value1", "value2"],
    "[pytest.param(Thing(), id='small'), pytest.param('x' * 5000, id='long')]": ["small", "long"],
    r"['\x1b[2J\u202e::error::']": [r"'\x1b[2J\u202e::error::'"],
    "[pytest.param('sk-abcdefghijklmnopqrstuvwx', id='a-key')]": ["a-key"],
}


def test_values_have_the_same_text_in_every_process(project: Project) -> None:
    """No address, no secret, no control character; and different values have different names."""
    tests = [
        f"""
@pytest.mark.parametrize("value", {values})
@pytest.mark.parametrize("row", [row("row-{place}")])
def test_{place}(row, value, {FIXTURES}):
{BODY}"""
        for place, values in enumerate(VALUES)
    ]
    assert written(project, *tests).run().ret == 0
    recorded: dict[str, list[str]] = {}
    for name, parameters in named(project):
        recorded.setdefault(name, []).append(parameters["value"])
    assert list(recorded.values()) == list(VALUES.values())


def test_value_that_a_report_cannot_name_is_refused_while_it_is_collected(project: Project) -> None:
    values = {
        "'sk-abcdefghijklmnopqrstuvwx'": "service-token",
        "'/home/somebody/data'": "machine-path",
        "pytest.param(Thing(), id='x' * 200)": "",
    }
    for place, (value, _) in enumerate(values.items()):
        test = f"""
@pytest.mark.parametrize("value", [{value}])
@pytest.mark.parametrize("row", [row()])
def test_it(row, value, {FIXTURES}):
{BODY}"""
        project.pytester.makepyfile(**{f"test_{place}": HEAD + test})
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    for rule in values.values():
        why = f"looks like something a report may not hold (rule {rule})" if rule else "takes 200 characters"
        message = "parameter value: expected a value that a report can name, in at most 120 characters; saw one that"
        assert f"{message} {why}. Give it an id: pytest.param(..., id=...)" in result.stdout.str()
    result.stdout.no_fnmatch_line("*Traceback*")
    assert project.asked("acquire") == []


def test_parameters_of_fixtures_count_too(project: Project) -> None:
    """Of a parametrized fixture, of indirect parameters, and of what a class or a module shares."""
    scopes = {"function": ", params=[1, 2]", "indirect": "", "class": ", params=[1, 2]", "module": ", params=[1, 2]"}
    for how, params in scopes.items():
        scope = how if how in ("class", "module") else "function"
        mark = '@pytest.mark.parametrize("batch", [1, 2], indirect=True)' if how == "indirect" else ""
        test = f"""
@pytest.fixture(scope="{scope}"{params})
def batch(request):
    return request.param

@pytest.fixture
def work(request):
    return request.param

class TestIt:
    {mark}
    @pytest.mark.parametrize("work", [row("{how}")], indirect=True)
    def test_it(self, work, batch, {FIXTURES}):
        row_report.record(work.run(allocation, protected_runtime, raw_runner))
"""
        project.pytester.makepyfile(**{f"test_{how}": HEAD + test})
    assert project.run().ret == 0
    assert sorted(named(project), key=str) == sorted(((how, {"batch": batch}) for how in scopes for batch in "12"), key=str)


def test_rows_equal_but_for_their_names_run_once_each_in_any_file(project: Project) -> None:
    """The second test's rows ran a second time, and then there was no report."""
    test = f"""
ROWS = [row("one"), row("two")]

@pytest.mark.parametrize("row", ROWS)
def test_it(row, {FIXTURES}):
{BODY}
@pytest.mark.parametrize("row", ROWS)
def test_again(row, {FIXTURES}):
{BODY}"""
    result = written(project, test).run()
    assert result.ret == 0
    assert [line.split()[1] for line in project.asked("acquire")] == ["one", "two"]
    assert named(project) == [("one", None), ("two", None)]
    result.stdout.fnmatch_lines(["*two: left out, it is the same as two in this run"])


def test_rows_equal_but_for_their_names_run_in_a_matrix(project: Project) -> None:
    test = f"""
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("row", [row("one"), row("two")])
def test_it(row, batch, {FIXTURES}):
{BODY}"""
    assert written(project, test).run().ret == 0
    assert len(named(project)) == 4


def test_rows_of_one_name_that_a_dry_run_makes_equal_run_once(project: Project) -> None:
    test = f"""
@pytest.mark.parametrize("row", [row(target_s=60), row(target_s=1800)])
def test_it(row, {FIXTURES}):
{BODY}"""
    result = written(project, test).run()
    assert result.ret == 0
    assert len(named(project)) == 1
    result.stdout.fnmatch_lines(["*left out, it runs the same row as *; a row runs once"])


def test_rows_of_one_name_that_differ_are_two_rows(project: Project) -> None:
    test = f"""
@pytest.mark.parametrize("row", [row(order="raw-first"), row(order="protected-first")])
def test_it(row, {FIXTURES}):
{BODY}"""
    assert written(project, test).run().ret == 0
    assert len({row["rowId"] for row in project.report()["rows"]}) == 2


def test_models_with_the_same_directory_name_are_different_rows(project: Project) -> None:
    """A report names a model directory by its last part alone."""
    test = f"""
import pathlib
for parent in "ab":
    pathlib.Path(parent, "model").mkdir(parents=True, exist_ok=True)
ROWS = [row(workload="lora", model=f"{{parent}}/model") for parent in "ab"]

@pytest.mark.parametrize("row", ROWS)
def test_it(row, {FIXTURES}):
{BODY}"""
    for result in (written(project, test).run(), project.fork("-n1")):
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        output = result.stdout.str() + result.stderr.str()
        assert "expected models with names of their own, saw two directories named model" in output
        assert "INTERNALERROR" not in output


def test_test_of_two_rows_is_a_collection_error(project: Project) -> None:
    """The second row ran unpriced, in full, and the first one's record was lost."""
    test = f"""
@pytest.mark.parametrize("other", [row("other")])
@pytest.mark.parametrize("row", [row()])
def test_it(row, other, {FIXTURES}):
{BODY}"""
    result = written(project, test).run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["test_matrix.py: test_it[[]mine-other[]]: expected one row, saw row (mine) and other (other); *"]
    )
    assert project.asked("acquire") == []


def test_test_that_only_inspects_rows_may_have_several(project: Project) -> None:
    test = """
@pytest.mark.parametrize("other", [row("other")])
@pytest.mark.parametrize("row", [row()])
def test_it(row, other):
    assert row.row_id != other.row_id
"""
    assert written(project, test).run().ret == 0
    assert project.reports() == []
