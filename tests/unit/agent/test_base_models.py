"""A model arrives at a guest whole and as it is listed, or not at all: from a directory, from a hub by the real process, or pushed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.agent import model_arrival
from pytest_glasshouse.workloads.model_files import VerifiedBase
from tests.limits import until
from tests.loopback.hub import Hub
from tests.loopback.hub_faults import Cut, Drip, Flipped, Refused, Tap
from tests.unit.agent.arriving_models import (
    COMMIT,
    FILES,
    FIRST,
    INDEX,
    MODEL,
    REPO,
    SECOND,
    TOTAL,
    Guest,
    entries,
    own,
    packages,
    pid_of,
    until_gone,
    with_reason,
)

TOKEN = "hf_" + "a" * 34


# From a hub.


def test_a_model_is_downloaded_through_all_that_passes(guest: Guest, hub: Hub) -> None:
    """One process; each file is fetched once but for what was lost, and the one with a wrong byte once more."""
    hub.arm(Cut(after_bytes=50_000), on="large", file=FIRST)
    hub.arm(Refused(status=503), on="resolve", file=INDEX)
    hub.arm(Refused(status=429, retry_after_s=0), on="resolve", file="config.json")
    hub.arm(Flipped(at=77), on="large", file=SECOND)
    assert guest.download(hub) == {}
    state = guest.ended()
    assert (state["phase"], state["source"], state["done"], state["total"]) == ("ready", "hub", TOTAL, TOTAL)
    assert hub.unmet() == ()
    assert guest.below() == own()
    assert [one.range for one in hub.asked("large", file=FIRST)] == [None, "bytes=50000-"]
    assert [one.range for one in hub.asked("large", file=SECOND)] == [None, None]
    assert {each["phase"] for each in guest.answers} <= {"download", "verify", "ready"}
    assert guest.state()["ms"] == state["ms"], "the time stops when it is ready"
    plan = guest.agent._models.plan(MODEL)
    assert plan["sha256"] == MODEL
    VerifiedBase(Path(plan["directory"]), plan["identity"]).check()
    assert hub.tokens_seen("hub") == {None}


def test_a_byte_that_is_wrong_twice_never_trains(guest: Guest, hub: Hub) -> None:
    hub.arm(Flipped(at=9), on="large", file=FIRST, times=None)
    guest.download(hub)
    reason, detail = with_reason(guest.ended())
    assert (reason, detail) == ("differs", f"the hub sent, twice, another {FIRST} than its metadata lists")
    assert guest.below() == {}
    assert len(hub.asked("large", file=FIRST)) == 2
    assert len(hub.asked("large", file=SECOND)) == 1
    order = {"kind": "raw", "nonce": "n", "material": {}, "base_sha256": MODEL}
    plan = {
        "workload": "lora", "device": "cpu", "warmup_ns": 0, "target_ns": None, "steps": 1, "order_seed": 1, "segments": None,
        "base": {"sha256": MODEL},
    }  # fmt: skip
    refused = guest.ask("start", leg="l", order={**order, "plan": plan})
    assert refused["error"] == "ProtocolError"
    assert "expected a base model that was verified" in refused["detail"]


def test_a_gated_model_is_downloaded_with_a_token_that_is_nowhere_to_be_read(guest: Guest) -> None:
    """The first request has none and fails; the second has it. The process is looked at while the hub holds its answers back."""
    with Hub({REPO: {COMMIT: FILES}}, gated={REPO}, tokens={TOKEN: {REPO}}) as hub:
        guest.download(hub)
        assert with_reason(guest.ended())[0] == "gated"
        assert hub.tokens_seen("hub") == {None}
        tap = Tap()
        hub.arm(Drip(tap=tap, piece_bytes=1 << 20), on="large", file=FIRST)
        guest.download(hub, token=TOKEN)
        until(tap.waited.is_set, "the hub to be asked for the first file")
        pid = pid_of(guest)
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        shown = [command, *guest.contents().values()]
        with contextlib.suppress(PermissionError):  # it is hardened: only root may look
            shown.append(Path(f"/proc/{pid}/environ").read_bytes())
        assert not any(TOKEN.encode() in each for each in shown)
        tap.open()
        assert guest.ended()["phase"] == "ready"
        assert hub.tokens_seen("storage") == {None}
    assert TOKEN not in str(guest.answers)
    assert not any(TOKEN.encode() in each for each in guest.contents().values())
    assert "token" not in guest.arrival()._request
    spool = guest.root.parent / "spool.jsonl"
    assert not spool.exists() or TOKEN not in spool.read_text()


def test_the_first_file_that_cannot_be_had_ends_the_download(guest: Guest, hub: Hub) -> None:
    """The other file is held back for ever: its end is not waited for."""
    hub.arm(Drip(tap=Tap()), on="large", file=FIRST)
    hub.arm(Refused(status=404, code="EntryNotFound"), on="resolve", file=SECOND)
    guest.download(hub)
    assert with_reason(guest.ended()) == ("absent", "the hub does not have a file of the model")
    assert guest.below() == {}
    assert len(hub.asked("resolve", file=FIRST)) <= 1, "nor is it asked for again when its time is over"


#: What ends a download that the hub holds back for ever, and how.
ENDS: dict[str, tuple[dict[str, Any], Callable[[Guest], object], str, str]] = {
    "nothing arrives": ({"idle_s": 1}, lambda _guest: None, "slow", "no byte arrived from the hub for 1 s, after 0 MiB"),
    "it takes too long": ({"within_s": 0}, lambda _guest: None, "slow", "the download did not end within 0 s (0 of 0 MiB)"),
    "the host gives up": ({}, lambda guest: guest.state(stop=True), "stopped", "the host gave up"),
    "its process is killed": (
        {}, lambda guest: os.kill(pid_of(guest), signal.SIGKILL), "failed", "the download ended with status -9 and without a result",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ENDS)
def test_a_download_that_does_not_end_is_ended(what: str, guest: Guest, hub: Hub) -> None:
    fields, end, reason, detail = ENDS[what]
    tap = Tap()
    hub.arm(Drip(tap=tap), on="large", times=None)
    guest.download(hub, **fields)
    pid = pid_of(guest)
    if not fields:
        until(tap.waited.is_set, "the hub to be asked")
    end(guest)
    assert with_reason(guest.ended()) == (reason, detail)
    until_gone(pid)
    assert guest.below() == {}
    if what == "nothing arrives":
        # And what failed may be tried again.
        tap.open()
        guest.download(hub)
        assert guest.ended()["phase"] == "ready"


def test_the_end_of_the_agent_is_that_of_a_download(guest: Guest, hub: Hub) -> None:
    tap = Tap()
    hub.arm(Drip(tap=tap), on="large", times=None)
    guest.download(hub)
    pid = pid_of(guest)
    until(tap.waited.is_set, "the hub to be asked")
    guest.end()
    until_gone(pid)
    assert not guest.root.exists()


def test_a_model_that_is_on_its_way_is_not_fetched_twice(guest: Guest, hub: Hub) -> None:
    tap = Tap()
    hub.arm(Drip(tap=tap, piece_bytes=1 << 20), on="large", file=FIRST)
    guest.download(hub)
    arrival = guest.arrival()
    until(tap.waited.is_set, "the hub to be asked")
    assert guest.download(hub) == {}
    assert guest.model("pushed") == {}
    tap.open()
    assert guest.ended()["phase"] == "ready"
    guest.download(hub)
    assert (guest.arrival(), guest.state()["phase"]) == (arrival, "ready"), "and one that is here is left alone"
    assert len(hub.asked("resolve", method="GET")) == len(FILES) - 1


def test_another_source_may_follow_one_that_was_stopped(guest: Guest, hub: Hub) -> None:
    """The host names the next source at once; the one before may still be removing what it wrote."""
    tap = Tap()
    hub.arm(Drip(tap=tap), on="large", times=None)
    guest.download(hub)
    until(tap.waited.is_set, "the hub to be asked")
    guest.state(stop=True)
    assert guest.model("pushed") == {}
    assert guest.state()["source"] == "pushed"
    guest.push()
    assert guest.ended()["phase"] == "ready"
    assert guest.below() == own()


def test_a_guest_without_the_hubs_client_says_what_its_image_lacks(guest: Guest, hub: Hub, tmp_path: Path) -> None:
    # All that the agent itself needs, and no client.
    wanted = ("cryptography", "cffi", "_cffi_backend", "rfc8785", "pycparser")
    folder = tmp_path / "packages"
    folder.mkdir()
    for path in Path(packages()[0]).iterdir():
        if path.name.startswith(wanted):
            (folder / path.name).symlink_to(path)
    guest.use([str(folder)])
    guest.download(hub)
    assert with_reason(guest.ended()) == ("no-client", "the guest's image lacks huggingface_hub")


def test_a_guest_without_room_fetches_nothing(guest: Guest, hub: Hub) -> None:
    files = [{**one, "size": 1 << 40} if one["name"] == FIRST else one for one in entries()]
    guest.download(hub, files=files)
    reason, detail = with_reason(guest.ended())
    assert reason == "no-space"
    assert detail.startswith("the guest has ")
    assert detail.endswith(f"MiB of disk left; the model needs {(1 << 40) + TOTAL - len(FILES[FIRST]) >> 20}")
    assert hub.requests == []


def test_what_was_written_is_gone_before_the_host_learns_of_a_failure(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host asks for the next source as soon as it sees one fail: what that writes was removed by the one before."""
    phases: list[str] = []
    remove = shutil.rmtree

    def removed(path: Any, **options: Any) -> None:
        phases.append(guest.arrival().phase)
        remove(path, **options)

    guest.model("pushed")
    assert guest.wanted() is not None
    monkeypatch.setattr(shutil, "rmtree", removed)
    guest.state(stop=True)
    assert with_reason(guest.ended())[0] == "stopped"
    assert phases == ["push"]


def test_a_fault_of_the_agents_own_is_a_failure_and_not_a_phase_for_ever(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(TOKEN)

    monkeypatch.setattr(model_arrival, "refuse_outside", broken)
    guest.model("pushed")
    guest.push()
    assert with_reason(guest.ended()) == ("failed", "RuntimeError")


def test_an_arrival_replaces_nothing_of_its_thread() -> None:
    """One had a method of the name of one that a thread calls at its end: every arrival ended in a traceback."""
    assert {name for name in vars(model_arrival.Arrival) if hasattr(threading.Thread, name) and not name.startswith("__")} == {
        "run"
    }
