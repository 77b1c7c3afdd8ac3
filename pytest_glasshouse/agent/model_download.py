"""Downloads a model's files from a hub, in a process of its own.

The process gets the list, and the hub's token where there is one, on its standard input, so that the token is in no argument, no
variable and no file. It writes its result on standard output; how far it is, the sizes of its files say.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.launcher import die_with_parent, harden_process
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.hub_client import HubError, asked, file_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.wire.host_messages import ModelRequest
    from pytest_glasshouse.workloads.model_files import ModelFile

#: Files downloaded at once.
_AT_ONCE = 4
#: Attempts of one file in a row without a new byte; each continues where the last one ended.
_TRIES = 8
_LONGEST_PAUSE_S = 60.0
_MOST_RESULT = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)


class WantedFile(TypedDict):
    """A file to download."""

    name: str
    size: int


class DownloadOrder(TypedDict):
    """What the downloading process is to do."""

    endpoint: str
    repo: str
    commit: str
    token: str | None
    directory: str
    files: list[WantedFile]


class DownloadResult(TypedDict):
    """What it says at its end: a code and a text where it failed."""

    reason: str | None
    detail: str


class Download:
    """The downloading process, from the agent's side."""

    def __init__(
        self, request: ModelRequest, directory: Path, files: Sequence[ModelFile], *, launch: tuple[int, Sequence[str]]
    ) -> None:
        archive_fd, site_packages = launch
        self._directory = directory
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", f"/proc/self/fd/{archive_fd}", "download"]
        for path in site_packages:
            command += ["--site-packages", path]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(archive_fd,),
            env={
                "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(directory), "TMPDIR": str(directory),
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            },
        )  # fmt: skip
        order: DownloadOrder = {
            "endpoint": request.get("endpoint", ""),
            "repo": request.get("repo", ""),
            "commit": request.get("commit", ""),
            "token": request.get("token"),
            "directory": str(directory),
            "files": [{"name": file.name, "size": file.size} for file in files],
        }
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
        """End the process at once. What it has downloaded stays, to be continued."""
        self._process.kill()

    def present(self) -> int:
        """Bytes on disk, of complete files and of those that are not; none where the directory was removed."""
        with contextlib.suppress(FileNotFoundError):
            return sum(path.stat().st_size for path in self._directory.iterdir() if path.is_file())
        return 0

    def failure(self) -> tuple[str, str] | None:
        """Code and text of what went wrong; None if every file was downloaded."""
        assert self._process.stdout is not None  # noqa: S101  (a pipe was asked for)
        with self._process.stdout as pipe:
            text = pipe.read(_MOST_RESULT)
        try:
            result = check_typed(json.loads(text), DownloadResult, "download")
        except (ValueError, ProtocolError):
            return "failed", f"the download ended with status {self._process.returncode} and without a result"
        return None if result["reason"] is None else (result["reason"], result["detail"])


def main() -> int:
    """The downloading process."""
    die_with_parent()
    harden_process()
    order = check_typed(json.loads(sys.stdin.buffer.read()), DownloadOrder, "order")
    result: DownloadResult = {"reason": None, "detail": ""}
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        # The first file that cannot be had ends it: the others are of no use then.
        for done in as_completed([pool.submit(_fetch, order, file) for file in order["files"]]):
            done.result()
    except Exception as error:  # noqa: BLE001  (the client raises anything)
        result["reason"], result["detail"] = _explained(error)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    # Threads of other files may still be in the middle of theirs.
    os._exit(0)


def _fetch(order: DownloadOrder, file: WantedFile, *, pause: Callable[[float], None] = time.sleep) -> None:
    """One file, continued after whatever passes."""
    path, in_vain = Path(order["directory"]) / file["name"], 0
    path.touch()
    while True:
        before = path.stat().st_size
        try:
            _continue(order, file, path)
        except HubError as error:
            in_vain = in_vain + 1 if path.stat().st_size <= before else 1
            if not error.passing or in_vain >= _TRIES:
                raise
            pause(min(max(error.retry_after_s, 2.0 ** (in_vain - 2)), _LONGEST_PAUSE_S))
        else:
            return


def _continue(order: DownloadOrder, file: WantedFile, path: Path) -> None:
    have = path.stat().st_size
    if have >= file["size"] > 0 or (have == file["size"] == 0):
        return
    url = file_url(order["endpoint"], order["repo"], order["commit"], file["name"])
    with asked(url, token=order["token"], start=have) as answer, path.open("r+b") as out:
        out.truncate(answer.start)
        out.seek(answer.start)
        have = answer.start
        for piece in answer.pieces:
            have += len(piece)
            if have > file["size"]:
                # More than is listed is not kept: what is there is compared with the list afterwards.
                out.write(piece[: len(piece) - (have - file["size"])])
                return
            out.write(piece)
    if have < file["size"]:
        raise HubError("cut", f"the hub's answer ended after {have} of {file['size']} bytes", passing=True)


def _explained(error: BaseException) -> tuple[str, str]:
    if isinstance(error, HubError):
        return error.code, str(error)
    if isinstance(error, ModuleNotFoundError):
        return "no-client", f"the guest's image lacks {error.name}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return "no-space", "the guest's disk is full"
    return "failed", type(error).__name__
