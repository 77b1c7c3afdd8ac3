"""One GPU of a host is one run's at a time, whoever asks: a lock of the kernel, held by a process that ends in time."""

from __future__ import annotations

import getpass
import os
import signal
from collections.abc import Callable

import pytest

from pytest_glasshouse.errors import NoCapacityError
from tests.limits import until
from tests.loopback.ssh_host import OTHER_USER, SshHost
from tests.own_hosts.conftest import cpu_of, launch, provider


def test_second_run_at_a_host_is_refused_and_told_who_holds_it(host: SshHost) -> None:
    ssh = provider("box")
    held = ssh.create(cpu_of("box"), launch=launch("theirs"))
    with pytest.raises(NoCapacityError) as caught:
        provider("box").create(cpu_of("box"), launch=launch("mine"))
    assert f"held by {getpass.getuser()} for run theirs since 20" in str(caught.value)
    assert "Nothing was created" in str(caught.value)
    assert [one.name for one in ssh.list()] == [held.name]
    ssh.terminate(held.instance_id)
    assert host.left() == []


@pytest.mark.skipif(os.getuid() != 0, reason="an sshd that lets two users in has to run as root")
def test_lock_holds_between_two_users_and_names_the_other_one(ssh_host: Callable[..., SshHost]) -> None:
    """The second user cannot see into the first one's directory, and cannot end what it holds."""
    host = ssh_host(two_users=True)
    mine, theirs = provider("box"), provider("box-other", python="python3")
    first = theirs.create(cpu_of("box-other"), launch=launch("theirs"))
    with pytest.raises(NoCapacityError, match=f"held by {OTHER_USER} for run theirs since"):
        mine.create(cpu_of("box"), launch=launch("mine"))
    assert mine.list() == ()
    theirs.terminate(first.instance_id)
    second = mine.create(cpu_of("box"), launch=launch("mine"))
    with pytest.raises(NoCapacityError, match=f"held by {getpass.getuser()} for run mine since"):
        theirs.create(cpu_of("box-other"), launch=launch("theirs"))
    mine.terminate(second.instance_id)
    assert host.left() == []


@pytest.mark.skipif(os.getuid() != 0, reason="an sshd that lets two users in has to run as root")
def test_lock_file_that_another_user_left_behind_can_be_taken(ssh_host: Callable[..., SshHost]) -> None:
    """A keeper that was killed removes nothing; its file must not lock everybody else out."""
    host = ssh_host(two_users=True)
    theirs, mine = provider("box-other", python="python3"), provider("box")
    theirs.create(cpu_of("box-other"), launch=launch("theirs"))
    (pid,) = host.keepers()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not host.keepers(), "the end of the keeper")
    made = mine.create(cpu_of("box"), launch=launch("mine"))
    mine.terminate(made.instance_id)
    (left,) = theirs.list()
    assert left.state == "stopped"
    theirs.terminate(left.instance_id)
    assert host.left() == []


def test_run_that_may_wait_is_queued_and_gets_the_host_when_it_is_free(host: SshHost) -> None:
    ssh = provider("box")
    first = ssh.create(cpu_of("box"), launch=launch("theirs"))
    second = ssh.create(cpu_of("box"), launch=launch("mine", queue_s=600.0))
    assert (second.state, second.access) == ("queued", None)
    assert f"held by {getpass.getuser()} for run theirs" in second.detail
    ssh.terminate(first.instance_id)

    def runs() -> bool:
        shown = ssh.get(second.instance_id)
        return shown is not None and shown.state == "running" and shown.access is not None

    until(runs, "the second one's turn")
    ssh.terminate(second.instance_id)
    assert host.left() == []


def test_one_that_waits_gives_up_by_itself_where_its_time_is_over(host: SshHost) -> None:
    """Its run may be gone: a queue must not hand a GPU to nobody."""
    ssh = provider("box")
    first = ssh.create(cpu_of("box"), launch=launch("theirs"))
    second = ssh.create(cpu_of("box"), launch=launch("mine", queue_s=1.0))
    until(lambda: ssh.get(second.instance_id) is None, "the end of the one that waits")
    assert [one.name for one in ssh.list()] == [first.name]
    ssh.terminate(first.instance_id)
    assert host.left() == []


def test_holder_that_wrote_nonsense_is_somebody(host: SshHost) -> None:
    """Any user of the host may write into the lock's file."""
    ssh = provider("box")
    first = ssh.create(cpu_of("box"), launch=launch("theirs"))
    (lock,) = host.locks.iterdir()
    for text in ('{"user": "\\u001b[31mroot\\n", "name": {}, "since": 1e99}', "\xff" * 9000, "[" * 4000):
        lock.write_text(text)
        with pytest.raises(NoCapacityError, match="held by ") as caught:
            ssh.create(cpu_of("box"), launch=launch("mine"))
        assert str(caught.value).isprintable()
    ssh.terminate(first.instance_id)
    assert host.left() == []
