"""`glasshouse reap` and `glasshouse doctor` against loopback providers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_glasshouse.broker import timing
from pytest_glasshouse.broker.timing import Timing
from pytest_glasshouse.cli.main import main
from tests.limits import HANG_S
from tests.loopback.cloud import Order
from tests.loopback.faults import Fault
from tests.loopback.http import LoopbackServer
from tests.loopback.paging import Paging
from tests.loopback.providers import runpod, vastai

PROVIDERS = {"runpod": (runpod, "RUNPOD_API_BASE_URL", "RUNPOD_API_KEY"), "vastai": (vastai, "VAST_URL", "VAST_API_KEY")}

#: The timing of simulated providers, shorter, with all the time in the world to prove an end.
QUICK = Timing(poll_s=0.01, search_s=1.0, settle_s=0.02, give_up_s=HANG_S)


@pytest.fixture(params=PROVIDERS)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    make, url, key = PROVIDERS[request.param]
    for name in ("RUNPOD_API_KEY", "VAST_API_KEY", *(each for each in os.environ if each.startswith("GLASSHOUSE_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(timing, "SIMULATED", QUICK)
    with make(pods="none") as made:
        monkeypatch.setenv(url, made.url)
        monkeypatch.setenv(key, made.cloud.account_key)
        made.name = request.param
        yield made


def _exists(server: LoopbackServer, run: str, *, deadline_in_s: float) -> str:
    name = f"glasshouse-{run}-1-{int(time.time() + deadline_in_s)}"
    gpu = "NVIDIA RTX A4000"
    order = Order(name=name, image="x", gpu=gpu, command=(), env={}, ports=("22/tcp",), disk_gb=10)
    server.cloud.create(order, None)
    return name


def test_expired_allocations_end_without_a_ledger_and_others_keep_running(
    server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last resort of a run whose every process is gone: a scheduled job that knows nothing but the account's key."""
    over, going = _exists(server, "dead", deadline_in_s=-1), _exists(server, "alive", deadline_in_s=600)
    assert main(["reap", "--expired", "--allow-simulated"]) == 0
    output = capsys.readouterr().out
    assert f"ended: {over}: " in output
    assert [one.order.name for one in server.cloud.billing()] == [going]
    assert main(["reap", "--yes", "--run", "alive", "--allow-simulated"]) == 0
    assert server.cloud.billing() == ()


def test_listing_comes_first_and_ends_nothing(server: LoopbackServer, capsys: pytest.CaptureFixture[str]) -> None:
    name = _exists(server, "dead", deadline_in_s=-1)
    assert main(["reap", "--expired", "--dry-run", "--allow-simulated"]) == 1
    assert (name in capsys.readouterr().out, len(server.cloud.billing())) == (True, 1)
    assert main(["reap", "--expired", "--allow-simulated"]) == 0


def test_running_allocations_are_not_ended_without_consent(server: LoopbackServer, capsys: pytest.CaptureFixture[str]) -> None:
    _exists(server, "alive", deadline_in_s=600)
    assert main(["reap", "--allow-simulated"]) == 1
    assert (len(server.cloud.billing()), "--yes ends them" in capsys.readouterr().out) == (1, True)
    assert main(["reap", "--yes", "--allow-simulated"]) == 0


