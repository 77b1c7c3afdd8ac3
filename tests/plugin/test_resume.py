"""A run that was cut off goes on: judged rows stay as they are, the rest is run, and the report says what happened."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pytest_glasshouse.broker.lease_ledger import LEDGER
from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.report.run_directory import read_tagged, write_tagged
from pytest_glasshouse.report.run_key import TagKey, run_key
from pytest_glasshouse.run.attempt_history import HISTORY, PLAN
from pytest_glasshouse.run.resume import read
from tests.plugin.conftest import add_engine, rows_file
from tests.plugin.forks import Forks
from tests.pytest_process import CompiledFiles
from tests.unit.report import example

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Project

    Outcomes = Callable[[dict[str, Any]], dict[str, str]]

#: What the fake engine lists where a test sets it.
EARLIER_NAME = "glasshouse-earlier-1-2000000000"
SIX = ("good-1", "good-2", "good-3", "killedonce", "good-5", "good-6")


def run_directory(project: Project) -> Path:
    (path,) = (project.path / "reports").glob("*.run")
    return path


@dataclass(frozen=True)
class Snapshot:
    """What a run left in `place`, where it looks for it again; `copy` is as it was left."""

    place: Path
    copy: Path

    def restore(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.copy, self.place, symlinks=True)


@pytest.fixture(scope="module")
def snapshot(compiled: CompiledFiles, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Six rows, killed in the fourth, in the project of an account that has been given a home of its own."""
    folder = tmp_path_factory.mktemp("killed")
    project = folder / "place" / "project"
    project.mkdir(parents=True)
    (folder / "place" / "home").mkdir()
    add_engine(project)
    (project / "test_rows.py").write_text(rows_file(*SIX), encoding="utf-8")
    environment = {**os.environ, **compiled.environment(), "HOME": str(folder / "place" / "home"), "PYTHONPATH": str(project)}
    done = forks.run(project, ("-q", "-p", "no:cacheprovider"), environment)
    assert done.ret == -signal.SIGKILL
    shutil.copytree(folder / "place", folder / "copy", symlinks=True)
    return Snapshot(folder / "place", folder / "copy")


