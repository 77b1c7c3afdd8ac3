"""What has to be true before anything is rented, seen from outside: a real pytest, a real client, a loopback provider.

pytest has a process of its own where that matters: for its terminal, for workers, for programs that it starts.
"""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from pytest_glasshouse.broker.pricing import PriceLine, Quote
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.plugin.rental_prompt import ask_to_rent
from pytest_glasshouse.run.options import Options
from pytest_glasshouse.workloads.registry import prepare
from tests.limits import HANG_S
from tests.loopback.faults import Fault
from tests.loopback.http import LoopbackServer
from tests.loopback.providers import runpod
from tests.plugin.conftest import ROWS, Project
from tests.plugin.forks import Forks
from tests.pytest_process import NO_OTHERS, CompiledFiles

ARGUMENTS = ("--provider", "runpod", "--glasshouse-leg-seconds", "2")
ALLOWED = (*ARGUMENTS, "--glasshouse-allow-simulated")
RunHere: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with runpod(pods="none") as made:
        yield made


def _environment(server: LoopbackServer) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GLASSHOUSE_", "PYTEST_", "RUNPOD_", "VAST_")) and name != "CI"
    }
    environment["PYTEST_ADDOPTS"] = NO_OTHERS
    return {**environment, "RUNPOD_API_BASE_URL": server.url, "RUNPOD_API_KEY": server.cloud.account_key, "HOME": "/nonexistent"}


def _write_rows(folder: Path) -> None:
    (folder / "test_rows.py").write_text(ROWS.format(rows=[("good", "h100", "raw-first")]))
    (folder / "pytest.ini").write_text("[pytest]\n")


def _pytest(server: LoopbackServer, folder: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    _write_rows(folder)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=folder, env=_environment(server),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG_S, check=False, **more,
    )  # fmt: skip


@pytest.fixture
def copy(forks: Forks) -> RunHere:
    """As `_pytest`, in a copy of a process that has imported everything."""

    def run(server: LoopbackServer, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        _write_rows(folder)
        result = forks.run(folder, ("-p", "no:cacheprovider", *arguments), _environment(server))
        return subprocess.CompletedProcess(arguments, int(result.ret), result.stdout.str(), result.stderr.str())

    return run


@pytest.fixture
def here(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunHere:
    """As `_pytest`, in this process and in pytester's directory."""

    def run(server: LoopbackServer, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = _environment(server)
        for name in os.environ.keys() - environment.keys():
            if not name.startswith("PYTEST_"):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        _write_rows(pytester.path)
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
        return subprocess.CompletedProcess(arguments, int(result.ret), result.stdout.str(), result.stderr.str())

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ALLOWED,
            4,
            "expected --glasshouse-budget USD, saw none, and there is no terminal to ask at; give a budget. Nothing was rented",
        ),
        ((*ARGUMENTS, "--budget", "5"), 4, "accept a simulated provider with --glasshouse-allow-simulated"),
        ((*ALLOWED, "--budget", "0.01"), 11, "and the budget 0.01 USD: nothing was rented"),
        ((*ALLOWED, "--budget", "nothing"), 4, "expected a finite number above 0"),
    ],
    ids=["no-budget", "loopback", "too-dear", "no-number"],
)
def test_refusal_has_a_reason_and_rents_nothing(
    server: LoopbackServer, here: RunHere, tmp_path: Path, arguments: Sequence[str], code: int, message: str
) -> None:
    """Without a budget in a process of its own: whether there is a terminal to ask at is another question here."""
    result = _pytest(server, tmp_path, *arguments) if arguments == ALLOWED else here(server, *arguments)
    assert (result.returncode, message in result.stdout + result.stderr) == (code, True), result.stdout + result.stderr
    assert ("create" in server.cloud.asked, server.cloud.account_key in result.stdout + result.stderr) == (False, False)


