"""A process of the guest that writes a model's files: started, followed and ended by the agent.

It gets its order on its standard input, so that nothing of it is in an argument, a variable or a file, and writes its result on
standard output; how far it is, the sizes of its files say.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, NoReturn, TypedDict, TypeVar

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.launcher import die_with_parent, harden_process
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.hub_client import HubError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

#: Files written at once.
_AT_ONCE = 4
_MOST_RESULT = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)

OrderT = TypeVar("OrderT")


class FilesResult(TypedDict):
    """What the process says at its end: a code and a text where it failed."""

    reason: str | None
    detail: str


class FileProcess:
    """The process, from the agent's side. `role` is the archive's: what it does; `order` is what it is told."""

    def __init__(self, role: str, order: Mapping[str, object], directory: Path, *, launch: tuple[int, Sequence[str]]) -> None:
        archive_fd, site_packages = launch
        self.role, self._directory = role, directory
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", f"/proc/self/fd/{archive_fd}", role]
        for path in site_packages:
            command += ["--site-packages", path]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(archive_fd,),
            env={
                "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(directory), "TMPDIR": str(directory),
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )  # fmt: skip
        assert self._process.stdin is not None  # noqa: S101  (a pipe was asked for)
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(order).encode())

    def wait(self, seconds: float) -> bool:
        """Whether the process has ended, waiting for it a while."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End the process at once. What it has written stays, to be continued."""
        self._process.kill()

    def present(self) -> int:
        """Bytes on disk, of complete files and of those that are not; none where the directory was removed."""
        with contextlib.suppress(FileNotFoundError):
            return sum(path.stat().st_size for path in self._directory.iterdir() if path.is_file())
        return 0

    def failure(self) -> tuple[str, str] | None:
        """Code and text of what went wrong; None if every file was written."""
        assert self._process.stdout is not None  # noqa: S101  (a pipe was asked for)
        with self._process.stdout as pipe:
            text = pipe.read(_MOST_RESULT)
        try:
            result = check_typed(json.loads(text), FilesResult, self.role)
        except (ValueError, ProtocolError):
            return "failed", f"the {self.role} ended with status {self._process.returncode} and without a result"
        return None if result["reason"] is None else (result["reason"], result["detail"])


def write_files(order_type: type[OrderT], jobs: Callable[[OrderT], Iterable[Callable[[], None]]]) -> NoReturn:
    """The process itself: carry out the jobs of its order, several at once, tell the result, and end."""
    die_with_parent()
    harden_process()
    result: FilesResult = {"reason": None, "detail": ""}
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        order = check_typed(json.loads(sys.stdin.buffer.read()), order_type, "order")
        # The first file that cannot be had ends it: the others are of no use then.
        for done in as_completed([pool.submit(job) for job in jobs(order)]):
            done.result()
    except Exception as error:  # noqa: BLE001  (libraries raise anything)
        result["reason"], result["detail"] = explained(error)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    # Threads of other files may still be in the middle of theirs.
    os._exit(0)


def explained(error: BaseException) -> tuple[str, str]:
    """Code and text of why a file could not be written. What nobody foresaw is named and not quoted."""
    if isinstance(error, HubError):
        return error.code, str(error)
    if isinstance(error, ModuleNotFoundError):
        return "no-client", f"the guest's image lacks {error.name}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return "no-space", "the guest's disk is full"
    return "failed", type(error).__name__
