"""What the provider offers, creates and says of hosts: GPUs by what `nvidia-smi` prints, and hosts that do not do what they should."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.errors import AmbiguousCreateError, ConfigurationError, NoCapacityError, ProviderError, TerminateError
from pytest_glasshouse.providers.base import GpuUse, Grant, Launch, Provider
from pytest_glasshouse.providers.lease import Lease
from pytest_glasshouse.providers.listing import doubt_in
from pytest_glasshouse.providers.place_settings import OwnMachines
from tests.contract.conftest import row
from tests.limits import HANG_S
from tests.loopback.ssh_host import SshHost
from tests.own_hosts.conftest import cpu_of, launch, provider
from tests.unit.broker.scripted import Agents, NoReaper

H100, A4000 = "NVIDIA H100 80GB HBM3", "NVIDIA RTX A4000"
GPUS = f"0, GPU-aaaa-1, {H100}\n1, GPU-bbbb-2, {A4000}\n2, GPU-cccc-3, {A4000}\n"
_SMI = """#!/bin/sh
case "$1" in
  --query-gpu*) printf '%s' '{gpus}' ;;
  --query-compute*) printf '%s' '{used}' ;;
esac
"""


def with_gpus(make: Callable[..., SshHost], folder: Path, *, gpus: str = GPUS, used: str = "", name: str = "box") -> SshHost:
    """A host whose `nvidia-smi` prints that."""
    folder.mkdir(exist_ok=True)
    smi = folder / "nvidia-smi"
    smi.write_text(_SMI.format(gpus=gpus, used=used))
    smi.chmod(0o755)
    return make(name=name, path=[str(folder)])


def test_offers_are_the_gpus_that_the_row_names(ssh_host: Callable[..., SshHost], tmp_path: Path) -> None:
    with_gpus(ssh_host, tmp_path / "smi")
    ssh = provider("box", allow_simulated=False)
    assert not ssh.simulated
    assert [offer.gpu_model for offer in ssh.offers(row())] == [H100, A4000, A4000]
    assert [offer.machine.partition("/")[2] for offer in ssh.offers(row("a4000"))] == ["GPU-bbbb-2", "GPU-cccc-3"]
    with pytest.raises(ConfigurationError, match=f"expected NVIDIA GeForce RTX 4090 .* host box has {H100}, {A4000}"):
        ssh.offers(row("rtx4090"))


@pytest.mark.parametrize(("asked", "found"), [("1", ["GPU-bbbb-2"]), ("GPU-cccc", ["GPU-cccc-3"]), ("7", [])])
def test_gpu_is_picked_by_index_or_uuid(asked: str, found: list[str], ssh_host: Callable[..., SshHost], tmp_path: Path) -> None:
    with_gpus(ssh_host, tmp_path / "smi")
    ssh = provider("box", gpu=asked, allow_simulated=False)
    if found:
        assert [offer.machine.partition("/")[2] for offer in ssh.offers(row())] == found
    else:
        with pytest.raises(ConfigurationError, match="host box has no GPU 7"):
            ssh.offers(row())


def test_gpu_that_is_held_is_offered_last_and_what_uses_it_is_told(ssh_host: Callable[..., SshHost], tmp_path: Path) -> None:
    used = "GPU-bbbb-2, 4711, 2048\nGPU-bbbb-2, 4712, 1024\nGPU-aaaa-1, 1, [N/A]\n"
    host = with_gpus(ssh_host, tmp_path / "smi", used=used)
    ssh = provider("box", allow_simulated=False)
    made = ssh.create(ssh.offers(row("a4000"))[0], launch=launch())
    assert made.gpu_use == GpuUse(processes=2, memory_mib=3072)
    assert [offer.machine.partition("/")[2] for offer in ssh.offers(row("a4000"))] == ["GPU-cccc-3", "GPU-bbbb-2"]
    ssh.terminate(made.instance_id)
    assert host.left() == []


def test_host_without_a_gpu_takes_part_only_where_that_was_accepted(host: SshHost) -> None:
    with pytest.raises(ConfigurationError, match="host box has no NVIDIA GPU that nvidia-smi shows"):
        provider("box", allow_simulated=False).offers(row())
    assert provider("box").simulated


def test_users_own_configuration_leads_there_jump_hosts_too(host: SshHost) -> None:
    assert provider("box-jumped").offers(row())


@pytest.mark.parametrize("name", ["-oProxyCommand=touch ran", "", "a b", "a;b", "$(id)", "a\nb", "x" * 300])
def test_name_that_ssh_would_read_as_anything_else_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="--glasshouse-host"):
        provider(name)


def test_host_that_does_not_answer_leaves_a_doubt_and_the_other_one_is_used(host: SshHost) -> None:
    ssh = provider("box", "nowhere.invalid")
    assert len(ssh.offers(row())) == 1
    assert "host number 2 of --glasshouse-host" in doubt_in(ssh.list())
    with pytest.raises(ProviderError, match="host number 2"):
        ssh.account()
    with pytest.raises(ProviderError, match="no host answered"):
        provider("nowhere.invalid").list()


def test_address_of_a_host_is_in_no_error(ssh_host: Callable[..., SshHost]) -> None:
    host = ssh_host()
    name = f"ssh://nobody-there@127.0.0.1:{host.port}"
    ssh = provider(name)
    assert ssh.secrets() == (name,)
    with pytest.raises(ProviderError) as caught:
        ssh.account()
    assert "127.0.0.1" not in str(caught.value)
    assert "nobody-there" not in str(caught.value)


def test_host_without_that_python_or_without_torch_says_so(host: SshHost) -> None:
    with pytest.raises(ProviderError, match=r"has no /nowhere/python; name its Python with --glasshouse-remote-python"):
        provider("box", python="/nowhere/python").account()
    with pytest.raises(ConfigurationError, match=r"host box has (no torch in its|Python)"):
        provider("box", python="/usr/bin/python3").account()


#: What stands for `ssh` to a host: reads the loader's code, greets, reads the order, and says or does something else.
_LIAR = """#!/bin/sh
exec {python} -I -c '
import sys
import threading
b = sys.stdin.buffer
b.read(int(b.readline()))
print("{{\\"there\\": true}}", flush=True)
b.readline()
{act}
'
"""


@pytest.mark.parametrize("act", ["sys.exit(255)", "print(7)", "print(chr(91) * 100000)", "print(chr(120) * 3000000)"])
def test_answer_to_a_create_that_is_lost_or_nonsense_is_ambiguous(
    act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order was sent: the keeper may run."""
    _liar(tmp_path, monkeypatch, act)
    ssh = provider("box")
    with pytest.raises(AmbiguousCreateError, match="is not known"):
        ssh.create(cpu_of("box"), launch=launch())
    with pytest.raises(ProviderError):
        ssh.list()
    with pytest.raises(TerminateError):
        ssh.terminate(f"{cpu_of('box').machine.partition('/')[0]}-x")


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"allocations": 7}, {"allocations": [{}]},
        {"allocations": [{"id": "a/../b", "name": "glasshouse-x", "directory": "/tmp/x", "model": "", "state": "running", "holder": None, "others": []}]},
        {"allocations": [{"id": "ab", "name": "glasshouse-x", "directory": "/tmp/../x", "model": "", "state": "running", "holder": None, "others": []}]},
        {"allocations": [{"id": "ab", "name": "glasshouse-x\u001b", "directory": "/tmp/x", "model": "", "state": "running", "holder": None, "others": []}]},
    ],
)  # fmt: skip
def test_listing_that_is_not_one_is_an_error_and_shows_nothing_gone(
    answer: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answer").write_text(json.dumps(answer))
    _liar(tmp_path, monkeypatch, f'print(open("{tmp_path}/answer").read())')
    with pytest.raises(ProviderError, match="no host answered"):
        provider("box").list()


def _liar(folder: Path, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    ssh = folder / "ssh"
    ssh.write_text(_LIAR.format(python=sys.executable, act=act))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_all_hosts_held_is_no_capacity_and_names_each_holder(host: SshHost, tmp_path: Path) -> None:
    ssh = provider("box")
    first = ssh.create(cpu_of("box"), launch=launch("theirs"))
    broker = Broker(
        BrokerOptions(provider="ssh", run_id="mine", run_dir=tmp_path, allow_simulated=True, machines=OwnMachines(hosts=("box",))),
        providers={"ssh": ssh}, start_reaper=NoReaper,
    )  # fmt: skip
    with pytest.raises(NoCapacityError, match=r"host box: its GPU is held by .* for run theirs since"):
        broker.acquire(row())
    assert broker.end_all().status == "nothing-rented"
    ssh.terminate(first.instance_id)


class OnHosts(Agents):
    """Guests that only answer hello, on allocations that a host keeps."""

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        del provider
        return launch(lease.name.split("-")[1], name=lease.name)


def test_broker_goes_on_to_the_next_host_where_the_first_is_held(ssh_host: Callable[..., SshHost], tmp_path: Path) -> None:
    """Two runs, two hosts: the second run uses the other one, without being told to."""
    ssh_host(name="one")
    ssh_host(name="two")
    ssh, agents = provider("one", "two"), OnHosts()
    agents.hello["device"] = "cpu"
    first = ssh.create(cpu_of("one"), launch=launch("theirs"))
    broker = Broker(
        BrokerOptions(
            provider="ssh", run_id="mine", run_dir=tmp_path, allow_simulated=True, boot_timeout_s=HANG_S,
            machines=OwnMachines(hosts=("one", "two")),
        ),
        providers={"ssh": ssh}, connection=agents, start_reaper=NoReaper,
    )  # fmt: skip
    broker.plan([row(), row("h100")])
    grant = broker.acquire(row())
    assert grant.instance_id.partition("-")[0] == cpu_of("two").machine.partition("/")[0]
    assert (grant.remote, grant.simulated) == (True, True)
    broker.release(grant)
    # Another row for any GPU of the same run takes the allocation there is.
    again = broker.acquire(row("h100"))
    assert again.allocation_id == grant.allocation_id
    assert broker.end_all().status == "proven"
    agents.close()
    ssh.terminate(first.instance_id)


def test_rows_of_several_workers_get_a_gpu_each_and_idle_ones_are_used_again(
    ssh_host: Callable[..., SshHost], tmp_path: Path
) -> None:
    """One allocation for each GPU of a host, whatever the rows are called that fit it."""
    host = with_gpus(ssh_host, tmp_path / "smi", used="GPU-bbbb-2, 4711, 2048\n")
    ssh, agents = provider("box", allow_simulated=False), OnHosts(A4000)
    broker = Broker(
        BrokerOptions(provider="ssh", run_id="mine", run_dir=tmp_path / "run", boot_timeout_s=HANG_S),
        providers={"ssh": ssh}, connection=agents, start_reaper=NoReaper,
    )  # fmt: skip
    first, second = broker.acquire(row("a4000"), worker="gw0"), broker.acquire(row("a4000"), worker="gw1")
    assert first.allocation_id != second.allocation_id
    assert len(host.keepers()) == 2
    assert {(each.other_processes, each.other_memory_mib) for each in (first, second)} == {(1, 2048), (0, 0)}
    third: list[Grant] = []
    waiting = threading.Thread(target=lambda: third.append(broker.acquire(row("a4000"), worker="gw2")))
    waiting.start()
    broker.release(second)
    waiting.join(HANG_S)
    assert [grant.allocation_id for grant in third] == [second.allocation_id]
    broker.release(first)
    # A row for any GPU takes the allocation there is, although another GPU is free.
    assert broker.acquire(row()).allocation_id == first.allocation_id
    assert broker.end_all().status == "proven"
    agents.close()
    assert host.left() == []