@pytest.fixture
def killed(project: Project, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> Project:
    """That run, just after it was killed."""
    snapshot.restore()
    monkeypatch.chdir(snapshot.place / "project")
    monkeypatch.setenv("HOME", str(snapshot.place / "home"))
    again = dataclasses.replace(project, path=snapshot.place / "project")
    assert again.reports() == []
    return again


def acquired(project: Project) -> list[str]:
    return [line.split()[1] for line in project.asked("acquire")]


def test_run_killed_after_three_of_six_rows_finishes_with_six(killed: Project, outcomes: Outcomes) -> None:
    named = run_directory(killed).name.removesuffix(".run")
    history = run_directory(killed) / HISTORY  # as if it had been killed between the third record and the line that confirms it
    lines = history.read_text("utf-8").splitlines()
    third = max(place for place, line in enumerate(lines) if "finish" in line)
    history.write_text("\n".join(lines[:third]) + '\n{"event": "fin', "utf-8")
    result = killed.run("--glasshouse-resume", named)

    assert result.ret == 0
    assert set(outcomes(killed.report()).values()) == {"measured"}
    assert len(killed.report()["rows"]) == 6
    assert acquired(killed) == [*SIX[:4], *SIX[3:]]
    assert killed.report()["runId"] == named
    result.stdout.fnmatch_lines(["*attempt 2 of this run: 3 rows kept as judged before*"])
    result.stdout.fnmatch_lines(["attempt 2: 3 of 6 rows were judged in an earlier attempt and not measured again"])
    result.stdout.fnmatch_lines(["*3 kept*"])
    assert killed.left_behind() == []
    # and the report lists every attempt a row was begun in
    report = killed.report()
    ids = {row["name"]: row["rowId"] for row in report["rows"]}
    first, second = report["attempts"]

    assert first["begun"] == [ids[name] for name in SIX[:3]]
    assert first["finished"] == [{"rowId": ids[name], "outcome": "measured"} for name in SIX[:3]]
    assert second["kept"] == [ids[name] for name in SIX[:3]]
    assert second["begun"] == [ids[name] for name in SIX[3:]]
    data = killed.reports()[0].read_bytes()
    assert not [fault for fault in check_bytes(data, derivation=example.EXAMPLE).faults if "attempt" in fault.text]


def test_with_workers_finished_rows_are_kept_too(killed: Project) -> None:
    result = killed.fork("--glasshouse-resume", str(run_directory(killed)), "-n1")

    assert result.ret == 0
    assert len(killed.report()["rows"]) == 6
    assert acquired(killed) == [*SIX[:4], *SIX[3:]]


def test_failed_row_stays_failed_and_fails_the_run_again(project: Project, outcomes: Outcomes) -> None:
    """Nothing is silently tried again until it is green."""
    project.rows("broken", "lostcallback", "guestgone", "killedonce", "good").fork("-q")
    result = project.run("--glasshouse-resume", str(run_directory(project)))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(project.report()) == {
        "broken": "failed", "lostcallback": "excluded", "guestgone": "infrastructure", "killedonce": "measured", "good": "measured",
    }  # fmt: skip
    assert acquired(project).count("broken") == acquired(project).count("lostcallback") == 1
    assert acquired(project).count("guestgone") == 2
    result.stdout.fnmatch_lines(["*judged in an earlier attempt of this run*", "*broken was not measured: failed*"])


def test_run_that_ended_is_resumed_from_its_report(project: Project, outcomes: Outcomes) -> None:
    project.rows("good-1", "broken", "good-2").run("-x")
    before = project.report()
    project.run("--glasshouse-resume", before["runId"])

    assert outcomes(project.report()) == {"good-1": "measured", "broken": "failed", "good-2": "measured"}
    assert acquired(project) == ["good-1", "broken", "good-2"]
    assert [each["attempt"] for each in project.report()["attempts"]] == [1, 2]


def test_run_with_nothing_left_reports_the_same_again(project: Project, outcomes: Outcomes) -> None:
    project.rows("good", "free").run()
    assert project.run("--glasshouse-resume", project.report()["runId"]).ret == 0
    assert outcomes(project.report()) == {"good": "measured", "free": "measured"}
    assert acquired(project) == ["good", "free"]


def test_another_run_is_not_taken_for_this_one(killed: Project) -> None:
    """Nor is it resumed with fewer rows than finished, nor from nothing; each is a usage error that says what to do."""
    directory = run_directory(killed)
    run_id = directory.name.removesuffix(".run")
    proof = TagKey(run_key(os.environ, run_id), run_id)
    plan = read_tagged(directory / PLAN, proof)
    spoilt = {
        "judges pytest-glasshouse at 111111111111": {**plan, "subject": {**plan["subject"], "gitCommit": "1" * 40}},
        "the run was on provider local": {**plan, "provider": "local"},
        "cannot be read (KeyError)": {"runId": run_id},
        "expected a run id in it": {"runId": "../elsewhere"},
    }
    for message, spoilt_plan in spoilt.items():
        write_tagged(directory / PLAN, spoilt_plan, proof)
        result = killed.run("--glasshouse-resume", str(directory))
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*{message.replace('(', '[(]').replace(')', '[)]')}*"])
    write_tagged(directory / PLAN, plan, proof)

    result = killed.run("--glasshouse-resume", str(directory), "-k", "good-5")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*of the run and not selected now: good-1-*"])
    shutil.rmtree(directory)
    assert killed.run("--glasshouse-resume", "20261121-000000-abcdef").ret == pytest.ExitCode.USAGE_ERROR


def _better(path: Path) -> None:
    text = path.read_text("utf-8")
    path.write_text(text.replace('"overheadPct": ', '"overheadPct": -'), "utf-8")


def _elsewhere(path: Path) -> None:
    plan = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**plan, "report": str(path.parents[2] / "victim.json")}), "utf-8")


def _without_first_line(path: Path) -> None:
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[1:]), "utf-8")


def _doubled(path: Path) -> None:
    path.write_text(path.read_text("utf-8") * 2, "utf-8")


def _linked(path: Path) -> None:
    path.replace(path.parents[1] / "moved")
    path.symlink_to(path.parents[1] / "moved")


def _linked_hard(path: Path) -> None:
    os.link(path, path.parents[1] / "another name")


