"""Makes a stand-in's files of random weights, in a process of its own, piece by piece: no file is ever whole in memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypedDict

from pytest_glasshouse.agent.file_process import FileProcess, write_files
from pytest_glasshouse.workloads.stand_in import shape_named, weight_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_glasshouse.workloads.random_weights import RandomFile


class MakingOrder(TypedDict):
    """What the process is to do: `files` are names of the shape's files of weights."""

    shape: str
    directory: str
    files: list[str]


def making(shape: str, directory: Path, files: Sequence[str], *, launch: tuple[int, Sequence[str]]) -> FileProcess:
    """Start to make `files` of the named shape in `directory`."""
    order: MakingOrder = {"shape": shape, "directory": str(directory), "files": list(files)}
    return FileProcess("generation", order, directory, launch=launch)


def main() -> NoReturn:
    """The process."""
    write_files(MakingOrder, _jobs)


def _jobs(order: MakingOrder) -> Iterable[Callable[[], None]]:
    wanted = set(order["files"])
    return [
        partial(write, file, Path(order["directory"]))
        for file in weight_files(shape_named(order["shape"]))
        if file.name in wanted
    ]


def write(file: RandomFile, directory: Path) -> None:
    """Make one file in `directory`."""
    with (directory / file.name).open("wb", buffering=0) as out:
        for piece in file.pieces():
            view = piece
            while view:
                view = view[out.write(view) :]
