"""How much memory this guest can still give: the machine's, or its container's where that is less."""

from __future__ import annotations

import contextlib
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
#: Limit and use of a container, in cgroups of version 2 and 1.
_PAIRS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_bytes(*, proc: Path = Path("/proc"), cgroup: Path = _CGROUP) -> int:
    """Bytes; 0 where the machine does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    for limit, use in _PAIRS:
        # `max`, in place of a number, is no limit.
        with contextlib.suppress(OSError, ValueError):
            found.append(int((cgroup / limit).read_text(encoding="ascii")) - int((cgroup / use).read_text(encoding="ascii")))
    return max(min(found, default=0), 0)
