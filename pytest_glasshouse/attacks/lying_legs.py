"""Real legs that lie, for `-m cheat`: a row on a guest whose archive tells one lie, and the finding that names it.

Knows how to carry such a row out, with a policy that trusts the archive. What the lies are is in `attacks.lies`.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.tamper.result import TamperResult

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.rows.spec import Order

_MAIN = """
import sys

sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from glasshouse_lies import main

sys.exit(main({lies}))
"""

#: The finding of a lie that no finding sees: another training comes out where its legs are trained again.
REPLAY = "replay"
WITNESSED = "work witnessed"


@dataclass(frozen=True, kw_only=True)
class LyingLeg:
    """One lie of one kind of leg, in rows of one order, and what sees it: a finding, or a replay."""

    lie: str
    leg: Literal["protected", "raw"] = "protected"
    order: Order = "raw-first"
    seen_by: str = WITNESSED
    rounds: int = 1
    #: Seconds of a leg, and of its warm-up.
    target_s: float = 0.5
    warmup_s: float = 0.1
    #: In place of the seconds, where a lie is told at a step.
    steps: int | None = None

    @property
    def name(self) -> str:
        return f"leg-{self.leg}-{self.lie}" + ("-in-turns" if self.order == "interleaved" else "")

    @property
    def row(self) -> RowSpec:
        return RowSpec(
            name="cheat", workload="mlp", gpu="anygpu", order=self.order, rounds=self.rounds, warmup_s=self.warmup_s,
            target_s=self.target_s if self.steps is None else None, steps=self.steps,
        )  # fmt: skip


def lying_archive(lies: Mapping[str, str], *, build: Callable[[Mapping[str, bytes]], bytes] = build_archive) -> bytes:
    """The archive of a guest whose legs tell `lies`, by kind of leg. `build` makes it of what it has beside the guest's rooms."""
    source = (importlib.resources.files("pytest_glasshouse.attacks") / "lies.py").read_bytes()
    return build({"glasshouse_lies.py": source, "__main__.py": _MAIN.format(lies=dict(lies)).encode()})


def carry_out(row: RowSpec, archive: bytes) -> Observation:
    """Carry the row out on a guest of this archive, which the policy trusts."""
    with tempfile.TemporaryDirectory(prefix="glasshouse-cheat-") as folder, contextlib.ExitStack() as ending:
        provider = MockProvider((), archive=archive)
        options = BrokerOptions(provider="mock", run_id=f"cheat-{secrets.token_hex(4)}", run_dir=Path(folder))
        broker = Broker(options, providers={"mock": provider})
        ending.callback(broker.end_all)
        host_attestation = HostAttestation()
        ending.callback(host_attestation.close)
        grant = broker.acquire(row)
        settings = RowSettings(declared=row, run_id="cheat", seed=7)
        allocation = Allocation(grant, broker, settings, lambda _moment: None)
        outcome = row.run(allocation, ProtectedRuntime(host_attestation), RawRunner())
        broker.release(grant)
        return outcome.observation


def play(case: LyingLeg, *, control_released: bool, others: Callable[[Observation], Collection[str]]) -> TamperResult:
    """Play one lie on a real leg.

    `control_released` is whether every finding of a row without a lie held. `others` trains the legs of an observation again, and
    returns which of them did other work than they report; it is asked where no finding sees the lie.
    """
    observation = carry_out(case.row, lying_archive({case.leg: case.lie}))
    broken = [each.invariant for each in judge(observation) if each.finding == "broken"]
    if not broken and case.seen_by == REPLAY and [*others(observation)] == [case.leg]:
        broken = [REPLAY]
    reason = case.seen_by if case.seen_by in broken else next(iter(broken), None)
    return TamperResult(
        name=case.name,
        expected_reason=case.seen_by,
        seen_reason=reason,
        released=reason is None,
        caught_by=case.seen_by,
        control_released=control_released,
        expected_nonce="unasked",
        seen_nonce="unasked",
    )


def honest() -> bool:
    """Whether every finding holds in a row of such legs that tell no lie."""
    row = LyingLeg(lie="none").row
    return all(each.finding == "held" for each in judge(carry_out(row, lying_archive({}))))


LEGS: tuple[LyingLeg, ...] = (
    *(LyingLeg(lie=lie) for lie in (
        "units-2-per-cent-more", "units-twice", "elapsed-half", "processor-time-half", "clock-at-95", "clock-at-91",
        "clock-slower-later",
    )),
    LyingLeg(lie="clock-at-95", leg="raw", order="interleaved"),
    LyingLeg(lie="every-2nd-step-skipped", target_s=1.0),
    LyingLeg(lie="half-the-samples", target_s=1.0),
    LyingLeg(lie="no-training-after-step-3", target_s=1.0),
    LyingLeg(lie="same-wrong-adapter"),
    LyingLeg(lie="niced-while-timed", leg="raw", target_s=2.0),
    LyingLeg(lie="pinned-while-timed", leg="raw", target_s=2.0),
    LyingLeg(lie="without-huge-pages-while-timed", leg="raw", target_s=2.0),
    LyingLeg(lie="idle-after-the-clock", order="interleaved", target_s=2.0),
    LyingLeg(lie="tells-late-that-its-clock-runs", order="interleaved", target_s=2.0),
    LyingLeg(lie="wash-outs-four-times-as-long", order="interleaved", target_s=2.0),
    LyingLeg(lie="wash-outs-counted", target_s=2.0, warmup_s=2.0),
    *(LyingLeg(lie=lie, seen_by=REPLAY, steps=60) for lie in (
        "every-50th-step-skipped", "one-step-skipped", "one-weight-changed", "one-batch-elsewhere", "bfloat16-after-the-prologue",
    )),
)  # fmt: skip
