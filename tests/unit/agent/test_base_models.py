"""A model arrives at a guest whole and as it is listed, or not at all: from a directory, from a hub by the real process, or pushed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.agent import model_arrival
from pytest_glasshouse.workloads.model_files import VerifiedBase, digest_of, identity, listed_content
from tests.limits import until
from tests.loopback.causal_models import write
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
    digests,
    entries,
    packages,
    pid_of,
    until_gone,
)

TOKEN = "hf_" + "a" * 34


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "guest")
    yield made
    made.end()
    assert not (tmp_path / "guest").exists()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({REPO: {COMMIT: FILES}}) as hub:
        yield hub


def own(files: Mapping[str, bytes] = FILES) -> dict[str, str]:
    """What a guest has written once a model of these files has arrived."""
    return digests({f"{digest_of(listed_content(files))[:16]}/{name}": content for name, content in files.items()})


def with_reason(state: dict[str, Any]) -> tuple[str, str]:
    assert state["phase"] == "failed"
    assert state["wants"] is None
    return state["reason"], state["detail"]


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


# What a cache on the guest has of a model that is downloaded.


def cached(folder: Path, files: Mapping[str, bytes], *, commit: str = COMMIT) -> Path:
    """A cache of the hub's client that has these files: links to blobs, named by digest as large files are."""
    home = folder / f"models--{REPO.replace('/', '--')}"
    write({digests({name: content})[name]: content for name, content in files.items()}, home / "blobs")
    (home / "snapshots" / commit).mkdir(parents=True)
    for name, content in files.items():
        (home / "snapshots" / commit / name).symlink_to(home / "blobs" / digests({name: content})[name])
    return folder


def asked_for(hub: Hub) -> set[str]:
    return {one.file for one in hub.requests if one.file}


@pytest.mark.parametrize("commit", [COMMIT, "f" * 40])
def test_what_a_cache_has_of_a_model_is_not_downloaded(commit: str, guest: Guest, hub: Hub, tmp_path: Path) -> None:
    """Also of another commit, whose weights are often the same."""
    cache = cached(tmp_path / "cache", {FIRST: FILES[FIRST]}, commit=commit)
    before = [(path, path.lstat().st_mtime_ns, path.stat().st_mtime_ns) for path in sorted(cache.rglob("*"))]
    guest.download(hub, directory=str(cache))
    assert guest.ended()["phase"] == "ready"
    assert asked_for(hub) == {name for name, content in FILES.items() if content} - {FIRST}
    assert guest.below() == own()
    assert [(path, path.lstat().st_mtime_ns, path.stat().st_mtime_ns) for path in sorted(cache.rglob("*"))] == before


def test_a_file_of_a_cache_that_is_not_as_listed_is_downloaded_and_stays_as_it_was(
    guest: Guest, hub: Hub, tmp_path: Path
) -> None:
    other = bytes(len(FILES[FIRST]))
    cache = cached(tmp_path / "cache", {FIRST: other, SECOND: FILES[SECOND][:-1]})
    guest.download(hub, directory=str(cache))
    assert guest.ended()["phase"] == "ready"
    assert {FIRST, SECOND} <= asked_for(hub)
    assert guest.below() == own()
    found = {
        name: (cache / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT / name).read_bytes()
        for name in (FIRST, SECOND)
    }
    assert digests(found) == digests({FIRST: other, SECOND: FILES[SECOND][:-1]})


# A directory of the guest.