def test_row_whose_text_file_is_missing_is_refused_before_anything_is_rented(
    server: LoopbackServer, here: RunHere, pytester: pytest.Pytester
) -> None:
    (pytester.path / "test_lora.py").write_text(
        "import pytest\nfrom pytest_glasshouse.rows import RowSpec\n"
        "ROW = RowSpec(name='mine', workload='lora', gpu='h100', order='raw-first', steps=8, model='some/model', data='gone.txt')\n"
        "@pytest.mark.parametrize('row', [ROW])\n"
        "def test_row(row, allocation): ...\n"
    )
    result = here(server, *ALLOWED, "--budget", "5", "test_lora.py")
    assert (result.returncode, "data gone.txt: expected" in result.stdout + result.stderr) == (4, True), result.stdout
    assert server.requests == []


@pytest.mark.parametrize(
    ("spoilt", "message", "workers"),
    [
        ("weights", "saw pytorch_model.bin, which is not loaded", ()),
        ("text", "expected text of at least 512 tokens; saw ", ()),
        ("truncation", "tokenizer.json: expected no saved truncation", ()),
        ("targets", "no layer is called c_attn", ("-n1",)),
    ],
)
def test_row_that_could_not_train_is_refused_before_a_provider_is_asked(
    server: LoopbackServer,
    here: RunHere,
    copy: RunHere,
    pytester: pytest.Pytester,
    spoilt: str,
    message: str,
    workers: Sequence[str],
) -> None:
    """Each of these cost a boot."""
    if workers:
        pytest.importorskip("xdist")
    folder = pytester.path
    model = folder / "models" / "mine"
    model.mkdir(parents=True)
    base = prepare("lora", seed=1, model="Nobody/Stand-In-0.5B-Nowhere").base
    assert base is not None
    for name, content in base.content.items():
        (model / name).write_bytes(content)
    if spoilt == "weights":
        (model / "model.safetensors").rename(model / "pytorch_model.bin")
    if spoilt == "truncation":
        cut = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        (model / "tokenizer.json").write_text(json.dumps({**json.loads(base.content["tokenizer.json"]), "truncation": cut}))
    (folder / "notes.txt").write_text("We" if spoilt == "text" else "We the People " * 999)
    fields = {"data": "notes.txt", "model": "models/mine", "steps": 8, **({"targets": ["c_attn"]} if spoilt == "targets" else {})}
    (folder / "test_lora.py").write_text(
        "import pytest\nfrom pytest_glasshouse.rows import RowSpec\n"
        f"ROW = RowSpec(name='mine', workload='lora', gpu='h100', order='raw-first', **{fields!r})\n"
        "@pytest.mark.parametrize('row', [ROW])\n"
        "def test_row(row, allocation): ...\n"
    )
    arguments = (*ALLOWED, "--budget", "5", *workers, "test_lora.py")
    result = copy(server, folder, *arguments) if workers else here(server, *arguments)
    shown = result.stdout + result.stderr
    assert (result.returncode, message in shown, "row mine: " in shown) == (4, True, True), shown
    assert server.requests == []


@pytest.mark.torch  # and the libraries with it
def test_model_that_the_libraries_would_not_build_is_refused_before_ask_to_rent(
    server: LoopbackServer, compiled: CompiledFiles, tmp_path: Path
) -> None:
    """Its files look like a model: only the libraries know that they do not know it."""
    model = tmp_path / "mine"
    model.mkdir()
    base = prepare("lora", seed=1, model="Nobody/Stand-In-0.5B-Nowhere").base
    assert base is not None
    for name, content in base.content.items():
        (model / name).write_bytes(content)
    (model / "config.json").write_text(json.dumps({**json.loads(base.content["config.json"]), "model_type": "of-tomorrow"}))
    (tmp_path / "test_lora.py").write_text(
        "import pytest\nfrom pytest_glasshouse.rows import RowSpec\n"
        "ROW = RowSpec(name='mine', workload='lora', gpu='h100', order='raw-first', steps=8, model='mine')\n"
        "@pytest.mark.parametrize('row', [ROW])\n"
        "def test_row(row, allocation): ...\n"
    )
    with compiled.written(tmp_path):  # the libraries are thousands of files
        result = _pytest(server, tmp_path, *ALLOWED, "--budget", "5", "test_lora.py")
    shown = result.stdout + result.stderr
    assert (result.returncode, "cannot be trained with the libraries of this machine" in shown) == (4, True), shown
    assert server.requests == []


