"""A protected leg that something else on the machine kills: no raw leg follows it, because there is nothing to compare with."""

from __future__ import annotations

import os
import signal
import socket
import struct
from pathlib import Path

from pytest_glasshouse.attacks.target_guest import children
from pytest_glasshouse.legs.leg_watch import Progress
from tests.rounds.conftest import carry_out, short_row


def leading(directory: Path) -> int:
    """The leader of the session of the leg that runs on the guest in this directory."""
    with socket.socket(socket.AF_UNIX) as agent:
        agent.connect(str(directory / "agent.sock"))
        pid, _, _ = struct.unpack("3i", agent.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    [first] = [child for child in children(pid) if b"\0launcher\0" in Path(f"/proc/{child}/cmdline").read_bytes()]
    [launcher] = children(first)
    [leader] = children(launcher)
    return leader


def test_a_protected_leg_that_was_killed_ends_its_row(tmp_path: Path) -> None:
    legs: set[str] = set()

    def kill_once(progress: Progress, directory: Path) -> None:
        if progress.phase == "train" and "protected" not in legs:
            os.kill(leading(directory), signal.SIGKILL)
        if progress.phase == "train":
            legs.add(progress.leg)

    ran = carry_out(short_row(order="protected-first", target_s=60.0), tmp_path, on_progress=kill_once)

    ended = ran.outcome.ended
    assert ended is not None
    assert (ended.outcome, ended.reason) == (
        "failed", "the protected leg's process ended with status -9 before its journal was complete, and gave no reason",
    )  # fmt: skip
    assert (legs, ran.outcome.observation["rounds"][0]["raw"]) == ({"protected"}, None)
