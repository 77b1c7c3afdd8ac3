"""The memory scan on real legs: what it finds, its positive control, and which claims are accepted."""

from __future__ import annotations

import contextlib
import copy
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.agent.leg_scan import LegScan
from pytest_glasshouse.invariants import judge, memory_scanned_clean
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.tamper.fault_table import _resign_exit
from pytest_glasshouse.wire import evidence, frames, tokens
from pytest_glasshouse.wire.fingerprints import SALT_BYTES, Patterns
from pytest_glasshouse.wire.peer_credentials import PeerCredentialSocket
from tests.limits import HANG_S
from tests.numpy_guest.archive import numpy_archive_with
from tests.rounds.conftest import Ran, carry_out, short_row

_MAIN = """import sys

sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")

import keeps_a_batch, keeps_a_cipher
from pytest_glasshouse.agent.main import main

sys.exit(main())
"""

_KEEPS_A_CIPHER = """
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pytest_glasshouse.guest import protected

kept, honest = [], protected.open_package

def open_package(package, key, claims, **named):
    kept.append(AESGCM(key.view))
    return honest(package, key, claims, **named)

protected.open_package = open_package
"""

_KEEPS_A_BATCH = """
from pytest_glasshouse.guest import training

kept, honest = [], training.open_trainer

def open_trainer(*given, **named):
    trainer = honest(*given, **named)
    last_batch = trainer.last_batch
    def keep():
        kept.append(bytes(last_batch()[0]))
        return last_batch()
    trainer.last_batch = keep
    return trainer

training.open_trainer = open_trainer
"""


def _scan(ran: Ran) -> Any:
    observed: Any = ran.outcome.observation
    return tokens.peek(observed["rounds"][0]["protected"]["exit"])["scan"]


def test_secrets_that_a_leg_does_not_wipe_are_found(tmp_path: Path) -> None:
    """A cipher object that is not freed keeps the key in its schedule, whatever the leg reports; and a batch is data.

    Copies are counted by kind: one leg keeps both, and nothing else.
    """
    keeps = {"keeps_a_cipher.py": _KEEPS_A_CIPHER.encode(), "keeps_a_batch.py": _KEEPS_A_BATCH.encode()}
    archive = numpy_archive_with({**keeps, "__main__.py": _MAIN.encode()})
    ran = carry_out(short_row(), tmp_path, archive=archive)
    assert ran.outcome.ended is None
    findings = {finding.invariant: finding for finding in judge(ran.outcome.observation)}
    assert [name for name, finding in findings.items() if finding.finding != "held"] == ["memory scanned clean"]
    assert findings["memory scanned clean"].finding == "broken"
    left = _scan(ran)["left"]
    assert min(left["key"], left["batch"]) >= 1
    assert ", ".join(sorted(left)) in findings["memory scanned clean"].reason


def test_control_finds_every_kind_and_the_wiped_memory_holds_none(good_run: Ran) -> None:
    """Finding nothing is worth what the same search found before. Legs that train with torch: `test_plaintext.py`."""
    scan = _scan(good_run)
    assert (scan["status"], scan["copies"], scan["left"]) == ("clean", 0, {})
    assert set(scan["patterns"]) == set(evidence.SCAN_KINDS)
    assert scan["control"] == scan["patterns"]
    assert scan["looks"]["wiped"]["bytes"] > 50_000_000


def test_scan_is_in_no_legs_time(good_run: Ran) -> None:
    """The leg waits while it is searched; that is not a cost of protection."""
    (figures,) = results(good_run.outcome.observation)
    assert figures.protected is not None
    assert figures.raw is not None
    observed: Any = good_run.outcome.observation
    timeline = observed["rounds"][0]["protected"]["timeline"]
    looks = {name: timeline[f"scanned-{name}"] - timeline[f"scan-{name}"] for name in ("loaded", "trained", "wiped")}
    assert figures.protected.scan_ns == sum(looks.values()) > 0
    assert figures.protected.setup_ns == timeline["train_started"] - timeline["spawned"] - looks["loaded"]
    assert figures.protected.zeroize_ns == timeline["exit"] - timeline["adapter_exported"] - looks["wiped"]
    assert timeline["zeroized"] <= timeline["head"] <= timeline["scan-wiped"]
    assert (figures.raw.scan_ns, figures.raw.exposure_byte_s) == (None, None)


