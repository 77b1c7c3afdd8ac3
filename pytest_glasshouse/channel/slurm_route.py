"""The way to a guest in a job of Slurm: streams through `srun`, from this machine or from a login node.

Every stream is a step of the job that shares its resources (`--overlap`) and runs `job_bridge` on its node. Where a site lets
users log in to the nodes of their jobs, `ssh` to the node takes the place of `srun`.
"""

from __future__ import annotations

import importlib.resources
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.access import JobAccess
from pytest_glasshouse.channel.job_launch import bridge_command, job_name
from pytest_glasshouse.channel.site_commands import SSH_FAILED
from pytest_glasshouse.channel.ssh_directory import short_directory
from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.channel.access import Access, RemoteSocket
    from pytest_glasshouse.channel.site_commands import SiteCommands

#: The options of a step that takes nothing of the job from the legs; which of its nodes it runs on is added.
_STEP = ("--overlap", "--nodes=1", "--ntasks=1", "--quiet", "--unbuffered", "--mpi=none", "--chdir=/")
#: What `srun` and the bridge print, and what it means here: the messages themselves may name nodes and addresses.
_REASONS = {
    "Invalid job id": "the job is over",
    "has been revoked": "the job is over",
    "Job/step already completing": "the job is over",
    "CANCELLED": "the job was cancelled",
    "DUE TO TIME LIMIT": "the job's time limit was reached",
    "NODE FAILURE": "the job's node failed",
    "Requested nodes are busy": "Slurm has no room for a step in the job",
    "Unable to create step": "Slurm has no room for a step in the job",
    "Unable to contact slurm controller": "Slurm's controller does not answer",
    "Socket timed out": "Slurm's controller does not answer",
    "ConnectionRefusedError": "the job's first process does not listen yet",
    "PermissionError": "another user's process listens in its place",
    "No such file or directory": "the job's node has no such Python; name it with --glasshouse-remote-python",
    "Permission denied": "ssh was refused; load your keys into your agent",
    "Could not resolve": "the login node's name cannot be resolved",
    "Host key verification failed": "the login node's host key is not in your known hosts",
    "Connection refused": "connection refused",
    "timed out": "connection timed out",
}


class SlurmRoute:
    """The way to one job's guest. A `tunnel.Route`."""

    def __init__(self, name: str, *, commands: SiteCommands, python: str, node_ssh: bool = False, node: int = 0) -> None:
        """`node`: which one of the job's, counted from 0."""
        self._name = job_name(name, node)
        self._node = node
        self._commands = commands
        self._python = python
        self._node_ssh = node_ssh
        self._directory = short_directory("ghj-")
        self._access: JobAccess | None = None

    @property
    def socket(self) -> Path:
        """See `tunnel.Route`."""
        return self._directory / "agent.sock"

    def aim(self, access: Access) -> None:
        """See `tunnel.Route`."""
        if not isinstance(access, JobAccess):
            raise ConfigurationError("expected a job of Slurm, saw another address")
        self._access = access

    def run_command(self, remote: str) -> list[str]:
        """See `tunnel.Route`: the job's first process runs it, below itself."""
        return self._stream({"run": ["/bin/sh", "-c", remote]})

    def forward_command(self, remote_socket: RemoteSocket) -> list[str]:
        """See `tunnel.Route`."""
        code = (importlib.resources.files("pytest_glasshouse.channel") / "stream_forwarder.py").read_text(encoding="utf-8")
        return [sys.executable, "-I", "-S", "-c", code, str(self.socket), *self._stream({"connect": str(remote_socket)})]

    def environment(self) -> dict[str, str]:
        """See `tunnel.Route`."""
        if self._node_ssh and not self._commands.login:
            return {**os.environ, "LC_ALL": "C.UTF-8"}
        return self._commands.environment()

    def failure_reason(self, stderr: str, status: int) -> str:
        """See `tunnel.Route`."""
        return failure_reason(stderr, status)

    def secrets(self) -> tuple[str, ...]:
        """See `tunnel.Route`."""
        return (str(self._directory),)

    def remove(self) -> None:
        """See `tunnel.Route`."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _stream(self, request: dict[str, object]) -> list[str]:
        assert self._access is not None  # noqa: S101  (`aim` comes first)
        bridge = bridge_command(self._name, request, python=self._python)
        if self._node_ssh:
            return self._commands.argv(["ssh", "-T", "-o", "BatchMode=yes", "--", self._access.node, shlex.join(bridge)])
        return self._commands.argv(["srun", f"--jobid={self._access.job_id}", *_STEP, f"--relative={self._node}", *bridge])


def failure_reason(stderr: str, status: int) -> str:
    """Why a stream into a job failed, without its message."""
    for message, reason in _REASONS.items():
        if message in stderr:
            return reason
    return f"the stream ended with status {status if status >= 0 else SSH_FAILED}"