def test_ssh_that_would_reach_no_guest_is_found_before_anything_is_rented(
    server: LoopbackServer, copy: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found on a pod that billed, and called safe to retry: each retry paid again."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\necho hostname elsewhere\n")
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    image = f"example/guest@sha256:{'5' * 64}"
    result = copy(server, tmp_path, *ALLOWED, "--budget", "5", "--glasshouse-image", image)
    assert result.returncode == 4, result.stdout + result.stderr
    assert "ssh reads other values in its configuration" in result.stdout + result.stderr
    assert "create" not in server.cloud.asked


def test_price_above_the_limit_is_refused_over_several_processes_too(
    server: LoopbackServer, copy: RunHere, tmp_path: Path
) -> None:
    pytest.importorskip("xdist")
    result = copy(server, tmp_path, *ALLOWED, "--budget", "0.01", "-n1")
    assert result.returncode == 11, result.stdout + result.stderr
    assert server.cloud.rented == {}


@pytest.mark.parametrize(
    ("kind", "times", "code", "message", "workers"),
    [
        ("503", 100, 14, "was answered 503", ()),
        ("503", 100, 14, "was answered 503", ("-n1",)),
        ("401", 1, 4, "The API key is not accepted for this", ()),
        ("429", 1, 11, "Too many requests", ()),
    ],
    ids=["answers-503", "answers-503-over-processes", "key-rejected", "busy-once"],
)
def test_provider_that_gives_no_prices_ends_the_run_in_one_line(
    server: LoopbackServer,
    here: RunHere,
    copy: RunHere,
    tmp_path: Path,
    kind: Any,
    times: int,
    code: int,
    message: str,
    workers: Sequence[str],
) -> None:
    """A provider's failure: no traceback, the waiting is reported, and exit 14 means that a retry is safe."""
    if workers:
        pytest.importorskip("xdist")
    server.cloud.faults.add(Fault(kind=kind, on="offers", times=times))
    arguments = (*ALLOWED, "--budget", "0.01", *workers)
    result = copy(server, tmp_path, *arguments) if workers else here(server, *arguments)
    shown = result.stdout + result.stderr
    assert (result.returncode, message in shown) == (code, True), shown
    assert "INTERNALERROR" not in shown
    assert "Traceback" not in shown
    assert ("asked again in 0.2 s (try 2 of 5)" in shown) == (code != 4), shown
    if code == 14:
        (line,) = [line for line in shown.splitlines() if "Nothing was rented" in line]
        assert message in line
    assert "create" not in server.cloud.asked


def test_provider_that_cannot_be_reached_ends_the_run_in_one_line(here: RunHere) -> None:
    with runpod(pods="none") as gone:
        pass
    result = here(gone, *ALLOWED, "--budget", "5")
    assert result.returncode == 14, result.stdout + result.stderr
    assert "no connection to its API; nothing was asked. Check the network. Nothing was rented" in result.stdout
    assert "INTERNALERROR" not in result.stdout


@pytest.mark.parametrize(
    ("why", "code", "message"),
    [
        ("access denied", 4, "this API key may not create pods (403: access denied)"),
        ("Your account cannot access the requested pool.", 14, "this account may not use that pool"),
    ],
)
def test_key_without_the_right_to_create_is_not_missing_capacity(
    server: LoopbackServer, here: RunHere, why: str, code: int, message: str
) -> None:
    """Exit 14 means that running again is safe, and a scheduled job would run again for ever."""
    server.cloud.denied["create"] = why
    result = here(server, *ALLOWED, "--budget", "5")
    shown = " ".join((result.stdout + result.stderr).split())
    assert (result.returncode, message in shown, "running again is safe" in shown) == (code, True, code == 14), shown
    assert server.cloud.rented == {}


