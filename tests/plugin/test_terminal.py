"""What a person sees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.plugin.summary import findings, shared_gpus, summary
from pytest_glasshouse.run.live_line import Live, progress_line
from pytest_glasshouse.wire.output import RedLine
from tests.unit.report import example

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugin.conftest import Project

EVENT: dict[str, Any] = {
    "row_id": "h100-60s-0123456789ab",
    "leg": "raw",
    "phase": "train",
    "round": 1,
    "rounds": 1,
    "elapsed_s": 2.4,
}


def test_header_shows_where_and_that_nothing_is_rented(project: Project) -> None:
    result = project.rows("good").run("--order", "protected-first")
    result.stdout.fnmatch_lines(
        [
            "glasshouse: provider mock (a dry run on this machine; nothing is rented), order protected-first, run 2*",
            "glasshouse: 1 row, every leg shortened to 2 s",
        ]
    )


def test_row_that_names_a_gpu_is_a_dry_run_and_never_passed(project: Project) -> None:
    result = project.rows("good", ("free", "anygpu", "raw-first")).run("-v")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["*::test_row[[]good[]] *DRY-RUN*", "*::test_row[[]free[]] *PASSED*", "*1 passed, 1 dry-run in *"]
    )


def test_last_line_shows_that_a_dry_run_is_no_gate(project: Project) -> None:
    result = project.rows("good", ("free", "anygpu", "raw-first")).run()
    assert result.outlines[-1] == "0 of 2 rows measured on the GPU they name; not a gate"


def test_row_whose_gpu_others_used_says_so() -> None:
    seen: Any = {"otherGpuProcesses": 2, "otherGpuMemoryMib": 3072}
    rows: Any = [{"name": "shared", "observation": {"allocation": seen}}, {"name": "alone", "observation": {"allocation": {}}}]
    assert list(shared_gpus(rows)) == ["shared: 2 processes of others used its GPU when it began, 3072 MiB of its memory"]


def test_summary_shows_measured_rows_and_why_others_were_not(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # all columns of the table, however narrow the terminal of these tests
    result = project.rows("good", "lostcallback").run()
    result.stdout.fnmatch_lines(
        [
            "failed:",
            "  lostcallback (raw-first): excluded",
            "      reason    raw callback completed broken: the raw callback never came",
            "      decision  Excluded from overhead",
            "row * order * protected * raw * overhead * 95 % interval * verdict * findings",
            "good *raw-first *epochs/s *single sample *13 of 13 held",
        ]
    )


def test_interval_is_shown_with_more_rounds(project: Project) -> None:
    project.rows("good").run("--glasshouse-rounds", "3").stdout.fnmatch_lines(["good * to * too few rounds *"])


def test_broken_tool_shows_as_an_error_without_a_traceback(project: Project) -> None:
    result = project.rows("guestgone").run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR at call of test_row*", "*the guest at /tmp/x.sock is gone"])
    result.stdout.no_fnmatch_line("*carry_out*")


def test_broken_invariant_shows_its_table_without_a_traceback(project: Project) -> None:
    project.pytester.makepyfile(
        """
        import pytest
        from pytest_glasshouse.errors import InvariantBroken
        from pytest_glasshouse.rows import RowSpec

        @pytest.mark.parametrize("row", [RowSpec(name="mine", workload="mlp", gpu="anygpu", order="raw-first", target_s=60)])
        def test_it(row, allocation, protected_runtime, raw_runner, row_report):
            row_report.record(row.run(allocation, protected_runtime, raw_runner))
            raise InvariantBroken("1 of 9 invariants did not hold\\n  BROKEN  runtime zeroized")
        """
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["1 of 9 invariants did not hold", "  BROKEN  runtime zeroized"])
    result.stdout.no_fnmatch_line("*raise InvariantBroken*")


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_failure_names_also_what_its_test_does_not_assert(project: Project, workers: tuple[str, ...]) -> None:
    """Else a test that asserts three of all invariants would show fewer broken ones than the summary."""
    if workers:
        pytest.importorskip("xdist")
    project.rows("broken-two")
    path = project.pytester.path / "test_rows.py"
    path.write_text(
        "from pytest_glasshouse.errors import InvariantBroken\n"
        + path.read_text("utf-8").rstrip()
        + "\n    raise InvariantBroken('1 of the 3 invariants this test asserts did not hold\\n  BROKEN  runtime zeroized: why')\n",
        "utf-8",
    )
    result = project.fork(*workers) if workers else project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lines = ["1 of the 3 invariants this test asserts did not hold", "*other findings of this row that did not hold*"]
    result.stdout.fnmatch_lines([*lines, "  BROKEN  raw callback completed: *"])
    # Where CI is set, pytest's own last summary repeats all of it.
    shown = result.stdout.str().partition("short test summary info")[0]
    assert shown.count("BROKEN  runtime zeroized") == 1


@pytest.mark.parametrize("name", ["lostcallback", "guestgone"])
def test_short_summary_begins_with_the_row(project: Project, name: str) -> None:
    """It began with the path of a class, cut before it said anything."""
    result = project.rows(name).run()
    expected = {
        "lostcallback": "* - lostcallback: raw callback comp*",
        "guestgone": "* - guestgone: infrastructure: *",
    }
    result.stdout.fnmatch_lines(["*short test summary info*", expected[name]])


def test_collecting_only_shows_where_rows_run_and_for_how_long(project: Project) -> None:
    result = project.rows("good", ("free", "anygpu", "protected-first")).run("--co")

    result.stdout.fnmatch_lines(
        [
            "row   GPU * order * rounds  per leg  minutes",
            "good  NVIDIA H100* raw-first * 1 * 2 s *",
            "free  any * protected-first * 1 * 2 s *",
            "2 rows, about * minutes at most, one after the other",
        ]
    )


def test_quiet_run_has_no_header(project: Project) -> None:
    project.rows("good").run("-q").stdout.no_fnmatch_line("glasshouse: provider*")


def test_live_line_is_printed_for_each_leg_without_a_terminal(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    result = project.rows("good").fork()
    result.stdout.fnmatch_lines(["  good  raw  train  for 1 s"])
    del capfd


@pytest.fixture
def pipe() -> Iterator[tuple[int, Callable[[], str]]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def read() -> str:
        try:
            return os.read(reader, 65536).decode()
        except BlockingIOError:
            return ""

    yield writer, read
    os.close(reader)


def test_live_line_on_a_terminal_is_gone_before_pytest_writes_again(pipe: tuple[int, Callable[[], str]]) -> None:
    writer, read = pipe
    live = Live(writer, terminal=True, width_of_current_line=lambda: 7)
    live.show(EVENT)
    live.show({**EVENT, "phase": "zeroize"})
    assert read() == "\n\r\x1b[2Kh100-60s  raw  train  for 2 s\r\x1b[2Kh100-60s  raw  zeroize  for 2 s"
    live.close()
    assert read() == "\r\x1b[2K\x1b[A\x1b[7C"


def test_live_line_without_a_terminal_comes_once_for_each_leg(pipe: tuple[int, Callable[[], str]]) -> None:
    writer, read = pipe
    live = Live(writer, terminal=False, width_of_current_line=lambda: 7)
    for phase in ("start", "train", "zeroize"):
        live.show({**EVENT, "phase": phase}, worker="gw0")
    live.show({**EVENT, "leg": "protected"}, worker="gw0")
    assert read() == "\n  [gw0]  h100-60s  raw  start  for 2 s\n  [gw0]  h100-60s  protected  train  for 2 s\n"
    live.close()


def test_finished_boot_is_removed_from_the_live_line(pipe: tuple[int, Callable[[], str]]) -> None:
    writer, read = pipe
    live = Live(writer, terminal=True)
    live.show_boot("glasshouse-x-1", "bootstrap")
    assert "bootstrap" in read()
    live.show_boot("glasshouse-x-1", "")
    live.show(EVENT)
    assert read() == "\r\x1b[2Kh100-60s  raw  train  for 2 s"
    live.close()


def test_live_line_survives_a_closed_standard_output(pipe: tuple[int, Callable[[], str]]) -> None:
    """An error here would end a run that costs money because its reader is gone."""
    writer, _ = pipe
    os.close(writer)
    live = Live(writer, terminal=True)
    live.show(EVENT)
    live.show(EVENT)
    live.close()


def test_progress_line_shows_round_fraction_and_rate_where_there_are_some() -> None:
    line = progress_line({**EVENT, "round": 2, "rounds": 3, "fraction": 0.5, "rate": 12.34}, worker="gw1")
    assert line == "[gw1]  h100-60s  raw  round 2 of 3  train  50%  12.3/s  for 2 s"


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_summary_fits_the_terminal(columns: int) -> None:
    """It needed 130 columns and wrapped below."""
    records = [example.measured(), example.measured(rounds=6, name="a-row-with-a-name-that-is-rather-long"), example.null_row()]
    lines = list(summary(records, (), width=columns))

    assert max(map(len, lines)) <= columns
    assert next(line for line in lines if line.startswith("mlp-h100-60s")).count("+1.05 %") == 1
    assert sum("single sample" in line for line in lines) == 1


def test_what_failed_is_the_first_thing_in_the_summary_and_red() -> None:
    lines = list(summary([example.measured(), example.excluded()], ()))

    assert isinstance(lines[0], RedLine)
    assert lines[1].strip() == "mlp-h100-30m (protected-first): excluded"
    assert [place for place, line in enumerate(lines) if line.startswith("row ")] > [1]


def test_stand_in_is_in_the_table() -> None:
    record = example.measured()
    record["record"] |= {"standIn": True, "modelId": "Qwen/Qwen2.5-7B-Instruct"}
    lines = list(summary([record], ()))

    assert "stand-in" in lines[1]
    assert "in place of Qwen/Qwen2.5-7B-Instruct" in lines[2]


def test_findings_that_did_not_hold_are_counted_by_kind() -> None:
    judged: Any = [{"finding": state} for state in ("held", "broken", "unseen", "held")]
    assert findings(judged) == "2 of 4 held, 1 broken, 1 unseen"


def test_progress_line_shows_how_wide_an_interval_is_and_not_where() -> None:
    """Its position would allow stopping at a convenient result."""
    line = progress_line({**EVENT, "leg": "", "phase": "interval", "round": 3, "rounds": 6, "half_width_pct": 0.754})
    assert line.split("  ")[1:] == ["round 3 of 6", "round over", "interval half-width 0.75 points"]
