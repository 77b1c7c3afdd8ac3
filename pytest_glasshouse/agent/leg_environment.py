"""The command of a launcher of legs, and the variables of a leg: the same for both legs of a round, but for its own directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_glasshouse.guest.memory import STRICT_ENVIRONMENT
from pytest_glasshouse.guest.torch_probe import device_variables
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT


def launcher_command(bytecode: Sequence[str], archive: str, site_packages: Sequence[str], *, workload: str) -> list[str]:
    """The command that starts a launcher of legs of `workload`; of none where it is empty.

    -B: neither it nor a leg ever writes byte code, so the cache stays what was measured.
    """
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", *bytecode, archive, "launcher", "--workload", workload]
    for directory in site_packages:
        command += ["--site-packages", directory]
    return command


def rank_environment(
    rank: int, size: int, port: int, *, node: int = 0, nodes: int = 1, address: str = "127.0.0.1", interface: str = "lo"
) -> dict[str, str]:
    """The contract of torch's launcher for one `rank` of a node's `size`, and the one interface that the ranks may use.

    The first rank of the leg listens at `address` and `port`. With one node nothing leaves the loopback interface.
    """
    return {
        "RANK": str(node * size + rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(nodes * size),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": str(node),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }


def leg_environment(workspace: Path, *, strict_memory: bool) -> dict[str, str]:
    """All variables of a leg that works in `workspace`; of the agent's own, only those that choose and find the GPU."""
    own = str(workspace)
    return {
        **GUEST_ENVIRONMENT,
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": own,
        "TMPDIR": own,
        # torch creates this directory and exports its name: one for both legs, outside the workspace. Triton's is another.
        "TORCHINDUCTOR_CACHE_DIR": str(workspace.parent / "torchinductor"),
        "TRITON_CACHE_DIR": str(workspace.parent / "triton"),
        # Eager binding: the lazy resolver leaves halves of secrets on thread stacks.
        "LD_BIND_NOW": "1",
        **(STRICT_ENVIRONMENT if strict_memory else {}),
        **device_variables(os.environ),
    }
