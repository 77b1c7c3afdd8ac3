"""A pod with an `sshd` of its own, reached as a rented guest is: by the port its provider shows, with a key of the run."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_glasshouse.providers.base import SshAccess
from tests.contract.conftest import RENTED, Subject
from tests.limits import HANG_S, until

SSHD = """
set -e
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N "" -f "$HOME/host"
printf '%s\\n' "$PUBLIC_KEY" > "$HOME/keys"
exec /usr/sbin/sshd -D -e -f /dev/null -p "$GLASSHOUSE_POD_PORT" -h "$HOME/host" -o ListenAddress=127.0.0.1 \\
    -o AuthorizedKeysFile="$HOME/keys" -o StrictModes=no -o PidFile=none -o UsePAM=no -o PasswordAuthentication=no
"""


@pytest.mark.parametrize("kind", RENTED)
def test_a_pod_is_reached_with_the_runs_key_where_its_provider_says(
    kind: str, opened: Callable[..., Subject], tmp_path: Path
) -> None:
    rented = opened(kind, pods="start")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "run", "-f", str(key)], check=True)
    made = rented.create("sh", "-c", SSHD, public_key=key.with_suffix(".pub").read_text().strip())
    pod = rented.cloud.rented[made.instance_id].pod
    shown = rented.provider.get(made.instance_id)
    assert shown is not None
    assert isinstance(shown.access, SshAccess)
    shown_port = shown.access.port
    command = [
        "ssh", "-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
        "-o", f"UserKnownHostsFile={tmp_path / 'known'}", "-o", "LogLevel=ERROR", "-o", f"ConnectTimeout={HANG_S:.0f}",
        "-p", str(shown.access.port), f"{getpass.getuser()}@{shown.access.host}", "readlink /proc/$PPID/cwd; echo $SSH_CONNECTION",
    ]  # fmt: skip
    until(lambda: f"Server listening on 127.0.0.1 port {shown_port}" in pod.logs(), "an sshd that listens")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stderr, pod.logs())
    assert result.stdout.split()[-1] == str(shown.access.port)

    def inside() -> list[int]:
        return [pid for pid in pod.processes() if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00300\x00"]

    # A session has a process group and an environment of its own; it belongs to the pod all the same, and ends with it.
    session = subprocess.Popen([*command[:-1], "echo up; exec sleep 300"], stdout=subprocess.PIPE)
    assert session.stdout is not None
    assert session.stdout.readline() == b"up\n"
    until(inside, "the session's process")
    (pid,) = inside()
    rented.provider.terminate(made.instance_id)
    assert not Path(f"/proc/{pid}").exists()
    assert session.wait(timeout=HANG_S) == 255
    session.stdout.close()
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "refused" in refused.stderr
