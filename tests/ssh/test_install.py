"""A package that the image lacks is installed from a pinned wheel, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.bootstrap import GuestUnusableError, bootstrap
from pytest_glasshouse.channel.ssh import SshFiles
from pytest_glasshouse.channel.wheels import NEEDED, PINNED, Wheel, wheels
from pytest_glasshouse.errors import ConfigurationError, GuestGoneError
from tests.limits import HANG_S
from tests.ssh.conftest import MakePod, SshPod


def _wheel() -> Wheel:
    """A real wheel, small enough to write here."""
    info = "gh_probe-1.0.dist-info"
    files = {
        "gh_probe.py": "there = True\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: gh-probe\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    content = buffer.getvalue()
    return Wheel(name="gh_probe-1.0-py3-none-any.whl", content=content, sha256=hashlib.sha256(content).hexdigest())


def _until_reached(pod: SshPod, wheel: Wheel, phases: list[str], asked: list[Any]) -> str:
    ssh_files = SshFiles(pod.keys)
    ssh_files.write_config(pod.access)

    def fetch(missing: list[str], **where: Any) -> tuple[Wheel, ...]:
        asked.append((missing, where["machine"]))
        return (wheel,)

    try:
        while True:
            try:
                return bootstrap(
                    ssh_files,
                    archive=guest_archive(),
                    allocation=pod.name,
                    timeout_s=HANG_S,
                    on_phase=phases.append,
                    needed={**NEEDED, "gh-probe": "1"},
                    fetch=fetch,
                )
            except GuestGoneError:
                continue
    finally:
        ssh_files.remove()


def test_a_missing_package_is_installed_beside_the_agent(make_pod: MakePod) -> None:
    pod, phases, asked = make_pod(), list[str](), list[Any]()
    assert _until_reached(pod, _wheel(), phases, asked).endswith("agent.sock")
    assert asked[0][0] == ["gh-probe"]
    assert (pod.root / "agent" / "site" / "gh_probe.py").exists()
    assert "installing what the image lacks" in phases


def test_a_pod_whose_directory_has_an_odd_name_is_installed_like_any_other(make_pod: MakePod) -> None:
    """Spaces and percent signs have a meaning in three files between launch and agent."""
    odd = "/tmp/two words 50%h/pod"
    pod, asked = make_pod(directory=odd), list[Any]()
    assert _until_reached(pod, _wheel(), [], asked) == f"{odd}/agent/agent.sock"
    assert (len(asked), (pod.root / "agent" / "site" / "gh_probe.py").exists()) == (1, True)


def test_a_wheel_that_is_not_what_was_announced_stops_the_installation(make_pod: MakePod) -> None:
    pod, wheel = make_pod(), _wheel()
    with pytest.raises(GuestUnusableError, match="did not arrive as it was sent"):
        _until_reached(pod, dataclasses.replace(wheel, content=wheel.content[:-1] + b"x"), [], [])
    assert not (pod.root / "agent" / "site").exists()


def test_every_package_a_guest_needs_is_pinned_by_hash() -> None:
    names = {pin.partition("==")[0] for pin in PINNED}
    assert set(NEEDED) <= names
    assert all(len(digest) == 64 for digests in PINNED.values() for digest in digests)


def test_a_machine_nothing_is_pinned_for_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cryptography.*expected x86_64.*saw aarch64"):
        wheels(["cryptography"], python="3.12", machine="aarch64", directory=tmp_path)
