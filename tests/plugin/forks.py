"""Runs of pytest, each in a process of its own that imports nothing: it is a copy of one that has imported everything.

A run that starts an interpreter imports for a second what the run before it had imported. A copy has its own process id, files,
signals, variables and exit code, and its workers are interpreters of their own. Where the interpreter, its variables or what is
imported is the subject, a test starts a real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HANG_S


class Forks:
    """The server of one session, started by the first run; its directory holds a project with a row."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = self._answers = -1
        self._read = b""

    def _start(self) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        script = str(Path(__file__).with_name("fork_server.py"))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, script, str(self._directory), str(requests), str(answers)],
                pass_fds=(requests, answers), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
            )  # fmt: skip
        os.close(requests)
        os.close(answers)

    def run(self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> pytest.RunResult:
        """As `Pytester.runpytest_subprocess`, in this directory and with exactly these variables."""
        if self._process is None:
            self._start()
        shown = [folder / "stdout", folder / "stderr"]
        for each in shown:
            each.write_bytes(b"")
        request = {
            "arguments": arguments, "cwd": str(folder), "environment": environment,
            "stdout": str(shown[0]), "stderr": str(shown[1]),
        }  # fmt: skip
        os.write(self._requests, (json.dumps(request) + "\n").encode())
        pid = self._answer()
        try:
            code = self._answer()
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            self._answer()
            raise
        out, err = (each.read_text("utf-8").splitlines() for each in shown)
        print(*out, sep="\n")  # noqa: T201  (for whoever reads why a test failed)
        print(*err, sep="\n", file=sys.stderr)  # noqa: T201
        with contextlib.suppress(ValueError):
            code = pytest.ExitCode(code)
        return pytest.RunResult(code, out, err, 0.0)

    def _answer(self) -> int:
        while b"\n" not in self._read:
            if not select.select([self._answers], [], [], HANG_S)[0]:
                raise TimeoutError(f"no answer within {HANG_S:.0f} s")
            more = os.read(self._answers, 100)
            assert more, f"the server has ended: {self._log.read_text('utf-8')[-2000:]}"
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return int(line)

    def close(self) -> None:
        if self._process is not None:
            os.close(self._requests)
            self._process.wait(timeout=HANG_S)
            os.close(self._answers)
