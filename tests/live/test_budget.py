"""A budget that is reached in the middle of a leg: everything ends at once, and nothing is called what nobody saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_glasshouse.invariants import runtime_zeroized
from pytest_glasshouse.legs.stage import Allocation, LegSettings, ProtectedRuntime, RawRunner
from pytest_glasshouse.legs.trustees import Trustees
from pytest_glasshouse.providers.broker import Broker, BrokerOptions
from pytest_glasshouse.rows.spec import RowSpec
from tests.loopback.providers import runpod

ROW = RowSpec(name="long", workload="mlp", gpu="a4000", order="protected-first", target_s=120.0, warmup_s=0.05)
BUDGET_USD = 15.0


def test_budget_that_is_reached_in_a_leg_terminates_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU for a dollar a second: the estimate would have refused this, so the broker is asked without one."""
    with runpod(pods="start", prices={"NVIDIA RTX A4000": 3600.0}) as server:
        for name, value in {"RUNPOD_API_BASE_URL": server.url, "RUNPOD_API_KEY": server.cloud.account_key}.items():
            monkeypatch.setenv(name, value)
        broker = Broker(
            BrokerOptions(provider="runpod", run_id="unit", run_dir=tmp_path, budget_usd=BUDGET_USD, allow_simulated=True)
        )
        trustees = Trustees()
        try:
            grant = broker.acquire(ROW)
            settings = LegSettings(declared=ROW, run_id="unit", seed=7)
            outcome = ROW.run(Allocation(grant, broker, settings, lambda _: None), ProtectedRuntime(trustees), RawRunner())
            assert server.cloud.billing() == ()
            cost_usd = server.cloud.cost_usd()
        finally:
            trustees.close()
            cleanup = broker.end_all()
    assert outcome.ended is not None
    assert (outcome.ended.outcome, "the budget of 15 USD is reached" in outcome.ended.reason) == ("excluded", True)
    found = runtime_zeroized(outcome.observation)
    assert (found.finding, found.expected) == ("broken", "a signed exit")
    assert (cleanup.status, broker.over_budget != "") == ("proven", True)
    assert cost_usd <= BUDGET_USD
