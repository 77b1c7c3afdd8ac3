"""The loopback providers themselves: what they refuse, what they bill, and that none of their processes survives a test."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import urllib3

from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.errors import ProtocolError
from tests.limits import until
from tests.loopback.fake_guest import SOCKET
from tests.loopback.faults import Fault
from tests.loopback.graphql import GraphQLError, parse
from tests.loopback.http import LoopbackServer
from tests.loopback.orders import DAEMON, FAKE_GUEST, GPU, order
from tests.loopback.providers import runpod, vastai


def ask(server: LoopbackServer, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, Any]:
    with urllib3.PoolManager() as pool:
        answer = pool.request(
            method,
            server.url + path,
            headers={"Authorization": f"Bearer {server.cloud.account_key if key is None else key}"},
            body=None if body is None else json.dumps(body).encode(),
            retries=False,
        )
        try:
            return answer.status, json.loads(answer.data)
        except ValueError:
            return answer.status, answer.data.decode()


@pytest.mark.parametrize("key", ["", "other", "account-"])
@pytest.mark.parametrize("path", ["/v2/pods", "/graphql"])
def test_a_request_without_a_key_is_refused(key: str, path: str) -> None:
    with runpod(pods="none") as server:
        assert ask(server, "POST" if path == "/graphql" else "GET", path, {"query": "{myself{id}}"}, key=key)[0] == 401


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "image": "i", "gpu": {"id": GPU}, "imageName": "a field of API v1"},
        {"name": "a", "image": "i", "gpu": {"id": GPU, "minRamPerGpu": 8}},
        {"name": "a", "image": "i", "gpu": {"id": GPU}, "env": {"A": 1}},
        {"name": "a", "gpu": {"id": GPU}},
        {"image": "i", "gpu": {"id": GPU}},
        [],
        None,
    ],
)
def test_rest_refuses_a_body_with_a_field_it_does_not_publish(body: Any) -> None:
    with runpod(pods="none") as server:
        status, problem = ask(server, "POST", "/v2/pods", body)
        assert status == 422
        assert problem["errors"]
        assert server.cloud.rented == {}


@pytest.mark.parametrize(
    "fields", [{"env": {"A": "x" * 255}}, {"env": {f"A{n}": "x" * 250 for n in range(130)}}, {"env": {}, "onstart": "x" * 4049}]
)
def test_vast_refuses_more_than_its_description_takes(fields: Any) -> None:
    with vastai(pods="none") as server:
        status, answer = ask(server, "PUT", "/api/v0/asks/1002/", {"image": "i", **fields})
        assert (status, answer["error"], server.cloud.rented) == (400, "invalid_args", {})


@pytest.mark.parametrize(
    "query",
    [
        "{ myself { pods { id secretField } } }",
        "{ myself { pods } }",
        "{ nobody { id } }",
        'mutation { podTerminate(input: { podId: "a", force: true }) }',
        'mutation { podFindAndDeployOnDemand(input: { name: "a"b", imageName: "i" }) { id } }',
        'mutation { podFindAndDeployOnDemand(input: { name: "a", name: "b", imageName: "i" }) { id } }',
        'mutation { podFindAndDeployOnDemand(input: { imageName: "i", gpuCount: "1" }) { id } }',
        'mutation { podFindAndDeployOnDemand(input: { imageName: "line\nend" }) { id } }',
        "",
    ],
)
def test_graphql_refuses_what_its_schema_does_not_have(query: str) -> None:
    with runpod(pods="none") as server:
        status, answer = ask(server, "POST", "/graphql", {"query": query})
        assert (status, bool(answer["errors"])) == (200, True)
        assert server.cloud.rented == {}


def test_graphql_strings_are_read_with_their_escapes() -> None:
    _, fields = parse(r'{ pod(input: { podId: "a\"\\ü\n" }) { id } }')
    assert fields[0].arguments == {"input": {"podId": 'a"\\ü\n'}}
    with pytest.raises(GraphQLError, match="Syntax Error"):
        parse('{ pod(input: { podId: "unfinished')


def test_vast_refuses_unknown_fields_and_filters() -> None:
    with vastai(pods="none") as server:
        assert ask(server, "POST", "/api/v0/bundles/", {"gpu": {"eq": "RTX A4000"}})[0] == 400
        assert ask(server, "PUT", "/api/v0/asks/1002/", {"image": "i", "env": {}, "onstart_cmd": "x"})[0] == 400
        assert ask(server, "PUT", "/api/v0/asks/9/", {"image": "i", "env": {}})[0] == 404
        assert server.cloud.rented == {}


def test_a_pods_key_ends_its_own_pod_and_nothing_else() -> None:
    """What the watchdog on the guest holds must be of no use to anyone who reads it there."""
    with runpod(pods="none") as server:
        mine, other = server.cloud.create(order(), None), server.cloud.create(order(), None)
        key = mine.pod_key
        assert ask(server, "DELETE", f"/v2/pods/{other.instance_id}", key=key)[0] == 403
        assert ask(server, "GET", "/v2/pods", key=key)[0] == 403
        assert ask(server, "POST", "/v2/pods", {"name": "a", "image": "i", "gpu": {"id": GPU}}, key=key)[0] == 403
        kill = 'mutation { podTerminate(input: { podId: "%s" }) }'
        assert ask(server, "POST", "/graphql", {"query": kill % other.instance_id}, key=key)[1]["errors"]
        assert ask(server, "POST", "/graphql", {"query": "{ myself { pods { id } } }"}, key=key)[1]["errors"]
        assert len(server.cloud.billing()) == 2
        assert ask(server, "DELETE", f"/v2/pods/{mine.instance_id}", key=key)[0] == 204
        assert ask(server, "DELETE", f"/v2/pods/{mine.instance_id}", key=key)[0] == 401
        assert ask(server, "POST", "/graphql", {"query": kill % other.instance_id}, key=other.pod_key)[1] == {
            "data": {"podTerminate": None}
        }
    with vastai(pods="none") as server:
        mine, other = server.cloud.create(order(), None), server.cloud.create(order(), None)
        assert ask(server, "DELETE", f"/api/v0/instances/{other.instance_id}/", {}, key=mine.pod_key)[0] == 403
        assert ask(server, "GET", "/api/v1/instances/", key=mine.pod_key)[0] == 403
        assert ask(server, "DELETE", f"/api/v0/instances/{mine.instance_id}/", {}, key=mine.pod_key)[0] == 200
        server.cloud.vanish(other.instance_id)


def test_the_bill_runs_from_create_to_end_whatever_the_state() -> None:
    now = [100.0]
    with runpod(pods="none", clock=lambda: now[0]) as server:
        one = server.cloud.create(order(), Fault(kind="stuck"))
        now[0] += 1800.0
        server.cloud.kill(one.instance_id)
        now[0] += 1800.0
        assert server.cloud.billed_s(one.instance_id) == 3600.0
        assert server.cloud.cost_usd() == pytest.approx(0.25)
        with pytest.raises(AssertionError, match="still billing: glasshouse-loopback-1-1"):
            server.cloud.assert_nothing_bills()
        server.cloud.terminate(one.instance_id, None)
        now[0] += 9999.0
        assert server.cloud.billed_s(one.instance_id) == 3600.0


def test_an_instance_not_yet_listed_counts_as_billing() -> None:
    """A create that lands after the test has ended would be an unseen leak."""
    with runpod(pods="none") as server:
        status, _ = ask(server, "POST", "/v2/pods", {"name": "glasshouse-late", "image": "i", "gpu": {"id": GPU}})
        assert status == 201
        server.cloud.faults.add(Fault(kind="late-create", after_s=3600))
        assert ask(server, "POST", "/v2/pods", {"name": "glasshouse-later", "image": "i", "gpu": {"id": GPU}})[0] == 500
        for one in server.cloud.billing():
            server.cloud.vanish(one.instance_id)
        with pytest.raises(AssertionError, match="glasshouse-later"):
            server.cloud.assert_nothing_bills()
        for one in server.cloud.billing():
            server.cloud.vanish(one.instance_id)


def test_the_end_of_a_pod_ends_its_daemonised_processes() -> None:
    with runpod() as server:
        one = server.cloud.create(order("python3", "-c", DAEMON), None)
        pod = one.pod
        assert pod is not None
        until(lambda: len(pod.processes()) >= 2, "the daemonised process")
        server.cloud.terminate(one.instance_id, None)
        assert pod.processes() == ()
        assert not pod.root.exists()


def test_pods_end_with_the_process_that_serves_them(tmp_path: Path) -> None:
    """A killed test run leaves no pod behind, daemons included: the supervisor's pipe ends with its owner."""
    script = tmp_path / "serve.py"
    script.write_text(
        "import time\nfrom tests.loopback.providers import runpod\nfrom tests.loopback.orders import DAEMON, order\n"
        "server = runpod()\none = server.cloud.create(order('python3', '-c', DAEMON), None)\n"
        "while len(one.pod.processes()) < 2: time.sleep(0.02)\n"
        "print(one.pod.folder, *one.pod.processes(), flush=True)\ntime.sleep(300)\n"
    )
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environ)
    assert process.stdout is not None
    folder, *pids = process.stdout.readline().decode().split()
    living = [os.pidfd_open(int(pid)) for pid in pids]
    assert len(living) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    until(lambda: len(select.select(living, [], [], 0)[0]) == len(living), "the end of the pod's processes")
    until(lambda: not Path(folder).parent.exists(), "the removal of what is kept of it")
    for each in living:
        os.close(each)


