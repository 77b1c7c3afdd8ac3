"""What a user may set, where, and the message for an invalid value."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.plugin.settings import SETTINGS
from pytest_glasshouse.run.options import Options
from tests.limits import HANG_S

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

_SERVER = ["--glasshouse-server-key", "k", "--glasshouse-owner-key", "f", "--glasshouse-server"]
BAD = [
    (["--order", "protected"], "Did you mean protected-first?"),
    (["--glasshouse-order=interleavd"], "Did you mean interleaved?"),
    (["--provider", "mok"], "Did you mean mock?"),
    (["--provider", "local"], "no NVIDIA GPU on this machine"),
    (["--glasshouse-mock-fault", "boot-stal"], "Did you mean boot-stall?"),
    (["--glasshouse-mock-fault", "deferred-costs"], "Did you mean deferred-cost?"),
    (["--glasshouse-rounds", "0"], "a whole number of at least 1, saw '0'"),
    (["--glasshouse-rounds", "two"], "a whole number of at least 1, saw 'two'"),
    (["--glasshouse-leg-seconds", "0"], "a finite number above 0, saw '0'"),
    (["--glasshouse-leg-seconds", "nan"], "a finite number above 0, saw 'nan'"),
    (["--glasshouse-leg-steps", "-1"], "a whole number of at least 1"),
    (["--glasshouse-leg-steps", "1", "--glasshouse-leg-seconds", "1"], "give one"),
    (["--glasshouse-max-overhead", "inf"], "a finite number, saw 'inf'"),
    (["--budget", "-3"], "a finite number above 0"),
    (["--glasshouse-seed", "-1"], "at least 0"),
    (["--glasshouse-boot-timeout", "0"], "a finite number above 0"),
    (["--glasshouse-allocation", "many"], "not one of shared, row"),
    (["--glasshouse-report", "."], "is a directory"),
    (["--glasshouse-report", "test_rows.py/report.json"], "is not a directory"),
    (["--glasshouse-model", "/nowhere/at/all"], "neither a model directory nor a hub id"),
    (["--glasshouse-model", "."], "has no config.json"),
    (["--glasshouse-min-cuda", "13"], "expected a version of CUDA such as 13.0, saw '13'"),
    (["--glasshouse-min-gpu-memory", "0"], "a finite number above 0"),
    (["--glasshouse-min-disk", "1.5"], "a whole number of at least 1"),
    (["--glasshouse-publishable"], "choose a provider"),
    (["--glasshouse-preset", "quickly"], "Did you mean quick?"),
    (["--glasshouse-half-width", "0"], "a finite number above 0"),
    (["--glasshouse-server", "https://a:1"], "expected GLASSHOUSE_SERVER_KEY and GLASSHOUSE_OWNER_KEY beside it"),
    (["--glasshouse-server-key", "k"], "there is no GLASSHOUSE_SERVER that it could belong to"),
    ([*_SERVER, "http://192.0.2.1:8470"], "expected https, saw http"),
    ([*_SERVER, "http://127.0.0.1:1/a?token=b"], "expected a URL of scheme, host and port"),
    ([*_SERVER, "https://user@192.0.2.1"], "expected a URL of scheme, host and port"),
    ([*_SERVER, "https://a:99999"], "expected a URL of scheme, host and port"),
    ([*_SERVER, "https://a:1", "--glasshouse-server-ca", "nowhere.pem"], "nowhere.pem is not a file"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: "_".join(value) if isinstance(value, list) else None)
def test_bad_value_is_one_line_and_nothing_is_started(project: Project, arguments: list[str], message: str) -> None:
    result = project.rows("good").run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.errlines + result.outlines if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("ERROR: ")
    assert message in lines[0]
    assert project.asked("") == []
    assert project.left_behind() == []


def test_command_line_wins_over_environment_and_environment_over_ini(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.rows("good").pytester.makeini(
        "[pytest]\nglasshouse_order = protected-first\nglasshouse_rounds = 3\nglasshouse_seed = 5"
    )
    monkeypatch.setenv("GLASSHOUSE_ORDER", "raw-first")
    monkeypatch.setenv("GLASSHOUSE_ROUNDS", "2")
    assert project.run("--glasshouse-rounds=1").ret == pytest.ExitCode.OK
    (row,) = project.report()["rows"]
    assert (row["order"], row["rounds"], row["seed"]) == ("raw-first", 1, 5)


def test_bad_value_names_the_place_it_was_written_in(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASSHOUSE_ORDER", "sideways")
    project.run().stderr.fnmatch_lines(["ERROR: GLASSHOUSE_ORDER: 'sideways' is not one of *"])
    monkeypatch.delenv("GLASSHOUSE_ORDER")
    project.pytester.makeini("[pytest]\nglasshouse_rounds = none")
    project.run().stderr.fnmatch_lines(["ERROR: ini glasshouse_rounds: *"])


def test_native_toml_values_are_read(project: Project) -> None:
    project.rows("good").pytester.makepyprojecttoml(
        "[tool.pytest]\nglasshouse_provider = 'mock'\nglasshouse_publishable = true\nglasshouse_leg_seconds = 0.5\n"
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["good: not publishable: *dry run*"])


def test_faults_add_up_and_come_from_the_environment_as_a_list(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASSHOUSE_MOCK_FAULT", "terminate-fails, boot-stall")
    project.rows("good").run().stdout.fnmatch_lines(["*faults: terminate-fails boot-stall"])


def test_short_name_that_another_plugin_defines_is_left_to_it(project: Project) -> None:
    """Many projects have a `--provider` of their own; a plugin that takes it ends every pytest run of theirs."""
    conftest = project.pytester.path / "conftest.py"
    own = "\ndef pytest_addoption(parser):\n    parser.addoption('--provider', default='theirs')\n"
    conftest.write_text(conftest.read_text(encoding="utf-8") + own, encoding="utf-8")
    result = project.rows("good").run("--provider", "anything", "--glasshouse-provider", "mock", "--order=protected-first")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["glasshouse: provider mock *order protected-first*", "*use --glasshouse-provider"])


def test_model_directory_is_named_by_its_last_part_only(project: Project) -> None:
    """A report holds no path of the machine it was made on."""
    folder = project.pytester.mkdir("tiny-model")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    project.pytester.makepyfile(
        test_lora="""
        import pytest
        from pytest_glasshouse.rows import RowSpec
        ROW = RowSpec(name="lora", workload="lora", gpu="anygpu", order="raw-first", steps=4, model="some/model")

        @pytest.mark.parametrize("row", [ROW])
        def test_lora(row, request, row_report):
            assert row.model == "tiny-model"
            from pytest_glasshouse.plugin.stash import ROW
            assert request.node.stash[ROW].model.endswith("/tiny-model")
            pytest.skip("seen")
        """
    )
    result = project.run("--glasshouse-model", "./tiny-model")
    result.assert_outcomes(skipped=1)
    (row,) = project.report()["excludedResults"]
    assert (row["modelId"], row["overridden"]) == ("tiny-model", ["model", "provider"])


def test_help_shows_every_option_and_markers_are_registered(project: Project) -> None:
    text = project.run("--help").stdout.str()
    assert [setting.flag for setting in SETTINGS if setting.flag not in text] == []
    project.run("--markers").stdout.fnmatch_lines(["@pytest.mark.h100: *", "@pytest.mark.tamper: *"])


def test_bad_ini_value_is_refused_in_a_project_without_rows_too(project: Project) -> None:
    project.pytester.makeini("[pytest]\nglasshouse_provider = nowhere")
    assert project.run().ret == pytest.ExitCode.USAGE_ERROR


def test_provider_from_the_ini_is_checked_only_when_there_are_rows(project: Project) -> None:
    """On a laptop without a GPU the project's other tests must run."""
    project.pytester.makeini("[pytest]\nglasshouse_provider = local")
    project.pytester.makepyfile("def test_other(): pass")
    project.run().assert_outcomes(passed=1)


def test_defaults_rent_nothing() -> None:
    assert Options().provider == "mock"


def test_plugin_costs_nothing_where_there_are_no_rows(pytester: pytest.Pytester) -> None:
    heavy = {
        "jsonschema",
        "urllib3",
        "cryptography",
        "scipy",
        "numpy",
        "torch",
        "joserfc",
        "http.server",
        "pytest_glasshouse.run.run",
        "pytest_glasshouse.providers.base",
        "pytest_glasshouse.providers.mock",
    }
    command = [sys.executable, "-X", "importtime", "-m", "pytest", "--co", "-q", "-p", "no:anyio", "-p", "glasshouse"]
    done = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, timeout=HANG_S, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pytest_glasshouse.plugin.options" in imported
    assert imported & (heavy | {"asyncio", "ssl"}) == set()
    assert "glasshouse" not in done.stdout
