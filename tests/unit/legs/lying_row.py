"""One row on a `LyingAgent`: a real channel and a real attestation server, a guest whose answers the test gives."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pytest_glasshouse.channel.allowance import Allowance
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.providers.base import Grant, Instance
from pytest_glasshouse.rows.leg_order import orders_of_row, row_seed
from pytest_glasshouse.rows.spec import Order, RowSpec
from pytest_glasshouse.tamper.testbed import TamperTestbed
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.evidence import ANTIDEBUG_STRICT
from pytest_glasshouse.wire.journal import Journal
from tests.limits import HANG_S
from tests.unit.channel.lying_agent import LyingAgent, event, exit_event

#: An event of a leg: its kind and its body. `exit` gets the body that an honest agent signs.
Told = tuple[str, dict[str, Any]]
RESIDENT: Told = ("resident", {"warmup_units": 1, "warmup_ns": 1, "steady": True})
EXIT: Told = ("exit", {})


class Grants:
    """A broker that writes down what it was asked to end. `lost` is why it says that the guest was lost."""

    def __init__(self, lost: tuple[str, str] = ("", "")) -> None:
        self.ended: list[str] = []
        self._lost = lost

    def listing(self) -> tuple[Instance, ...]:
        return (Instance(instance_id="i", name="a", state="running"),)

    def inject_fault(self, grant: Grant, action: str) -> None:
        raise AssertionError(action)

    def loss_reason(self, grant: Grant) -> tuple[str, str]:
        return self._lost

    def end(self, grant: Grant, why: str) -> None:
        self.ended.append(why)


def granted(agent: LyingAgent) -> Grant:
    return Grant(
        grant_id="g", allocation_id="a", provider="local", instance_id="i", address=agent.address, gpu_model="CPU (of ours)",
        gpu_uuid=None, device="cpu", archive_sha256="0" * 64, reference_source="checkout", dry_run=True, simulated=False,
    )  # fmt: skip


def row_of(order: Order = "raw-first", **fields: Any) -> RowSpec:
    return RowSpec(name="row", workload="mlp", gpu="anygpu", order=order, target_s=1.0, warmup_s=0.1, **fields)


def seed_that_starts(role: str, **fields: Any) -> int:
    """A run's seed by which this leg of the interleaved row starts first."""
    row_id = row_of("interleaved", **fields).row_id
    return next(
        seed
        for seed in range(100)
        if orders_of_row("interleaved", rounds=1, seed=row_seed(seed, row_id), fixed=False)[0][0] == role
    )


def ran(
    host_attestation: HostAttestation,
    answers: dict[str, Any],
    *,
    order: Order = "raw-first",
    leg_timeout_s: float = HANG_S,
    settings: dict[str, Any] | None = None,
    grant: dict[str, Any] | None = None,
    lost: tuple[str, str] = ("", ""),
    **fields: Any,
) -> tuple[Outcome, Grants, LyingAgent]:
    """One row on an agent that answers so."""
    row = row_of(order, **fields)
    grants = Grants(lost)
    with LyingAgent(answers) as agent:
        # A run of its own: the server, which the tests of a module share, takes one plan of a run.
        run_id = f"run-{secrets.token_hex(4)}"
        given = RowSettings(
            declared=row, run_id=run_id, leg_timeout_s=leg_timeout_s, **{"seed": seed_that_starts("raw"), **(settings or {})}
        )
        about = replace(granted(agent), **(grant or {}))
        allocation = Allocation(about, grants, given, lambda _moment: None, Allowance(leg_bytes=1 << 20))
        outcome = row.run(allocation, ProtectedRuntime(host_attestation), RawRunner())
    # Whatever the guest sent: it can be judged, computed and published.
    judge(outcome.observation)
    results(outcome.observation)
    canonical(outcome.observation)
    return outcome, grants, agent


class Spool:
    """The events of an agent whose legs tell what `told` says of their role, as soon as they are started.

    Its `answers` are those of a `LyingAgent`. A leg that is killed exits; one that is dismissed has the others exit.
    """

    def __init__(self, told: Callable[[str, dict[str, Any]], list[Told]]) -> None:
        self._told = told
        self._events: list[dict[str, Any]] = []
        self.legs: dict[str, str] = {}
        self.answers: dict[str, Any] = {"start": self._start, "pull": self._pull}

    def tell(self, leg: str, kind: str, body: dict[str, Any] | None = None) -> None:
        """Append an event."""
        seq = len(self._events)
        made = exit_event(leg, **(body or {})) if kind == "exit" else event(leg, kind, body or {})
        self._events.append({**made, "seq": seq, "t_ns": seq + 1})

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        leg = request["leg"]
        role = leg.partition("-")[0]
        self.legs[role] = leg
        for kind, body in self._told(role, request):
            self.tell(leg, kind, body)
        return {}

    def _pull(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"events": self._events[request["cursor"] :]}


def foreign_evidence() -> Told:
    """Evidence of the right form for another server's challenge."""
    lines: list[str] = []
    with TamperTestbed() as testbed:
        attempt = testbed.attempt()
        log = Journal(attempt.nonce, lines.append, lambda: 0)
        log.append("anti_debug_ready", {"wall": "2027-01-15T08:00:00Z", "observed": {**ANTIDEBUG_STRICT}})
        log.append("measured", {"composite": attempt.claims["composite"]})
        return "evidence", {"evidence": attempt.token(), "log": lines}


def vanish(_request: dict[str, Any]) -> Any:
    """The agent is gone: the connection is closed without an answer."""
    raise ConnectionError
