"""A process that has run pytest once, and runs it again in copies of itself: python fork_server.py DIRECTORY REQUESTS ANSWERS.

DIRECTORY holds a project with a row; REQUESTS and ANSWERS are the numbers of open files. Each request is a line of JSON, each
answer two lines: the copy's process id, and what it ended with. This process has one thread, or its copies could wait for ever
for a lock that another one held.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest

#: What pytest imports with workers only.
WITH_WORKERS = ("xdist.dsession", "xdist.workermanage", "xdist.scheduler")
#: A project's own files, which the next project has others of.
OF_PROJECT = ("conftest", "example", "fake_engine", "test_rows")


def import_all(directory: Path) -> None:
    """By running a project's rows: what a run imports, in its order, and with assertions rewritten where they would be."""
    paths, finders = list(sys.path), list(sys.meta_path)
    os.chdir(directory)
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:rerunfailures"])  # which starts a thread
    if code:
        raise SystemExit(f"expected that the rows of {directory} pass; pytest ended with {code}")
    sys.path[:], sys.meta_path[:] = paths, finders
    for name in OF_PROJECT:
        sys.modules.pop(name, None)
    for name in WITH_WORKERS:
        try:
            importlib.import_module(name)
        except ImportError:
            break
    gc.collect()
    gc.freeze()  # pytest collects twice in each run, and would look at all that was imported
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208  (names alone)
    if threads != 1:
        raise SystemExit(f"expected one thread, saw {threads}")


def become(request: dict[str, Any]) -> None:
    """Where a new process would start: files, directory, variables, and what Python reads of them when it starts."""
    for number, (path, flags) in enumerate(
        ((os.devnull, os.O_RDONLY), (request["stdout"], os.O_WRONLY), (request["stderr"], os.O_WRONLY))
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    tempfile.tempdir = None
    random.seed()
    importlib.invalidate_caches()
    given = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:0] = [request["cwd"], *given]
    plugin = sys.modules.get("xdist.plugin")
    if plugin is not None:
        plugin._sys_path[:] = sys.path  # what workers are given
    sys.argv = [pytest.__file__, *request["arguments"]]


def serve(requests: IO[str], answers: IO[str]) -> int:
    """Until there are no more requests; in a copy, until pytest has ended."""
    for line in requests:
        pid = os.fork()
        if not pid:
            os.close(requests.fileno())
            os.close(answers.fileno())
            request = json.loads(line)
            become(request)
            return int(pytest.main(request["arguments"]))
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    import_all(Path(sys.argv[1]))
    sys.exit(serve(os.fdopen(int(sys.argv[2]), closefd=False), os.fdopen(int(sys.argv[3]), "w", closefd=False)))
