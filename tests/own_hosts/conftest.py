"""Hosts of the user's own, the provider over them, and launches with limits that a test sets."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import count

import pytest

from pytest_glasshouse.providers.base import Launch, Offer
from pytest_glasshouse.providers.place_settings import OwnMachines, PlaceSettings
from pytest_glasshouse.providers.ssh import SshProvider
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.limits import HANG_S
from tests.loopback.ssh_host import SshHost

_numbers = count(1)


def provider(*hosts: str, gpu: str = "", python: str = sys.executable, allow_simulated: bool = True) -> SshProvider:
    """The provider for hosts by their names."""
    machines = OwnMachines(hosts=hosts, remote_python=python, gpu=gpu)
    return SshProvider(PlaceSettings(allow_simulated=allow_simulated, machines=machines))


def cpu_of(host: str) -> Offer:
    """The offer of a host without a GPU, without asking it."""
    return Offer(provider="ssh", gpu_model="CPU", machine=f"{sha256_hex(host.encode())[:12]}/cpu")


def launch(run: str = "first", *, name: str = "", **limits: float) -> Launch:
    """A launch of that name, or of one of its own; `deadline_s`, `contact_s`, `lease_s` and `queue_s` from now."""
    now = time.time()
    deadline, contact = now + limits.get("deadline_s", 2 * HANG_S), now + limits.get("contact_s", 2 * HANG_S)
    return Launch(
        name=name or f"glasshouse-{run}-{next(_numbers)}-{int(deadline)}", deadline=deadline, contact_by=contact,
        lease_s=limits.get("lease_s", 2 * HANG_S), queue_s=limits.get("queue_s", 0.0),
    )  # fmt: skip


@pytest.fixture
def host(ssh_host: Callable[..., SshHost]) -> SshHost:
    return ssh_host()
