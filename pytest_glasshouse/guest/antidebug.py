"""Observes the anti-debug state of this process: what the launcher hardened, and signs of debuggers and injected code.

Reports values only; the server judges them. What each measure is worth against which attacker is in SECURITY.md: none of
them stops root.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Any

from pytest_glasshouse.wire import evidence

_PR_GET_DUMPABLE = 3
#: A process that traced this one, or the launcher it was forked from, at any look.
_tracers: list[int] = []


def tracer() -> int:
    """The process that traces this one now; if none does, one that did when this was called before, here or in the launcher."""
    _tracers.append(_status_field("TracerPid"))
    return next(filter(None, reversed(_tracers)), 0)


def observe() -> dict[str, int | list[Any]]:
    """Observed values of this process, one for each name of `ANTIDEBUG_STRICT`."""
    remote_debug = getattr(sys, "is_remote_debug_enabled", None)
    preload_file = Path("/etc/ld.so.preload")
    preload = [name for name in evidence.PRELOAD_VARIABLES if os.environ.get(name)]
    if preload_file.exists() and preload_file.stat().st_size > 0:
        preload.append(str(preload_file))
    python = [n for n in os.environ if n.startswith("PYTHON") and n not in evidence.PYTHON_VARIABLES_ALLOWED]
    return {
        "tracer_pid": tracer(),
        "dumpable": int(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)),
        "core_limit": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "preload": [*preload],
        "cuda_injection": [name for name in evidence.CUDA_VARIABLES if os.environ.get(name)],
        "python_variables": [*sorted(python)],
        "isolated": int(sys.flags.isolated),
        "no_site": int(sys.flags.no_site),
        "trace_function": int(sys.gettrace() is not None),
        "profile_function": int(sys.getprofile() is not None),
        "monitoring_tools": [*_monitoring_tools()],
        "debugger_modules": [name for name in evidence.DEBUGGER_MODULES if name in sys.modules],
        "remote_debug": int(bool(remote_debug())) if remote_debug else 0,
    }


def _monitoring_tools() -> list[str]:
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:
        return []
    tools = (monitoring.get_tool(number) for number in range(6))
    return [str(name) for name in tools if name is not None]


def _status_field(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return -1