def test_key_in_the_environment_asks_nothing(server: LoopbackServer, here: RunHere) -> None:
    """A key is not a wish to rent: without a provider named, the run is a dry run on this machine."""
    result = here(server, "--glasshouse-mock-fault", "no-capacity")
    assert "nothing is rented" in result.stdout
    assert server.requests == []


def _at_a_terminal(server: LoopbackServer, folder: Path, answer: str) -> tuple[int, str]:
    """Exit code of a pytest without a budget whose question is answered, and all that its terminal showed."""
    _write_rows(folder)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *ALLOWED], cwd=folder, env=_environment(server),
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = ""

    def read() -> str:
        assert select.select([ours], [], [], HANG_S)[0], f"nothing more was shown after {shown!r}"
        return os.read(ours, 4096).decode()

    try:
        while "[yes/no]" not in shown:
            shown += read()
        os.write(ours, f"{answer}\n".encode())
        while True:
            shown += read()
    except OSError:
        pass  # the terminal's other end is closed: it is over
    finally:
        process.wait(timeout=HANG_S)
        os.close(ours)
    return process.returncode, shown


@pytest.mark.parametrize("answer", ["no", ""])
def test_terminal_is_shown_the_price_and_asked(server: LoopbackServer, tmp_path: Path, answer: str) -> None:
    """Also where pytest captures: the question and the answer go past it."""
    code, shown = _at_a_terminal(server, tmp_path, answer)
    assert (code, "create" in server.cloud.asked) == (4, False)
    assert all(part in shown for part in ("NVIDIA H100 80GB HBM3", "2.69", "no budget", "SIMULATED", "not rented")), shown


def test_yes_at_the_terminal_rents(server: LoopbackServer, tmp_path: Path) -> None:
    """Here the provider has nothing left when it is asked, so that the run ends there."""
    server.cloud.faults.add(Fault(kind="no-capacity", on="create", times=100))
    code, shown = _at_a_terminal(server, tmp_path, "yes")
    assert (code, "create" in server.cloud.asked, server.cloud.rented) == (14, True, {}), shown


class _Broker:
    rents = True
    simulated: tuple[str, ...] = ()

    def quote(self, *, on_retry: Callable[[str], None]) -> Quote:
        del on_retry
        return Quote(lines=(PriceLine(provider="runpod", gpu_model="GPU", price_usd_per_hour=2.0, rows=1, seconds=3600.0),))


def _ask_to_rent(environ: Mapping[str, str], **options: Any) -> None:
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda _name: None))
    ask_to_rent(_Broker(), Options(provider="runpod", **options), config, environ)  # type: ignore[arg-type]


def test_ci_needs_the_name_of_a_sweeper(capsys: pytest.CaptureFixture[str]) -> None:
    """A CI machine that is thrown away takes the run's reaper with it."""
    with pytest.raises(
        ConfigurationError, match=r"--glasshouse-sweeper NAME \(or GLASSHOUSE_SWEEPER, or glasshouse_sweeper in the ini file\)"
    ):
        _ask_to_rent({"CI": "true"}, budget_usd=5.0)
    _ask_to_rent({"CI": "true"}, budget_usd=5.0, sweeper="nightly-sweep")
    output = capsys.readouterr().out
    assert "estimate 2.00 USD; budget 5.00 USD, enforced while it runs" in output


def test_run_that_the_budget_ended_exits_11_with_its_report(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_OVER_BUDGET", "the budget of 5 USD is reached: every allocation was ended at once")
    result = project.rows("good", "lostcallback").run()
    assert result.ret == 11
    result.stdout.fnmatch_lines(["glasshouse: the budget of 5 USD is reached: *"])
    assert len(project.report()["rows"]) == 1


def test_cleanup_that_is_not_proven_outranks_the_budget(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_OVER_BUDGET", "the budget is reached")
    assert project.rows("good").run("--glasshouse-mock-fault", "terminate-fails").ret == 10


def test_line_of_a_row_shows_what_was_spent_so_far(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "USD so far" not in project.rows("good").fork().stdout.str()
    monkeypatch.setenv("FAKE_SPENT_USD", "1.5")
    project.fork().stdout.fnmatch_lines(["*1.50 USD so far*"])
