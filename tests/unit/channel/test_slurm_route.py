"""The command lines of streams into a job, and why one failed."""

from __future__ import annotations

import pytest

from pytest_glasshouse.channel.access import JobAccess, RemoteSocket, UnixAccess
from pytest_glasshouse.channel.site_commands import SiteCommands
from pytest_glasshouse.channel.slurm_route import SlurmRoute, failure_reason
from pytest_glasshouse.errors import ConfigurationError

NAME = "glasshouse-run-1-1795890000"


def route(*, login: str = "", node_ssh: bool = False) -> SlurmRoute:
    made = SlurmRoute(NAME, commands=SiteCommands(login=login), python="/opt/my python", node_ssh=node_ssh)
    made.aim(JobAccess(job_id="7", node="n1"))
    return made


def test_a_stream_is_a_step_that_takes_nothing_from_the_legs() -> None:
    made = route()
    command = made.run_command("true")
    made.remove()
    assert command[:3] == ["srun", "--jobid=7", "--overlap"]
    assert command[-2:] == [NAME, '{"run": ["/bin/sh", "-c", "true"]}']


def test_a_stream_to_another_node_is_a_step_there_and_asks_for_its_first_process() -> None:
    made = SlurmRoute(NAME, commands=SiteCommands(), python="python3", node=1)
    made.aim(JobAccess(job_id="7", node="n1"))
    command = made.run_command("true")
    made.remove()
    assert "--relative=1" in command
    assert command[-2] == f"{NAME}.1"


def test_from_elsewhere_the_whole_step_is_one_quoted_word_for_the_login_node() -> None:
    made = route(login="me@login")
    command = made.run_command("echo 'a b'")
    made.remove()
    assert command[0].endswith("ssh")
    assert command[-2] == "me@login"
    assert command[-1].startswith("srun --jobid=7 ")
    assert "'/opt/my python'" in command[-1]


def test_where_the_site_allows_it_the_node_is_reached_by_ssh() -> None:
    made = route(node_ssh=True)
    command = made.run_command("true")
    made.remove()
    assert (command[0], command[-3:-1]) == ("ssh", ["--", "n1"])


def test_the_agents_socket_is_joined_by_a_client_that_listens_here() -> None:
    made = route()
    command = made.forward_command(RemoteSocket("/tmp/x/agent.sock"))
    made.remove()
    assert str(made.socket) in command
    assert command[-1] == '{"connect": "/tmp/x/agent.sock"}'


def test_another_address_is_refused() -> None:
    made = SlurmRoute(NAME, commands=SiteCommands(), python="python3")
    with pytest.raises(ConfigurationError, match="expected a job"):
        made.aim(UnixAccess(path="/x"))
    made.remove()


def test_clients_get_no_secret_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job inherits what its client has, and everybody who may see a job's environment sees it."""
    monkeypatch.setenv("RUNPOD_API_KEY", "secret")
    monkeypatch.setenv("GLASSHOUSE_SIGNING_KEY", "secret")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert "secret" not in SiteCommands().environment().values()
    assert "SLURM_JOB_ID" not in SiteCommands().environment()


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [("srun: error: Unable to create step for job 7: Invalid job id specified", "the job is over"),
     ("slurmstepd-n1: error: *** STEP 7.0 ON n1 CANCELLED AT 2026 ***", "the job was cancelled"),
     ("glasshouse bridge: ConnectionRefusedError: x", "the job's first process does not listen yet"),
     ("node17.example.org: anything", "the stream ended with status 1")],
)  # fmt: skip
def test_why_a_stream_failed_is_told_without_names_of_nodes(stderr: str, reason: str) -> None:
    assert failure_reason(stderr, 1) == reason