def test_a_runpod_container_that_ends_starts_again_on_an_empty_disk() -> None:
    with runpod() as server:
        one = server.cloud.create(order("sh", "-c", "ls; echo started; touch left-behind"), None)
        assert one.pod is not None
        until(lambda: one.pod is not None and one.pod.logs().count("started") >= 2, "a second start")
        assert "left-behind" not in one.pod.logs()
        assert ask(server, "GET", f"/v2/pods/{one.instance_id}")[1]["status"] == "RUNNING"
        server.cloud.vanish(one.instance_id)


@pytest.mark.parametrize("command", [("sh", "-c", "exit 3"), ("true",), ("no-such-command",)])
def test_a_vast_instance_that_ends_has_exited_and_bills_on(command: tuple[str, ...]) -> None:
    with vastai() as server:
        one = server.cloud.create(order(*command), None)
        path = f"/api/v0/instances/{one.instance_id}/?owner=me"
        until(lambda: ask(server, "GET", path)[1]["instances"]["actual_status"] == "exited", "the end of the first process")
        assert len(server.cloud.billing()) == 1
        server.cloud.vanish(one.instance_id)


def test_a_restart_changes_boot_id_and_port_and_empties_the_disk() -> None:
    with runpod(pods=("sh", "-c", "ls; echo boot $GLASSHOUSE_POD_BOOT_ID; touch left-behind; sleep 60")) as server:
        server.cloud.faults.add(Fault(kind="restart", after_s=0.2))
        assert ask(server, "POST", "/v2/pods", {"name": "a", "image": "i", "gpu": {"id": GPU}, "ports": ["22/tcp"]})[0] == 201
        (one,) = server.cloud.rented.values()
        boot, port = one.boot_id, one.port
        until(lambda: one.boot_id != boot and one.pod is not None and "boot" in one.pod.logs(), "another boot")
        assert one.port != port
        assert one.pod is not None
        assert one.boot_id in one.pod.logs()
        assert "left-behind" not in one.pod.logs()
        server.cloud.vanish(one.instance_id)


