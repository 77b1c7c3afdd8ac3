"""The script of a job of a batch system: its first process, as text, and the command that joins a stream to it."""

from __future__ import annotations

import base64
import importlib.resources
import json
import shlex
import zlib
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.pod_launch import bare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.channel.job_init import JobSettings

_PACKAGE = "pytest_glasshouse"
#: `job_init` imports from `pod_init`: both become modules of a package that is not installed there.
_MODULES = ("pod_init", "job_init")
_START = """import base64,json,sys,types,zlib
names,sources,settings=json.loads(zlib.decompress(base64.b64decode({packed!r})))
for name in names: sys.modules[name]=types.ModuleType(name)
for name,source in sources: exec(compile(source,name,"exec"),sys.modules[name].__dict__)
sys.modules[name].main(settings)
"""


#: One first process on each node, in one step. Where one ends, the others are ended, and with the step the job.
_STEP = (
    "srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--wait=5", "--overlap", "--quiet", "--mpi=none", "--chdir=/",
    "--input=none",
)  # fmt: skip


def job_name(name: str, node: int) -> str:
    """What the first process on a node is called, where streams find it: two nodes may be on one machine."""
    return f"{name}.{node}" if node else name


def job_script(settings: JobSettings, *, python: str, nodes: int = 1) -> str:
    """A script for `sh`; `python` runs it, and is the Python of the guest. Of several `nodes`, Slurm starts it on each."""
    sources = [(f"{_PACKAGE}.channel.{name}", bare(_source(name))) for name in _MODULES]
    names = [_PACKAGE, f"{_PACKAGE}.channel", *(name for name, _ in sources)]
    packed = base64.b64encode(zlib.compress(json.dumps([names, sources, settings]).encode(), 9)).decode()
    step = f"{' '.join(_STEP)} --nodes={nodes} --ntasks={nodes} " if nodes > 1 else ""
    return f"#!/bin/sh\nexec {step}{shlex.quote(python)} -I -S -c {shlex.quote(_START.format(packed=packed))}\n"


def bridge_command(name: str, request: Mapping[str, object], *, python: str) -> list[str]:
    """The command that, run on the job's node, joins its standard input and output to what `request` asks of the job."""
    return [python, "-I", "-S", "-c", bare(_source("job_bridge")), name, json.dumps(request)]


def _source(name: str) -> str:
    return (importlib.resources.files(f"{_PACKAGE}.channel") / f"{name}.py").read_text(encoding="utf-8")
