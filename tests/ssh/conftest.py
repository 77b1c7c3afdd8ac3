"""Pods on this machine: the first process a rented guest is started with, with a real `sshd`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.pod_launch import PodKeys, new_keys, pod_environment, pod_start
from pytest_glasshouse.channel.ssh_session import SshSession
from tests.limits import HANG_S
from tests.ssh.ports import free_port


class SshPod:
    """One pod, started with a provider's launch."""

    def __init__(self, keys: PodKeys, *, ends: Literal["runpod", "vastai", ""] = "", api: str = "", **settings: float) -> None:
        self.keys = keys
        self.name = f"glasshouse-ssh-{secrets.token_hex(3)}"
        self.root = Path(tempfile.mkdtemp(prefix="gp-"))
        self.port = free_port()
        self.log = self.root.with_name(f"{self.root.name}.log")
        now = time.time()
        limits = {"deadline": now + 2 * HANG_S, "contact_by": now + HANG_S, **settings}
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "GLASSHOUSE_POD_ROOT": str(self.root),
            "GLASSHOUSE_POD_PORT": str(self.port),
            "RUNPOD_POD_ID": "pod1",
            "RUNPOD_API_KEY": "pod-key",
            **pod_environment(keys, ends=ends, api=api, **limits),
        }
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                pod_start(), env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def access(self) -> SshAccess:
        return SshAccess(host="127.0.0.1", port=self.port, user=os.environ.get("USER", "root"))

    def processes(self) -> list[int]:
        mark = f"GLASSHOUSE_POD_ROOT={self.root}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            if mark in text or str(self.root).encode() in text:
                found.append(int(entry.name))
        return found

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=HANG_S)
        shutil.rmtree(self.root, ignore_errors=True)
        self.log.unlink(missing_ok=True)


MakePod = Callable[..., SshPod]
MakeSession = Callable[..., SshSession]


@pytest.fixture
def make_pod() -> Iterator[MakePod]:
    if not shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        if os.environ.get("CI"):
            pytest.fail("expected a real sshd; install openssh-server")
        pytest.skip("needs openssh-server")
    pods: list[SshPod] = []

    def make(keys: PodKeys | None = None, **settings: object) -> SshPod:
        pods.append(SshPod(keys or new_keys(), **settings))  # type: ignore[arg-type]
        return pods[-1]

    yield make
    for pod in pods:
        pod.end()
        assert not pod.processes()


@pytest.fixture
def make_session() -> Iterator[MakeSession]:
    made: list[SshSession] = []

    def make(pod: SshPod, keys: PodKeys | None = None, archive: bytes = b"") -> SshSession:
        made.append(SshSession(keys or pod.keys, allocation=pod.name, archive=archive or guest_archive()))
        return made[-1]

    yield make
    for session in made:
        session.close()
