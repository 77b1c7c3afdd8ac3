"""Pods on this machine: the first process a rented guest is started with, with a real `sshd`."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.guest_session import GuestSession
from pytest_glasshouse.channel.pod_init import ROOT
from pytest_glasshouse.channel.pod_launch import PodKeys, new_keys, pod_environment, pod_start
from pytest_glasshouse.channel.ssh import SshFiles
from tests.limits import HANG_S
from tests.loopback.pod_disk import DIRECTORY
from tests.loopback.pod_rights import need_pods
from tests.loopback.pods import PORT_VARIABLE, Pod
from tests.loopback.ports import reserve_port


class SshPod:
    """One pod, started with a provider's launch; `start` is its first process, and `directory` where that keeps its files."""

    def __init__(
        self,
        keys: PodKeys,
        *,
        ends: Literal["runpod", "vastai", ""] = "",
        api: str = "",
        start: tuple[str, ...] | None = None,
        directory: str = DIRECTORY,
        **settings: float,
    ) -> None:
        self.keys = keys
        self.name = f"glasshouse-ssh-{secrets.token_hex(3)}"
        self.port = reserve_port()
        self._directory = directory
        self._folder = Path(tempfile.mkdtemp(prefix="gp-"))
        now = time.time()
        limits = {"deadline": now + 2 * HANG_S, "contact_by": now + HANG_S, **settings}
        environment = {
            PORT_VARIABLE: str(self.port),
            "RUNPOD_POD_ID": "pod1",
            "RUNPOD_API_KEY": "pod-key",
            **pod_environment(keys, ends=ends, api=api, **limits),
        }
        if directory != DIRECTORY:
            environment[ROOT] = directory
        self.pod = Pod(self._folder / "pod", start or pod_start(), environment, restarts=False)

    @property
    def access(self) -> SshAccess:
        return SshAccess(host="127.0.0.1", port=self.port, user=os.environ.get("USER", "root"))

    @property
    def root(self) -> Path:
        """The directory of its files, seen from outside."""
        return self.pod.disk / self._directory.lstrip("/")

    def end(self) -> None:
        self.pod.end()
        shutil.rmtree(self._folder)


MakePod = Callable[..., SshPod]
MakeSession = Callable[..., GuestSession]


@pytest.fixture
def make_pod() -> Iterator[MakePod]:
    need_pods()
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


@pytest.fixture
def make_session() -> Iterator[MakeSession]:
    made: list[GuestSession] = []

    def make(pod: SshPod, keys: PodKeys | None = None, archive: bytes = b"") -> GuestSession:
        made.append(GuestSession(SshFiles(keys or pod.keys), allocation=pod.name, archive=archive or guest_archive()))
        return made[-1]

    yield make
    for session in made:
        session.close()