def test_exposure_covers_the_package_from_opening_to_wipe(good_run: Ran) -> None:
    (figures,) = results(good_run.outcome.observation)
    observed: Any = good_run.outcome.observation
    manifest: Any = tokens.peek(observed["rounds"][0]["protected"]["manifest"])
    sizes = [part["size"] for part in manifest["parts"]]
    assert figures.protected is not None
    assert (figures.protected.exposure_peak_bytes or 0) >= sum(sizes) + 32
    assert (figures.protected.exposure_byte_s or 0) > 0


_UNBELIEVABLE: dict[str, tuple[dict[str, Any], str]] = {
    "no scan": ({"status": "unseen", "reason": "the guest cannot scan"}, "unseen"),
    "copies": ({"copies": 1}, "broken"),
    "copies of one kind": ({"left": {"canary": 1}}, "broken"),
    "dirty without a number": ({"status": "dirty"}, "broken"),
    "no control": ({"control": {}}, "unseen"),
    "no patterns": ({"patterns": {}, "control": {}}, "unseen"),
    "nothing searched": ({"looks": {"wiped": {"bytes": 0, "unreadable": 0, "ns": 0}}}, "unseen"),
    "no look after the wipe": ({"looks": {}}, "unseen"),
}


@pytest.mark.parametrize("name", _UNBELIEVABLE)
def test_scan_reported_clean_is_not_held_without_its_figures(name: str, good_observation: Any) -> None:
    """The finding is made of the figures, and one of them missing makes it unseen."""
    changes, expected = _UNBELIEVABLE[name]
    changed = copy.deepcopy(good_observation)
    scan: Any = tokens.peek(changed["rounds"][0]["protected"]["exit"])["scan"]
    _resign_exit(changed, scan={**scan, **changes})
    assert memory_scanned_clean(changed).finding == expected
    assert memory_scanned_clean(good_observation).finding == "held"


@pytest.mark.parametrize("kind", evidence.SCAN_KINDS)
def test_every_kind_of_secret_needs_its_own_control(kind: str, good_observation: Any) -> None:
    """A scanner blind for one kind is blind for that kind."""
    changed = copy.deepcopy(good_observation)
    scan: Any = tokens.peek(changed["rounds"][0]["protected"]["exit"])["scan"]
    _resign_exit(changed, scan={**scan, "control": {**scan["control"], kind: scan["control"][kind] - 1}})
    finding = memory_scanned_clean(changed)
    assert (finding.finding, kind in finding.reason) == ("unseen", True)


def test_weights_that_were_looked_for_need_their_control_too(good_observation: Any) -> None:
    """Of a row whose base is sealed; other rows have none to look for."""
    scan: Any = tokens.peek(good_observation["rounds"][0]["protected"]["exit"])["scan"]
    for control, expected in ((7, "unseen"), (8, "held")):
        changed = copy.deepcopy(good_observation)
        with_weights = {**scan["patterns"], "weights": 8}
        _resign_exit(changed, scan={**scan, "patterns": with_weights, "control": {**with_weights, "weights": control}})
        assert memory_scanned_clean(changed).finding == expected


def test_scan_that_a_rented_allocation_cannot_have_is_not_applicable_there(good_observation: Any) -> None:
    changed = copy.deepcopy(good_observation)
    changed["allocation"]["provider"] = "elsewhere"
    scan: Any = tokens.peek(changed["rounds"][0]["protected"]["exit"])["scan"]
    _resign_exit(changed, scan={**scan, "status": "unseen", "reason": "why"})
    assert memory_scanned_clean(changed).reason == "not applicable on elsewhere: why"