def _open_to_others(path: Path) -> None:
    path.parent.chmod(0o777)


def _progress_elsewhere(path: Path) -> None:
    path.with_name("progress.partial").symlink_to(path.parents[1] / "victim.json")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("rows.jsonl", _better), ("rows.jsonl", _without_first_line), ("rows.jsonl", _doubled), ("rows.jsonl", _linked),
        ("rows.jsonl", _linked_hard), ("attempts.jsonl", _without_first_line), ("plan.json", _elsewhere),
        ("plan.json", _linked), ("plan.json", _open_to_others), ("plan.json", _progress_elsewhere),
    ],
)  # fmt: skip
def test_directory_that_was_changed_is_not_resumed(killed: Project, file: str, change: Callable[[Path], None]) -> None:
    """Otherwise the author of a directory could have invented figures signed again, and files of their choice overwritten."""
    directory, log = run_directory(killed), acquired(killed)
    victim = killed.path / "victim.json"
    victim.write_text("precious", "utf-8")
    change(directory / file)

    result = killed.run("--glasshouse-resume", str(directory))

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len(result.errlines) <= 2
    assert victim.read_text("utf-8") == "precious"
    assert killed.reports() == []
    assert acquired(killed) == log


def test_directory_of_another_account_is_not_resumed(killed: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its tags are valid for a key that this account does not have."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    result = killed.run("--glasshouse-resume", str(run_directory(killed)))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*was not written by a run of this account*"])


def test_report_that_another_key_sealed_is_not_resumed(project: Project) -> None:
    project.rows("good-1", "broken", "good-2").run("-x")
    (path,) = project.reports()
    document = json.loads(path.read_bytes())
    document["rows"][0]["overheadPct"] -= 5
    path.write_text(json.dumps(document), "utf-8")
    changed = project.run("--glasshouse-resume", str(path))
    again = resealed(document, key=Ed25519PrivateKey.generate())
    path.write_text(json.dumps(again), "utf-8")
    sealed_again = project.run("--glasshouse-resume", str(path))

    assert (changed.ret, sealed_again.ret) == (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.USAGE_ERROR)
    changed.stderr.fnmatch_lines(["*fault*, first $.rows[[]0[]].*"])
    sealed_again.stderr.fnmatch_lines(["*is not sealed by this account's key*"])
    assert json.loads(path.read_bytes()) == again


