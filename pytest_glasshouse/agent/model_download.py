"""Downloads a model's files from a hub, with the hub's own client in a process of its own.

The process gets the list, and the hub's token where there is one, on its standard input, so that the token is in no argument, no
variable and no file. It writes its result on standard output; how far it is, its files say.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.guest.launcher import die_with_parent, harden_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.wire.host_messages import ModelRequest

#: Files downloaded at once.
_AT_ONCE = 4
#: Attempts of one file while the hub is busy or the network fails; each continues where the last one ended.
_TRIES = 8
_LONGEST_PAUSE_S = 60.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_END_S = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)

#: By the name of the client's exception: a code, and what the user reads.
_KNOWN = {
    "GatedRepoError": ("gated", "the hub asks for a token that may read this gated model"),
    "RepositoryNotFoundError": ("absent", "the hub knows no such model, or asks for a token that may read it"),
    "RevisionNotFoundError": ("absent", "the hub no longer has this commit of the model"),
    "EntryNotFoundError": ("absent", "the hub no longer has a file of the model"),
    "RemoteEntryNotFoundError": ("absent", "the hub no longer has a file of the model"),
    "ModuleNotFoundError": ("no-client", "the guest's image lacks huggingface_hub"),
}


class Download:
    """The downloading process, from the agent's side."""

    def __init__(
        self, request: ModelRequest, directory: Path, names: Sequence[str], *, launch: tuple[int, Sequence[str]]
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
                "HF_HOME": str(directory / ".cache"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "30", "HF_HUB_ETAG_TIMEOUT": "30",
            },
        )  # fmt: skip
        wanted = {
            "endpoint": request.get("endpoint"), "repo": request.get("repo"), "commit": request.get("commit"),
            "token": request.get("token"), "directory": str(directory), "names": [*names],
        }  # fmt: skip
        assert self._process.stdin is not None  # noqa: S101  (a pipe was asked for)
        try:
            self._process.stdin.write(json.dumps(wanted).encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass

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
        """Bytes on disk, of complete files and of those that are not."""
        total = 0
        for path in self._directory.rglob("*"):
            # The client renames files as they become complete.
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
        return total

    def failure(self) -> tuple[str, str] | None:
        """Code and text of what went wrong; None if every file was downloaded."""
        assert self._process.stdout is not None  # noqa: S101  (a pipe was asked for)
        text = self._process.stdout.read(4096).decode("utf-8", errors="replace")
        try:
            reason, detail = json.loads(text)["failed"] or (None, None)
        except (ValueError, KeyError, TypeError):
            return "failed", f"the download ended with status {self._process.returncode} and without a result"
        return None if reason is None else (str(reason), str(detail))

    def end(self) -> None:
        """Remove what the client kept beside the files."""
        self._process.wait(_END_S)
        shutil.rmtree(self._directory / ".cache", ignore_errors=True)


def main() -> int:
    """The downloading process."""
    die_with_parent()
    harden_process()
    request = json.loads(sys.stdin.buffer.read())
    failed: tuple[str, str] | None = None
    try:
        _download(request)
    except Exception as error:  # noqa: BLE001  (the client raises anything)
        failed = _explained(error)
    sys.stdout.write(json.dumps({"failed": failed}) + "\n")
    sys.stdout.flush()
    # Threads of other files may still be in the middle of theirs.
    os._exit(0)


def _download(request: dict[str, Any]) -> None:
    from huggingface_hub import hf_hub_download

    def fetch(name: str) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                hf_hub_download(
                    request["repo"], name, revision=request["commit"], endpoint=request["endpoint"],
                    token=request["token"] or False, local_dir=request["directory"],
                )  # fmt: skip
            except Exception as error:
                if not tries_left or type(error).__name__ in _KNOWN or not _passes(error):
                    raise
                time.sleep(_pause_s(error, _TRIES - tries_left))
            else:
                return

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done in [pool.submit(fetch, name) for name in request["names"]]:
            done.result()


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed later: the hub is busy, or the connection failed."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in _PASSING
    # The client's word for a hub that it could not reach, whatever it derives from.
    unreached = type(error).__name__ == "LocalEntryNotFoundError"
    return unreached or not (isinstance(error, ValueError | PermissionError) or getattr(error, "errno", None) in _FULL)


def _pause_s(error: Exception, attempt: int) -> float:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    asked = headers.get("Retry-After", "")
    return min(float(asked) if asked.isdecimal() else 2.0 ** (attempt - 1), _LONGEST_PAUSE_S)


def _explained(error: BaseException) -> tuple[str, str]:
    name = type(error).__name__
    if name in _KNOWN:
        return _KNOWN[name]
    if isinstance(error, OSError) and error.errno in _FULL:
        return "no-space", "the guest's disk is full"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return ("busy" if status in _PASSING else "refused"), f"the hub answered with status {status}"
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return "failed", f"{name}: {first}"[:300]
