"""Renting and ending at a provider that costs money, answer by answer."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.broker_socket import BrokerClient, BrokerServer
from pytest_glasshouse.broker.lease_ledger import read
from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    BootTimeoutError,
    BudgetError,
    CredentialsError,
    InfrastructureError,
    NoCapacityError,
    ProviderError,
    RateLimitedError,
    TerminateError,
    WrongGpuError,
)
from pytest_glasshouse.providers.base import Instance, SshAccess
from pytest_glasshouse.providers.lease import parse_name
from pytest_glasshouse.rows.spec import RowSpec
from tests.unit.broker.conftest import MakeBroker
from tests.unit.broker.scripted import Agents, FakeTime, Scripted, appearing, changed, showing

ROW = RowSpec(name="row", workload="mlp", gpu="h100", order="raw-first", target_s=60.0)
OTHER = RowSpec(name="other", workload="mlp", gpu="h100", order="protected-first", target_s=60.0)


def _steps(run_dir: Path) -> list[str]:
    return [json.loads(line)["step"] for line in (run_dir / "ledger.jsonl").read_text().splitlines()]


# -- creating


def test_cheapest_offer_is_rented_and_its_end_is_proven(make_broker: MakeBroker, rented: Scripted, tmp_path: Path) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    assert (grant.rented, grant.simulated, grant.dry_run, grant.gpu_model) == (True, False, False, ROW.gpu_model)
    broker.release(grant)
    cleanup = broker.end_all()
    assert cleanup.status == "proven"
    assert cleanup.allocations[0]["instanceId"] == grant.instance_id
    assert rented.calls == [f"create {grant.allocation_id} 2.0", f"terminate {grant.instance_id}"]
    assert _steps(tmp_path) == ["intent", "created", "listed", "ended", "gone"]


def test_next_offer_is_tried_under_a_name_of_its_own(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["create"] = [NoCapacityError("sold out"), None]
    grant = make_broker().acquire(ROW)
    creates = [call.split() for call in rented.calls]
    assert [offer for _, _, offer in creates] == ["2.0", "3.0"]
    assert creates[0][1] != creates[1][1] == grant.allocation_id


def test_row_without_capacity_anywhere_rents_nothing(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["create"] = [NoCapacityError("sold out"), NoCapacityError("sold out")]
    broker = make_broker()
    with pytest.raises(NoCapacityError):
        broker.acquire(ROW)
    assert broker.end_all().status == "nothing-rented"


def test_offer_above_the_price_cap_is_not_taken(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker(max_price=1.5)
    with pytest.raises(NoCapacityError, match=r"at up to 1\.5 USD per hour; the cheapest costs 2\.00"):
        broker.acquire(ROW)
    assert rented.calls == []


def test_refused_credentials_are_an_error_and_nothing_is_rented(
    make_broker: MakeBroker, rented: Scripted, tmp_path: Path
) -> None:
    rented.script["create"] = [CredentialsError("the key is not accepted")]
    broker = make_broker()
    with pytest.raises(CredentialsError):
        broker.acquire(ROW)
    assert broker.end_all().status == "nothing-rented"
    assert _steps(tmp_path) == ["intent", "not-created"]


@pytest.mark.parametrize("retry_after_s", [None, 42.0])
def test_create_that_is_rate_limited_waits_and_asks_again(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime, retry_after_s: float | None
) -> None:
    rented.script["create"] = [RateLimitedError("slow down", retry_after_s=retry_after_s)]
    began = time.now
    make_broker().acquire(ROW)
    assert time.now - began >= (retry_after_s or rented.poll_s)


def test_lost_answer_is_found_by_name_and_never_asked_again(make_broker: MakeBroker, rented: Scripted, tmp_path: Path) -> None:
    rented.script["create"] = [appearing(rented, error=AmbiguousCreateError("lost"))]
    broker = make_broker()
    grant = broker.acquire(ROW)
    assert (grant.instance_id, sum(call.startswith("create") for call in rented.calls)) == ("pod1", 1)
    assert broker.end_all().status == "proven"
    assert "adopted" in _steps(tmp_path)


def test_create_that_is_never_found_is_searched_for_three_minutes(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime
) -> None:
    """Listings lag: a listing that does not show it a minute later proves nothing."""
    rented.script["create"] = [AmbiguousCreateError("the answer was lost")]
    began, broker = time.now, make_broker()
    with pytest.raises(AmbiguousCreateError, match=r"Searched by its name for 1[89]"):
        broker.acquire(ROW)
    assert time.now - began >= 180
    cleanup = broker.end_all()
    assert (cleanup.status, "never existed" in str(cleanup.allocations[0]["detail"])) == ("proven", True)


def test_ambiguous_create_stays_unproven_while_the_listing_fails(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime
) -> None:
    """A listing that did not answer is not a listing that shows nothing."""
    rented.script["create"] = [AmbiguousCreateError("the answer was lost")]
    rented.script["list"] = [ProviderError("503")] * 500
    broker = make_broker()
    with pytest.raises(AmbiguousCreateError, match="the last listing failed: 503"):
        broker.acquire(ROW)
    cleanup = broker.end_all()
    assert (cleanup.status, "503" in cleanup.detail) == ("unproven", True)
    rented.script["list"].clear()
    assert broker.end_all().status == "proven"


def test_create_that_lands_late_is_found_and_ended(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    rented.script["create"] = [AmbiguousCreateError("the answer was lost")]
    broker = make_broker()
    with pytest.raises(AmbiguousCreateError):
        broker.acquire(ROW)
    name = rented.calls[0].split()[1]
    rented.script["list"] = [None, lambda: rented.make(name)]
    cleanup = broker.end_all()
    assert (cleanup.status, cleanup.allocations[0]["instanceId"]) == ("proven", "pod1")


def test_name_that_exists_twice_ends_both_and_fails_the_row(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["create"] = [appearing(rented, twice=True, error=AmbiguousCreateError("lost"))]
    broker = make_broker()
    with pytest.raises(InfrastructureError, match="exists 2 times"):
        broker.acquire(ROW)
    assert rented.billing() == set()
    assert broker.end_all().status == "proven"


def test_interrupt_inside_the_create_call_is_searched_for(make_broker: MakeBroker, rented: Scripted) -> None:
    """Ctrl-C while the request is on its way: the answer is lost, the pod is not."""
    rented.script["create"] = [appearing(rented, error=KeyboardInterrupt())]
    broker = make_broker()
    with pytest.raises(KeyboardInterrupt):
        broker.acquire(ROW)
    assert rented.billing() == {"pod1"}
    assert broker.end_all().status == "proven"


def test_instance_named_in_a_refusal_is_ended(make_broker: MakeBroker, rented: Scripted) -> None:
    def refuse(name: str) -> None:
        raise AmbiguousCreateError("refused, and made", instance_id=rented.make(name).instance_id)

    rented.script["create"] = [refuse]
    broker = make_broker()
    with pytest.raises(AmbiguousCreateError):
        broker.acquire(ROW)
    assert rented.billing() == set()


# -- booting


def test_pod_that_never_runs_is_ended_at_the_boot_deadline(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    broker = make_broker(boot_timeout_s=100.0)
    began = time.now
    with (
        showing(rented, state="pending", access=None),
        pytest.raises(
            BootTimeoutError, match=r"expected it to run within 100 s, saw state .*last line of its log: layer does not exist"
        ),
    ):
        broker.acquire(ROW)
    assert time.now - began < 110
    assert rented.billing() == set()


@pytest.mark.parametrize("state", ["failed", "stopped", "lost", "ended"])
def test_pod_in_a_state_that_never_runs_is_ended_at_once(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime, state: str
) -> None:
    """A stopped one bills for its disk, and no wait changes that."""
    began = time.now
    with showing(rented, state=state), pytest.raises(InfrastructureError, match="the provider says that it is RUNNING"):
        make_broker().acquire(ROW)
    assert (time.now - began < 10, "terminate pod1" in rented.calls) == (True, True)


def test_pod_that_vanishes_while_it_boots_is_infrastructure(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["get"] = [rented.vanish]
    with pytest.raises(InfrastructureError, match="is gone"):
        make_broker().acquire(ROW)


def test_unknown_state_is_waited_for(make_broker: MakeBroker, rented: Scripted) -> None:
    with showing(rented, state="unknown", raw_state="TRANSMOGRIFYING"):
        rented.script["get"] = [None, lambda one: changed(rented, one, state="running")]
        assert make_broker().acquire(ROW).instance_id == "pod1"


def test_passing_provider_errors_while_booting_are_waited_out(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["get"] = [ProviderError("HTML 502"), RateLimitedError("429", retry_after_s=7.0), ProviderError("503")]
    assert make_broker().acquire(ROW).instance_id == "pod1"


def test_other_gpu_than_promised_is_ended_before_any_leg(make_broker: MakeBroker, rented: Scripted, agents: Agents) -> None:
    agents.hello["gpuModel"] = "NVIDIA RTX A4000"
    with pytest.raises(WrongGpuError, match=r"saw NVIDIA RTX A4000\. It was ended before any leg"):
        make_broker().acquire(ROW)
    assert rented.billing() == set()


def test_other_gpu_in_the_providers_own_answer_is_ended_without_contact(
    make_broker: MakeBroker, rented: Scripted, agents: Agents
) -> None:
    rented.script["get"] = [lambda one: changed(rented, one, gpu_model="NVIDIA RTX A5000")]
    with pytest.raises(WrongGpuError):
        make_broker().acquire(ROW)
    assert agents.connected == []


def test_pod_without_gpu_stands_in_only_at_a_simulated_provider(
    make_broker: MakeBroker, rented: Scripted, agents: Agents
) -> None:
    agents.hello.update(gpuModel="CPU (some)", gpuUuid=None, device="cpu")
    with pytest.raises(WrongGpuError):
        make_broker().acquire(ROW)
    rented.simulated = True
    grant = make_broker(run_id="other").acquire(ROW)
    assert (grant.gpu_model, grant.simulated, grant.dry_run) == ("simulated (CPU)", True, True)


def test_guest_that_cannot_be_reached_is_ended(make_broker: MakeBroker, rented: Scripted, agents: Agents) -> None:
    agents.refuses = InfrastructureError("ssh: connection refused")
    with pytest.raises(InfrastructureError, match="ssh"):
        make_broker().acquire(ROW)
    assert rented.billing() == set()


# -- sharing


def test_rows_of_one_gpu_share_one_allocation_one_after_the_other(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    first = broker.acquire(ROW)
    broker.release(first)
    assert broker.acquire(OTHER).allocation_id == first.allocation_id


def test_allocation_per_row_ends_with_its_row(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker(allocation="row")
    first = broker.acquire(ROW)
    second = broker.acquire(OTHER)
    assert first.instance_id != second.instance_id
    broker.release(first)
    assert rented.billing() == {second.instance_id}


def test_dead_worker_loses_its_pod_and_the_next_row_rents_another(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW, worker="gw0")
    broker.abandon("gw0")
    assert rented.billing() == set()
    assert broker.acquire(OTHER, worker="gw1").instance_id == "pod2"


def test_workers_on_different_gpus_do_not_wait_for_each_other(make_broker: MakeBroker, rented: Scripted) -> None:
    """Rows fan out over allocations; on one allocation they run one after the other."""
    broker = make_broker()
    server = BrokerServer(broker, on_event=lambda _event: None)
    clients = [BrokerClient(server.address, worker=f"gw{number}") for number in range(3)]
    first = clients[0].acquire(ROW)
    elsewhere = clients[1].acquire(dataclasses.replace(ROW, gpu="a4000"))
    assert len({first.instance_id, elsewhere.instance_id}) == len(rented.billing()) == 2
    waiting: list[str] = []
    third = threading.Thread(target=lambda: waiting.append(clients[2].acquire(OTHER).instance_id))
    third.start()
    third.join(timeout=0.2)
    assert waiting == []
    assert clients[1].loss_reason(elsewhere)[0] == "unreachable"
    clients[0].release(first)
    third.join(timeout=10)
    assert waiting == [first.instance_id]
    for client in clients:
        client.close()
    server.close()


def test_account_key_is_a_forbidden_value_wherever_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "a-key-from-a-file"\n')
    (tmp_path / ".runpod" / "config.toml").chmod(0o600)
    for name in ("RUNPOD_API_KEY", "GLASSHOUSE_RUNPOD_API", "RUNPOD_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    image = "registry.example/guest@sha256:" + "0" * 64
    broker = Broker(BrokerOptions(provider="runpod", run_id="unit", run_dir=tmp_path, image=image))
    assert "a-key-from-a-file" in broker.secrets()


# -- money


def test_everything_is_priced_before_anything_is_rented(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker(budget_usd=0.01)
    broker.plan([ROW, OTHER])
    with pytest.raises(BudgetError, match=r"the estimate is 0\.\d\d USD and the budget 0\.01 USD: nothing was rented"):
        broker.quote()
    assert rented.calls == []


def test_each_row_may_go_where_it_was_published(make_broker: MakeBroker, rented: Scripted) -> None:
    """`--provider row`: what runs on this machine costs nothing and is not priced."""
    broker = make_broker(provider="row")
    broker.plan([dataclasses.replace(ROW, provider="runpod"), dataclasses.replace(OTHER, provider="mock")])
    quote = broker.quote()
    assert (broker.rents, [(line.provider, line.rows) for line in quote.lines]) == (True, [("runpod", 1)])
    assert broker.acquire(dataclasses.replace(ROW, provider="runpod")).provider == "runpod"


def test_budget_ends_every_allocation_at_once(make_broker: MakeBroker, rented: Scripted, time: FakeTime, agents: Agents) -> None:
    """Two USD per hour each: an hour of two allocations is four USD, and the cost of ending them is reserved."""
    broker = make_broker(budget_usd=4.0, allocation="row")
    grants = [broker.acquire(ROW), broker.acquire(OTHER)]
    time.now += 3500
    broker.check_limits()
    assert rented.billing() == {"pod1", "pod2"}
    assert broker.spent_usd() == pytest.approx(4.0 * 3500 / 3600, abs=0.01)
    time.now += 80
    broker.check_limits()
    assert rented.billing() == set()
    assert all(broker.loss_reason(grant)[0] == "ended" for grant in grants)
    assert all("the budget of 4 USD is reached" in broker.loss_reason(grant)[1] for grant in grants)
    assert sorted(agents.shutdowns) == sorted(grant.allocation_id for grant in grants)
    with pytest.raises(BudgetError):
        broker.acquire(ROW)
    assert "budget" in broker.over_budget


def test_deadline_in_the_name_is_never_later_than_the_money_lasts(make_broker: MakeBroker, time: FakeTime) -> None:
    """The name alone is enough to end it in time, after every process was killed."""
    grant = make_broker(budget_usd=1.0).acquire(ROW)
    parsed = parse_name(grant.allocation_id)
    assert parsed is not None
    assert 1799 <= parsed.deadline - 1_800_000_000 <= 1800


def test_allocation_past_its_total_deadline_is_ended(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    broker = make_broker(budget_usd=None)
    grant = broker.acquire(ROW)
    time.now += 24 * 3600 + 1
    broker.check_limits()
    assert rented.billing() == set()
    assert "total deadline" in broker.loss_reason(grant)[1]


# -- ending


def test_terminate_that_is_refused_is_tried_again(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    rented.script["terminate"] = [TerminateError("500"), TerminateError("500")]
    assert broker.end_all().status == "proven"
    assert rented.calls.count("terminate pod1") == 3


def test_terminate_that_is_accepted_and_does_nothing_is_tried_again(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    keep = rented.alive["pod1"]

    def silent(instance_id: str) -> None:
        rented.script["get"] = [lambda one: rented.alive.update({one: keep})]

    rented.script["terminate"] = [silent]
    assert broker.end_all().status == "proven"
    assert rented.calls.count("terminate pod1") >= 2


def test_terminate_that_never_works_is_a_leak_with_its_name(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    rented.script["terminate"] = [TerminateError("500")] * 500
    cleanup = broker.end_all()
    assert (cleanup.status, grant.allocation_id in cleanup.detail) == ("leak", True)
    rented.script["terminate"].clear()
    assert broker.end_all().status == "proven"


def test_listing_that_fails_is_never_zero(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    rented.script["list"] = [ProviderError("503")] * 500
    assert broker.end_all().status == "unproven"
    assert rented.billing() == set()
    rented.script["list"].clear()
    assert broker.end_all().status == "proven"


def test_pod_that_comes_back_after_its_end_is_ended_again(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    back = rented.alive["pod1"]

    def comes_back() -> None:
        rented.alive["pod1"] = back
        rented.died.pop("pod1")

    rented.script["list"] = [None, comes_back]
    assert broker.end_all().status == "proven"


def test_proof_takes_three_looks_over_a_minute(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    began = time.now
    cleanup = broker.end_all()
    assert (cleanup.status, time.now - began >= 60) == ("proven", True)
    assert "3 complete listings" in str(cleanup.allocations[0]["detail"])


def test_listing_that_never_showed_it_proves_nothing(make_broker: MakeBroker, rented: Scripted) -> None:
    """The positive control: a wrong account or filter shows an empty list too."""
    rented.hidden = {"pod1"}
    broker = make_broker()
    broker.acquire(ROW)
    assert broker.end_all().status == "unproven"


def test_signal_ends_everything_before_anything_else(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    broker.signal_end()
    assert rented.billing() == set()
    with pytest.raises(InfrastructureError, match="ending"):
        broker.acquire(OTHER)


def test_loss_of_a_pod_has_the_providers_reason(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    assert broker.loss_reason(grant)[0] == "unreachable"
    rented.vanish(grant.instance_id)
    assert broker.loss_reason(grant) == ("lost", "the provider says that the allocation is gone")


def test_pod_that_is_listed_at_another_address_was_restarted(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    changed(rented, grant.instance_id, access=SshAccess(host="pod.invalid", port=33033))
    assert broker.loss_reason(grant)[0] == "lost"
    assert ("restarted" in broker.loss_reason(grant)[1], "33033" in broker.loss_reason(grant)[1]) == (True, False)


# -- the ledger


def test_end_of_a_boot_is_an_event_like_its_beginning(make_broker: MakeBroker) -> None:
    """Or what shows it would show it for ever."""
    events: list[tuple[str, str]] = []
    grant = make_broker(emit=lambda name, what: events.append((name, what))).acquire(ROW)
    assert (grant.allocation_id, "bootstrap") in events
    assert events[-1] == (grant.allocation_id, "")


def test_ledger_lists_what_may_still_be_billing(make_broker: MakeBroker, rented: Scripted, tmp_path: Path) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    leases, bases = read(tmp_path / "ledger.jsonl")
    lease = leases[grant.allocation_id]
    assert (lease.instance_ids, lease.seen_listed, lease.over, lease.ambiguous) == ({"pod1"}, True, False, False)
    assert bases == {grant.allocation_id: rented.base_url}
    broker.end_all()
    assert read(tmp_path / "ledger.jsonl")[0][grant.allocation_id].over


def test_intent_alone_means_that_it_may_exist(make_broker: MakeBroker, rented: Scripted, tmp_path: Path) -> None:
    seen: list[bool] = []
    rented.script["create"] = [lambda name: seen.append(read(tmp_path / "ledger.jsonl")[0][name].ambiguous)]
    make_broker().acquire(ROW)
    assert seen == [True]


def test_incomplete_line_of_a_killed_run_hides_no_other(make_broker: MakeBroker, tmp_path: Path) -> None:
    grant = make_broker().acquire(ROW)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"step": "gone", "name": "' + grant.allocation_id)
    assert not read(tmp_path / "ledger.jsonl")[0][grant.allocation_id].over


def test_ledger_holds_neither_keys_nor_endpoints(make_broker: MakeBroker, tmp_path: Path) -> None:
    make_broker().acquire(ROW)
    text = (tmp_path / "ledger.jsonl").read_text()
    assert ("s3cret" in text, "pod.invalid" in text) == (False, False)


def test_allocation_name_holds_its_run_and_its_deadline() -> None:
    parsed = parse_name("glasshouse-20261121-023400-66138d-12-1764000000")
    assert parsed is not None
    assert (parsed.run_id, parsed.number, parsed.deadline) == ("20261121-023400-66138d", 12, 1764000000)
    assert [parse_name(other) for other in ("mine", "glasshouse-x", "glasshouse-a-1-17", "glasshouse-a-1-1764000000x")] == [
        None
    ] * 4


def test_instances_of_other_runs_are_left_alone(make_broker: MakeBroker, rented: Scripted) -> None:
    """Another run of the same account is not disturbed."""
    other = Instance(instance_id="elsewhere", name="glasshouse-other-1-1999999999", state="running")
    rented.alive["elsewhere"] = other
    broker = make_broker()
    broker.acquire(ROW)
    assert broker.end_all().status == "proven"
    assert "elsewhere" in rented.alive


def test_signal_right_after_the_create_leaves_a_proof_possible(make_broker: MakeBroker, rented: Scripted) -> None:
    """Ended before any listing was read, its absence later would prove nothing: it is listed first."""
    broker = make_broker()

    def interrupted(_instance_id: str) -> None:
        broker.signal_end()

    rented.script["list"] = [ProviderError("503")]
    rented.script["get"] = [interrupted]
    with pytest.raises(InfrastructureError):
        broker.acquire(ROW)
    assert broker.end_all().status == "proven"