def test_run_with_a_key_of_the_users_goes_on_where_that_key_is(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in CI: another machine, another account, the same signing key."""
    key = tmp_path / "key.pem"
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    monkeypatch.setenv("GLASSHOUSE_SIGNING_KEY", str(key))
    project.rows("good-1", "broken", "good-2").run("-x")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    project.run("--glasshouse-resume", project.report()["runId"])
    assert len(project.report()["rows"]) == 2


def test_hint_how_to_resume_is_the_last_line_after_an_interrupt(project: Project) -> None:
    """It stood above pytest's own account of the interrupt, where nobody looks."""
    result = project.rows("good-1", "brokenoff", "good-2").fork()

    assert "KeyboardInterrupt" in result.stdout.str()
    assert "--glasshouse-resume" in result.outlines[-1]


def test_interrupted_run_shows_how_to_resume_and_its_report_may_be_anywhere(project: Project, outcomes: Outcomes) -> None:
    elsewhere = ("--glasshouse-report", "elsewhere/mine.json")
    result = project.rows("good-1", "broken", "good-2").run("-x", *elsewhere)
    message = (
        "glasshouse: 1 of 3 rows were not judged; to run them and keep the others, repeat the command with --glasshouse-resume *"
    )
    result.stdout.fnmatch_lines([message])
    (line,) = [line for line in result.outlines if "--glasshouse-resume" in line]
    path = project.pytester.path / line.split()[-1]
    first = path.read_bytes()
    run_id = json.loads(first)["runId"]

    for named in (("--glasshouse-resume", line.split()[-1]), ("--glasshouse-resume", run_id, *elsewhere)):
        path.write_bytes(first)
        result = project.run(*named)
        report = json.loads(path.read_bytes())
        assert (report["runId"], outcomes(report)["good-2"]) == (run_id, "measured")
        result.stdout.no_fnmatch_line("*were not judged*")
    (path.parent / "copy.json").write_bytes(first)
    project.run("--glasshouse-resume", run_id, *elsewhere).stderr.fnmatch_lines(
        ["*(copy.json, mine.json are all reports of that run: name one)*"]
    )
    refused = project.run("--glasshouse-resume", "nobody", *elsewhere)
    refused.stderr.fnmatch_lines(["*expected a run id, a run directory (.run) or a report (.json)*"])


def test_other_options_are_another_run(killed: Project) -> None:
    """Neither a directory nor a report is gone on with under other options: its rows would be others under the same id."""
    named = run_directory(killed).name.removesuffix(".run")
    log = acquired(killed)
    for options, message in {
        ("--order", "protected-first"): "--glasshouse-order (none given; here protected-first)",
        ("--glasshouse-rounds", "3"): "--glasshouse-rounds (none given; here 3)",
        ("--glasshouse-max-overhead", "2.5"): "--glasshouse-max-overhead (none given; here 2.5)",
    }.items():
        result = killed.run("--glasshouse-resume", named, *options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*was started with other options: {message}. Give the same options, or start a new run*"])
    assert acquired(killed) == log
    assert killed.reports() == []


def test_other_options_than_a_reports_are_another_run(project: Project) -> None:
    project.rows("good-1", "broken", "good-2").run("-x", "--glasshouse-rounds", "2", "--order", "protected-first")
    (path,) = project.reports()
    before = path.read_bytes()
    for options, message in {
        (): "--glasshouse-order (protected-first; here none given)",
        (
            "--order",
            "protected-first",
        ): "row good-1 (rounds 2; here 1), row broken (rounds 2; here 1), row good-2 (rounds 2; here 1)",
    }.items():
        result = project.run("--glasshouse-resume", str(path), *options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*was started with other options: {message}. Give the same options, or start a new run*"])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("listing", "code", "status", "reason"),
    [
        ("fails", 10, "unproven", "the listing failed: the listing did not answer"),
        ("running", 10, "leak", "the listing still shows it"),
        ("ended", 0, "proven", "shows it no more"),
        ("", 0, "proven", "shows it no more"),
    ],
)
def test_allocations_of_an_earlier_attempt_are_proven_gone_by_their_own_providers_listing(
    killed: Project, monkeypatch: pytest.MonkeyPatch, listing: str, code: int, status: str, reason: str
) -> None:
    """A listing that failed took the report with it, and what had ended already was called a leak."""
    common = {"name": EARLIER_NAME, "at": 1.0}
    intent = {**common, "step": "intent", "provider": "local", "base": "", "price": 0.0, "deadline": 2e9}
    steps = [intent, {**common, "step": "created", "instance": "made-1"}, {**common, "step": "listed"}]
    ledger = run_directory(killed) / LEDGER
    ledger.write_text("".join(json.dumps(step) + "\n" for step in steps), "utf-8")
    ledger.chmod(0o600)
    monkeypatch.setenv("FAKE_LISTING", listing)
    result = killed.run("--glasshouse-resume", run_directory(killed).name.removesuffix(".run"))

    assert result.ret == code
    (found,) = [each for each in killed.report()["cleanup"]["allocations"] if each["name"] == EARLIER_NAME]
    assert (found["status"], found["provider"], reason in found["reason"]) == (status, "local", True)
    assert killed.asked("listing") == ["listing local"]


def test_a_run_remembers_what_its_models_were_resolved_to(killed: Project) -> None:
    """A branch may have moved when the run goes on: see `unit/run/test_models_of_a_run.py`."""
    directory = run_directory(killed)
    run_id = directory.name.removesuffix(".run")
    tags = TagKey(run_key(os.environ, run_id), run_id)
    plan = read_tagged(directory / PLAN, tags)
    assert plan["models"] == {}
    models = {"org/model": f"org/model@{'a' * 40}"}
    write_tagged(directory / PLAN, {**plan, "models": models}, tags)
    earlier = read(str(directory), directory.parent, environ=os.environ)
    assert earlier.models == models
    write_tagged(directory / PLAN, {name: value for name, value in plan.items() if name != "models"}, tags)
    assert read(str(directory), directory.parent, environ=os.environ).models == {}, "one that an older version left"