CACHED = f"models--{REPO.replace('/', '--')}/snapshots/{COMMIT}"
LAYOUTS = {
    "itself": "", "by its whole name": REPO, "by its name": "model", "a cache": CACHED, "a home of a cache": f"hub/{CACHED}",
}  # fmt: skip


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_that_the_guest_has_is_found_and_only_read(layout: str, links: bool, guest: Guest, tmp_path: Path) -> None:
    place = tmp_path / "models" / LAYOUTS[layout]
    write(
        {**FILES, "README.md": b"more", "pytorch_model.bin": b"not loaded", ".hidden.json": b"", "original/params.json": b"{}"},
        place,
    )
    if links:
        for number, name in enumerate(FILES):
            (place / name).rename(tmp_path / f"blob-{number}")
            (place / name).symlink_to(tmp_path / f"blob-{number}")
    seen = identity(place)
    guest.model("there", directory=str(tmp_path / "models"), repo=REPO, commit=COMMIT)
    state = guest.ended()
    assert (state["phase"], state["source"], state["done"]) == ("ready", "there", TOTAL)
    assert guest.agent._models.plan(MODEL) == {"sha256": MODEL, "directory": str(place), "identity": seen}
    assert guest.below() == {}
    assert identity(place) == seen
    guest.end()
    assert identity(place) == seen, "the guest's end removes what it wrote, and this it did not"


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _exchange(directory: Path) -> None:
    (directory / FIRST).write_bytes(FILES[SECOND])
    (directory / SECOND).write_bytes(FILES[FIRST])


#: What may be wrong with a guest's copy, and what it is called.
COPIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one more": (lambda d: (d / "adapter_config.json").write_bytes(b"{}"), "adapter_config.json"),
    "one more link": (lambda d: (d / "more.json").symlink_to(d / FIRST), "more.json"),
    "weights in one file": (lambda d: (d / "model.safetensors").symlink_to(d / FIRST), f"{FIRST} (and 2 more)"),
    "one less": (lambda d: (d / "empty.txt").unlink(), "empty.txt"),
    "a byte": (lambda d: (d / SECOND).write_bytes(FILES[SECOND][:-1] + b"\0"), SECOND),
    "a byte more": (lambda d: (d / "empty.txt").write_bytes(b"\0"), "empty.txt"),
    "another size": (lambda d: (d / FIRST).write_bytes(b""), FIRST),
    "two exchanged": (_exchange, f"{FIRST} (and 1 more)"),
    "a link to nowhere": (lambda d: _instead(d / FIRST, lambda path: path.symlink_to("nowhere")), FIRST),
    "a directory": (lambda d: _instead(d / FIRST, Path.mkdir), FIRST),
    "a pipe": (lambda d: _instead(d / FIRST, os.mkfifo), FIRST),
}  # fmt: skip


@pytest.mark.parametrize("what", COPIES)
def test_a_copy_that_differs_is_named_and_left_as_it_is(what: str, guest: Guest, tmp_path: Path) -> None:
    spoil, named = COPIES[what]
    place = write(FILES, tmp_path / "models")
    spoil(place)
    names = sorted(each.name for each in place.iterdir())
    guest.model("there", directory=str(place))
    assert with_reason(guest.ended()) == ("differs", f"the guest's copy of the model has another {named}")
    assert sorted(each.name for each in place.iterdir()) == names


@pytest.mark.parametrize(
    ("directory", "repo"), [("nowhere", REPO), ("models", ".."), ("models", "org/../../secret"), ("models\0", REPO)]
)
def test_a_directory_that_does_not_have_the_model_is_one_sentence(
    directory: str, repo: str, guest: Guest, tmp_path: Path
) -> None:
    write(FILES, tmp_path)
    (tmp_path / "models").mkdir()
    write(FILES, tmp_path / "secret")
    guest.model("there", directory=str(tmp_path / directory), repo=repo, commit=COMMIT)
    assert with_reason(guest.ended()) == ("absent", "the guest's directory does not have the model")


def test_an_index_that_names_a_file_beside_the_list_is_refused(guest: Guest, tmp_path: Path) -> None:
    """Loading would read it, and no digest covers it."""
    files = {**FILES, INDEX: b'{"weight_map": {"a": "../other/model.safetensors"}}'}
    place = write(files, tmp_path / "models")
    guest.model("there", files, directory=str(place))
    state = guest.ended(digest_of(listed_content(files)))
    assert with_reason(state) == ("malformed", f"{INDEX} names weights that are not in the directory")


def test_a_hub_follows_a_directory_that_does_not_have_the_model(guest: Guest, hub: Hub, tmp_path: Path) -> None:
    """At once, as a host does it: nothing of the first is in the way of the second."""
    for _ in range(5):
        guest.model("there", directory=str(tmp_path / "nowhere"))
        assert guest.ended()["phase"] == "failed"
    guest.download(hub)
    assert guest.ended()["phase"] == "ready"
    assert guest.below() == own()
