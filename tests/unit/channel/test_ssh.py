"""The SSH files: `ssh` reads the values that were written, in any directory."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_glasshouse.channel import ssh
from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.pod_launch import new_keys
from pytest_glasshouse.channel.ssh_directory import short_directory
from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from tests.unit.channel.hostile_hosts import HOSTILE_HOSTS

#: Names of TMPDIR that break an unquoted configuration or argument.
ODD = [
    "two words", "50%h", "%%", 'quo"te', "apo'strophe", "ha#sh", "${HOME}", "$(id)", "back\\slash", "new\nline", "tab\there", "colon:22",
    "ünïcode", "-oProxyCommand=id", "~root", "*", "long" * 25, "ü" * 45, "[x]", "trailing ",
]  # fmt: skip


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Makes a temporary directory of the given name below a short path."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as base:

        def at(name: str) -> Path:
            path = Path(base) / name
            path.mkdir()
            monkeypatch.setattr(tempfile, "tempdir", str(path))
            return path

        yield at


def read_by_ssh(config: Path) -> dict[str, str]:
    read = subprocess.run(["ssh", "-G", "-F", str(config), ssh.ALIAS], capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in read.splitlines() if " " in line)


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_temporary_directory_of_any_name_makes_a_configuration_that_is_read_as_meant(
    name: str, temporary: Callable[[str], Path]
) -> None:
    """Otherwise a pod is rented that can never be reached."""
    temporary(name)
    ssh_files = ssh.SshFiles(new_keys())
    try:
        ssh_files.write_config(SshAccess(host="203.0.113.9", port=2222, user="user"))
        read = read_by_ssh(ssh_files.directory / "config")
        assert (read["hostname"], read["port"], read["user"]) == ("203.0.113.9", "2222", "user")
        for option, file in (("identityfile", "client_key"), ("userknownhostsfile", "known_hosts")):
            assert Path(read[option]) == ssh_files.directory / file
            assert (ssh_files.directory / file).read_text()
        assert {path.stat().st_mode & 0o077 for path in (ssh_files.directory, *ssh_files.directory.iterdir())} == {0}
        assert len(str(ssh_files.socket).encode()) < 100
    finally:
        ssh_files.remove()
    ssh.preflight()


def test_a_usual_temporary_directory_is_used(temporary: Callable[[str], Path]) -> None:
    base = temporary("usual.1_x+y=z-")
    ssh_files = ssh.SshFiles(new_keys())
    assert ssh_files.directory.parent == base
    ssh_files.remove()
    assert list(base.iterdir()) == []


def test_without_a_usable_directory_nothing_is_rented(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_glasshouse.channel import ssh_directory

    monkeypatch.setattr(ssh_directory, "_bases", lambda: [Path("/proc/nowhere"), Path("/x" * 90), Path("/two words")])
    for make in (lambda: short_directory("ghs-"), ssh.preflight):
        with pytest.raises(ConfigurationError, match="Set TMPDIR to one"):
            make()


def test_a_directory_that_cannot_be_written_is_left_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_glasshouse.channel import ssh_directory

    monkeypatch.setattr(ssh_directory, "_bases", lambda: [Path("/proc"), tmp_path / "gone", Path("/tmp")])
    made = short_directory("ghs-")
    assert made.parent == Path("/tmp")
    assert made.stat().st_mode & 0o777 == 0o700
    made.rmdir()


@pytest.mark.parametrize("host", [host for host in HOSTILE_HOSTS if isinstance(host, str)][:40], ids=ascii)
def test_only_a_valid_host_reaches_the_configuration_file(host: str) -> None:
    """Checked again where the file is written, because an access can be built without its constructor."""
    ssh_files = ssh.SshFiles(new_keys())
    try:
        forged: Any = SimpleNamespace(host=host, port=22, user="root")
        with pytest.raises(IntegrityError):
            ssh_files.write_config(forged)
        assert not (ssh_files.directory / "config").exists()
    finally:
        ssh_files.remove()


@pytest.mark.parametrize(
    "line",
    [
        "ProxyCommand touch {mark}",
        "LocalCommand id",
        "ProxyJump elsewhere",
        "HostName elsewhere",
        "Port 23",
        "User other",
        "IdentityFile /x",
    ],
)
def test_a_configuration_with_other_effective_options_is_refused_before_it_is_used(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that passes the parsers is still found by `ssh -G`."""
    mark = tmp_path / "ran"
    first, rest = ssh._CONFIG.split("\n", 1)
    monkeypatch.setattr(ssh, "_CONFIG", f"{first}\n  {line.format(mark=mark)}\n{rest}")
    with pytest.raises(ConfigurationError, match="reads other values in its configuration"):
        ssh.preflight()
    assert not mark.exists()


def test_a_missing_ssh_client_is_found_before_anything_is_rented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="saw no ssh on PATH"):
        ssh.preflight()
    (tmp_path / "ssh").write_text("#!/bin/sh\necho 'wrapped\033[31m' >&2\nexit 3\n")
    (tmp_path / "ssh").chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"refused its configuration \(wrapped\\x1b\[31m\)"):
        ssh.preflight()
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(ConfigurationError, match="hostname"):
        ssh.preflight()