def test_a_fault_that_no_request_triggers_stays_pending() -> None:
    with runpod(pods="none") as server:
        server.cloud.faults.add(Fault(kind="503", on="list", skip=1))
        assert ask(server, "GET", "/v2/pods")[0] == 200
        assert len(server.cloud.faults.left()) == 1
        assert ask(server, "GET", "/v2/pods")[0] == 503
        assert server.cloud.faults.left() == ()


def test_a_fake_guest_answers_as_an_agent_does_and_is_another_after_a_restart() -> None:
    with runpod(pods=FAKE_GUEST) as server:
        one = server.cloud.create(order(), None)

        def nonce() -> str:
            pod = one.pod
            assert pod is not None
            until(lambda: pod.first and (pod.root / SOCKET).exists(), "a guest that listens")
            channel = GuestChannel(str(pod.root / SOCKET), allocation_id="a")
            try:
                hello = channel.request("hello")
                assert hello["gpuModel"] == "simulated (CPU)"
                assert channel.pull(0) == []
                with pytest.raises(ProtocolError, match="nothing runs here"):
                    channel.request("enrol")
                return str(hello["agentNonce"])
            finally:
                channel.close()

        first = nonce()
        server.cloud.restart(one.instance_id)
        assert nonce() != first
        server.cloud.vanish(one.instance_id)


def test_an_instance_left_billing_on_purpose_is_declared() -> None:
    with runpod(pods="none") as server:
        server.cloud.create(order(), None)
        server.cloud.leave_billing("this test is about leaving it")
        server.cloud.assert_nothing_bills()
        assert len(server.cloud.billing()) == 1
