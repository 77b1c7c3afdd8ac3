"""Downloads a model's files from a hub, in a process of its own.

The process gets the list, and the hub's token where there is one, on its standard input, so that the token is in no argument, no
variable and no file.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypedDict

from pytest_glasshouse.agent.file_process import FileProcess, write_files
from pytest_glasshouse.workloads.hub_client import HubError, asked, file_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.wire.host_messages import ModelRequest
    from pytest_glasshouse.workloads.model_files import ModelFile

#: Attempts of one file in a row without a new byte; each continues where the last one ended.
_TRIES = 8
_LONGEST_PAUSE_S = 60.0


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


def download(
    request: ModelRequest, directory: Path, files: Sequence[ModelFile], *, launch: tuple[int, Sequence[str]]
) -> FileProcess:
    """Start to download `files` into `directory`."""
    order: DownloadOrder = {
        "endpoint": request.get("endpoint", ""),
        "repo": request.get("repo", ""),
        "commit": request.get("commit", ""),
        "token": request.get("token"),
        "directory": str(directory),
        "files": [{"name": file.name, "size": file.size} for file in files],
    }
    return FileProcess("download", order, directory, launch=launch)


def main() -> NoReturn:
    """The downloading process."""
    write_files(DownloadOrder, lambda order: [partial(_fetch, order, file) for file in order["files"]])


def _fetch(order: DownloadOrder, file: WantedFile, *, pause: Callable[[float], None] = time.sleep) -> None:
    """One file, continued after whatever passes."""
    path, in_vain = Path(order["directory"]) / file["name"], 0
    if path.is_symlink():
        return  # a file that the guest has: it is verified, and never written to
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