class _Holding:
    """A process whose memory is these bytes: a leg's to `LegScan`, and the launcher's that forked it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @contextlib.contextmanager
    def memory(self) -> Iterator[_Holding]:
        yield self

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, len(self._content))] if self._content else []

    def read(self, address: int, into: memoryview) -> int:
        piece = self._content[address : address + len(into)]
        into[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize(("held", "status"), [("secret", "dirty"), ("others", "clean"), ("nothing", "unseen")])
def test_the_launcher_of_a_leg_is_searched_for_its_secrets_too(held: str, status: str) -> None:
    secret = os.urandom(64)
    patterns = Patterns(os.urandom(SALT_BYTES))
    asked: dict[str, Any] = {"salt": patterns.salt.hex(), "patterns": []}
    first: list[Any] = [each.to_json() for each in patterns.of_windows(evidence.SCAN_KEY_HALF, memoryview(secret))]
    scan = LegScan()
    scan._memory = _Holding(secret)
    scan.scan_stage("loaded", {**asked, "patterns": first})
    scan.scan_stage("trained", asked)
    scan._memory = _Holding(bytes(64) + b"x" * 64)
    scan.scan_stage("wiped", asked)
    scan.search_launcher(_Holding({"secret": b"x" * 32 + secret, "others": os.urandom(96), "nothing": b""}[held]))
    assert scan.claims()["status"] == status


_LEG = """
import ctypes, os, socket, sys
import numpy
from pytest_glasshouse.guest.control import Control
from pytest_glasshouse.guest.memory import Arena, wipe_bytes
from pytest_glasshouse.guest.scan_client import ScanClient

"".encode("utf-16be")  # its codec is loaded while it can be read
if sys.argv[3] == "ordinary":
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE: as the launcher leaves it
control = Control(socket.socket(fileno=int(sys.argv[1])))
scan = ScanClient(control)
arena, secret = Arena(4096), os.urandom(4096)
arena.view[:] = secret
wipe_bytes(secret)
scan.loaded(arena.view[:32], [arena.view[64:144]], arena.view[1024:2048])
scan.trained([arena.view[2048:4096]])
if sys.argv[2] == "wipes":
    arena.wipe()
scan.wiped()
"""


@pytest.mark.parametrize("user", ["own", "ordinary"])
@pytest.mark.parametrize(("does", "status"), [("wipes", "clean"), ("keeps", "dirty")])
def test_leg_of_any_user_can_show_its_memory(user: str, does: str, status: str) -> None:
    """A non-dumpable process of an ordinary user may not open its own memory; it serves the reads instead."""
    if user == "ordinary" and os.getuid() != 0:
        pytest.skip("this user is the ordinary one already")
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", _LEG, str(theirs.fileno()), does, user]
    root = str(Path(__file__).resolve().parents[2])
    with ours, theirs:
        peer = PeerCredentialSocket(ours)
        leg = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd="/", env={"PYTHONPATH": root})
        theirs.close()
        peer.pid = leg.pid
        scan, served = LegScan(), None
        while (received := frames.receive(peer)) is not None:
            message: Any = received[0]
            if message["type"] == "memory":
                served = message["body"]["served"]
                scan.attach(peer, message["body"], pid=leg.pid)
            else:
                scan.scan_stage(message["body"]["stage"], message["body"])
                frames.send(ours, {"type": "scanned", "body": {}})
    assert leg.wait(timeout=HANG_S) == 0
    scan.search_launcher(_Holding(b"x" * 64))
    claims = scan.claims()
    scan.close()
    assert served is (user == "ordinary" or os.getuid() != 0)
    assert (claims["status"], claims["control"]) == (status, claims["patterns"])


def test_descriptors_of_another_process_are_refused() -> None:
    """Descriptors of another process must not pass as the leg's."""
    from pytest_glasshouse.errors import ProtocolError

    ours, theirs = socket.socketpair()
    scan = LegScan()
    with ours, theirs, Path("/proc/self/maps").open("rb") as maps, Path("/proc/self/mem").open("rb") as mem:
        peer = PeerCredentialSocket(ours)
        peer.pid = os.getpid()
        socket.send_fds(theirs, [b"\0"], [mem.fileno(), maps.fileno()])
        with pytest.raises(ProtocolError, match="the leg's own memory"):
            scan.attach(peer, {"served": False}, pid=1)
    scan.close()
    assert scan.claims()["status"] == "unseen"
