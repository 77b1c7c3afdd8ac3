"""The keeper ends everything in time, by itself: at its deadline, after silence, and whatever became of the run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from pytest_glasshouse.channel.access import HostAccess
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.guest_session import GuestSession
from pytest_glasshouse.providers.base import Instance
from pytest_glasshouse.providers.ssh import SshProvider
from tests.limits import HANG_S, until
from tests.loopback.ssh_host import SshHost
from tests.own_hosts.conftest import cpu_of, launch, provider


def _gone(host: SshHost, ssh: SshProvider, made: Instance) -> None:
    until(lambda: ssh.get(made.instance_id) is None, "the end of the allocation")
    assert ssh.list() == ()
    until(lambda: host.left() == [], "an empty host")


def test_allocation_ends_at_its_deadline(host: SshHost) -> None:
    ssh = provider("box")
    _gone(host, ssh, ssh.create(cpu_of("box"), launch=launch(deadline_s=2.0)))


def test_allocation_ends_where_its_host_never_makes_contact(host: SshHost) -> None:
    """A restarted machine's minute of grace is not given here: the deadline is the end in any case."""
    ssh = provider("box")
    _gone(host, ssh, ssh.create(cpu_of("box"), launch=launch(contact_s=1.0, deadline_s=3.0)))


def test_allocation_ends_when_its_host_is_silent_for_too_long(host: SshHost) -> None:
    ssh = provider("box")
    made = ssh.create(cpu_of("box"), launch=launch(lease_s=1.0))
    assert isinstance(made.access, HostAccess)
    Path(made.access.directory, "contact").touch()
    _gone(host, ssh, made)


def test_everything_that_runs_for_it_ends_with_it(host: SshHost) -> None:
    """Also what left its session: it stays below the keeper."""
    ssh = provider("box")
    made = ssh.create(cpu_of("box"), launch=launch())
    assert made.access is not None
    route = ssh.route(made.name)
    route.aim(made.access)
    command = route.run_command("setsid sleep 600 >/dev/null 2>&1 & echo $!; exit 7")
    done = subprocess.run(command, env=route.environment(), capture_output=True, text=True, check=False, timeout=HANG_S)
    pid = int(done.stdout)
    assert done.returncode == 7
    assert Path(f"/proc/{pid}").exists()
    ssh.terminate(made.instance_id)
    assert not Path(f"/proc/{pid}").exists()
    route.remove()
    assert host.left() == []


def test_agent_and_lock_end_with_a_keeper_that_is_killed_and_what_it_left_is_found(host: SshHost) -> None:
    """SIGKILL: nothing of the keeper's own can clean up. The agent sees the end of its pipe; the directory is found by the listing."""
    ssh = provider("box")
    made = ssh.create(cpu_of("box"), launch=launch())
    assert made.access is not None
    session = GuestSession(ssh.route(made.name), allocation=made.name, archive=guest_archive())
    try:
        session.connect(made.access, timeout_s=HANG_S)
        assert any("--allocation" in line for line in host.processes())
        (keeper,) = host.keepers()
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not any("--allocation" in line for line in host.processes()), "the agent's end")
        (left,) = ssh.list()
        assert (left.instance_id, left.name, left.state) == (made.instance_id, made.name, "stopped")
        # The lock is free: it ended with the agent, and not before.
        second = ssh.create(cpu_of("box"), launch=launch())
        ssh.terminate(second.instance_id)
        ssh.terminate(left.instance_id)
        assert ssh.get(left.instance_id) is None
    finally:
        session.close()
    assert host.left() == []


def test_lock_is_held_until_the_agent_is_gone_too(host: SshHost) -> None:
    """An agent that outlives its keeper for a moment may still be measuring."""
    ssh = provider("box")
    made = ssh.create(cpu_of("box"), launch=launch())
    assert made.access is not None
    route = ssh.route(made.name)
    route.aim(made.access)
    # Stands for an agent: has what the installer gives it, and does not look at its pipe.
    script = "setsid sleep 600 >/dev/null 2>&1 & echo $!"
    done = subprocess.run(
        route.run_command(script), env=route.environment(), capture_output=True, text=True, check=True, timeout=HANG_S
    )
    stand_in = int(done.stdout)
    (keeper,) = host.keepers()
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not host.keepers(), "the keeper's end")
    held = [lock for lock in host.locks.iterdir() if subprocess.run(["flock", "-n", str(lock), "true"], check=False).returncode]
    assert len(held) == 1
    os.kill(stand_in, signal.SIGKILL)
    subprocess.run(["flock", str(held[0]), "true"], check=True, timeout=HANG_S)
    ssh.terminate(made.instance_id)
    route.remove()
    assert host.left() == []


def test_connection_that_breaks_is_made_again_and_the_agent_is_the_same(host: SshHost) -> None:
    from contextlib import closing

    from pytest_glasshouse.channel.guest_channel import GuestChannel

    ssh = provider("box")
    made = ssh.create(cpu_of("box"), launch=launch())
    assert made.access is not None
    session = GuestSession(ssh.route(made.name), allocation=made.name, archive=guest_archive())
    try:
        path = session.connect(made.access, timeout_s=HANG_S)
        with closing(GuestChannel(path, allocation_id=made.name, reconnect_s=HANG_S)) as channel:
            before = channel.request("hello")["agentNonce"]
            host.sever()
            assert channel.request("hello")["agentNonce"] == before
    finally:
        session.close()
        ssh.terminate(made.instance_id)
    assert host.left() == []