def test_failed_listing_is_not_an_empty_one(server: LoopbackServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.cloud.faults.add(Fault(kind="503", on="list", times=9))
    assert main(["reap", "--expired", "--allow-simulated"]) == 10
    output = capsys.readouterr().out
    assert "what is left is not known" in output
    assert "nothing to end" not in output
    assert "something may be left that costs money" in output.splitlines()[-1]


def test_terminate_that_is_refused_twice_is_tried_again(server: LoopbackServer) -> None:
    _exists(server, "dead", deadline_in_s=-1)
    server.cloud.faults.add(Fault(kind="refused", on="terminate", times=2))
    assert main(["reap", "--expired", "--allow-simulated"]) == 0


def test_loopback_provider_is_refused_unless_it_was_asked_for(server: LoopbackServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reap", "--expired", "--provider", server.name]) == 4
    assert "not the provider's own" in capsys.readouterr().err


def test_without_any_key_no_provider_is_asked(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    assert main(["reap", "--expired", "--allow-simulated"]) == 4
    assert "expected RUNPOD_API_KEY, VAST_API_KEY, --host or --provider slurm" in capsys.readouterr().err


@pytest.fixture
def failing_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slurm's clients on PATH, as a package of the system brings them, without a cluster."""
    for name in ("sbatch", "squeue"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{name}: fatal: no configuration' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    # `timing_of` tells places with a queue by how often they may be asked.
    monkeypatch.setattr(timing, "timing_of", lambda _provider: QUICK)


@pytest.mark.usefixtures("server", "failing_slurm")
def test_clients_of_slurm_alone_do_not_make_it_a_place_to_look_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reap", "--expired", "--allow-simulated"]) == 0
    assert "slurm" not in capsys.readouterr().out
    assert main(["reap", "--expired", "--allow-simulated", "--provider", "slurm"]) == 10
    assert "slurm: its listing failed" in capsys.readouterr().out
    monkeypatch.setenv("GLASSHOUSE_SLURM_PARTITION", "gpu")
    assert main(["reap", "--expired", "--allow-simulated"]) == 10
    assert "slurm: its listing failed" in capsys.readouterr().out


def test_doctor_shows_everything_in_one_line_each(server: LoopbackServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--provider", server.name, "--allow-simulated"]) == 0
    output = dict(line[4:].strip().split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(output) == ["ssh", "base URL", "key", "rights", "balance", "clock", "offers", "leftovers", "disk"]
    assert (output["key"], output["rights"], output["leftovers"]) == ("accepted", "the key may create allocations", "none")
    assert "a4000 0.25 USD per hour" in output["offers"]


@pytest.mark.parametrize("why", ["access denied", "API key lacks the permission pods:write", "this key is read-only"])
def test_doctor_shows_that_a_key_may_not_create_and_makes_nothing(
    server: LoopbackServer, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cloud.denied["create"] = why
    assert main(["doctor", "--provider", server.name, "--allow-simulated"]) == 1
    (output,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert "rights: " in output
    assert f"may not create {'pods' if server.name == 'runpod' else 'instances'} (403: " in output
    assert server.cloud.rented == {}


def test_doctor_warns_where_only_a_create_would_show(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if server.name == "runpod":
        monkeypatch.setenv("GLASSHOUSE_RUNPOD_API", "sdk")
    else:
        server.cloud.faults.add(Fault(kind="503", on="create"))
    assert main(["doctor", "--provider", server.name, "--allow-simulated"]) == 0
    assert "warn  rights: unknown: only a create request shows whether this key may create" in capsys.readouterr().out


def test_allocations_on_an_incomplete_listing_are_ended(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is expired, it bills, and it was seen: that there may be more is no reason to keep it."""
    over, going = _exists(server, "dead", deadline_in_s=-1), _exists(server, "alive", deadline_in_s=600)
    server.cloud.paging = Paging(lie="unknown", size=5)
    monkeypatch.setattr(timing, "SIMULATED", replace(QUICK, give_up_s=0.1))
    assert main(["reap", "--expired", "--allow-simulated"]) == 10
    output = capsys.readouterr().out
    assert [one.order.name for one in server.cloud.billing()] == [going]
    assert "its listing may not be the whole, so more may be left: an unknown field (resume)" in output
    assert f"UNPROVEN: {over}: the listing may not be the whole" in output
    server.cloud.paging = None
    monkeypatch.setattr(timing, "SIMULATED", QUICK)
    assert main(["reap", "--yes", "--run", "alive", "--allow-simulated"]) == 0
    assert server.cloud.billing() == ()


def test_allocations_on_a_later_page_are_ended_and_proven(server: LoopbackServer, capsys: pytest.CaptureFixture[str]) -> None:
    names = [_exists(server, f"dead{number}", deadline_in_s=-1) for number in range(3)]
    server.cloud.paging = Paging(form="offset", size=2)
    assert main(["reap", "--expired", "--allow-simulated"]) == 0
    output = capsys.readouterr().out
    assert server.cloud.billing() == ()
    assert all(f"ended: {name}: " in output for name in names)


def test_doctor_does_not_take_an_incomplete_listing_for_an_empty_one(
    server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    others = Order(name="somebody-elses", image="x", gpu="NVIDIA RTX A4000", command=(), env={}, ports=(), disk_gb=10)
    made = server.cloud.create(others, None)
    server.cloud.paging = Paging(lie="unknown")
    assert main(["doctor", "--provider", server.name, "--allow-simulated"]) == 1
    assert "leftovers: unknown: the listing may not be the whole" in capsys.readouterr().out
    server.cloud.vanish(made.instance_id)


def test_doctor_finds_leftover_allocations_and_shows_how_to_end_them(
    server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _exists(server, "dead", deadline_in_s=-1)
    assert main(["doctor", "--provider", server.name, "--allow-simulated"]) == 1
    assert f"-> glasshouse reap --provider {server.name} --expired" in capsys.readouterr().out
    assert main(["reap", "--expired", "--allow-simulated"]) == 0


def test_doctor_names_a_key_that_is_not_accepted(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "not-the-key-at-all")
    monkeypatch.setenv("VAST_API_KEY", "not-the-key-at-all")
    assert main(["doctor", "--provider", server.name, "--allow-simulated"]) == 1
    output = capsys.readouterr().out
    assert ("FAIL  key" in output, "not-the-key-at-all" in output) == (True, False)
    assert "->" not in output[output.index("FAIL  key") :], "the error says what to do, and once is enough"


def test_doctor_shows_once_what_to_do_without_a_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    assert main(["doctor", "--provider", "vastai"]) == 1
    output = capsys.readouterr().out.splitlines()[-1]
    assert output.endswith("expected it in VAST_API_KEY. Make one in the provider's console")


def test_doctor_without_an_answer_shows_when_to_try_again(server: LoopbackServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.cloud.faults.add(Fault(kind="503", on="list", times=9))
    assert main(["doctor", "--provider", server.name, "--allow-simulated"]) == 1
    (output,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert "answered 503" in output
    assert output.endswith(" -> run doctor again in a minute")


def test_doctor_shows_that_ssh_would_not_reach_a_guest(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has `ssh` read the configuration it would write, so that nothing is rented that cannot be reached."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "--provider", server.name, "--allow-simulated"]) == 1
    assert "FAIL  ssh: ssh refused its configuration" in capsys.readouterr().out


@pytest.mark.torch
def test_doctor_checks_this_machine_for_the_mock(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert all(what in output for what in ("training: ", "sockets: ", "disk: ", "memory locks: "))
