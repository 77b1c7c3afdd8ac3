"""Real legs that lie, for `-m cheat`: a row on a guest whose archive tells one lie, and the finding that names it.

Knows how to carry such rows out on one guest, with a policy that trusts its archive. What the lies are is in `attacks.lies`.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import secrets
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

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
    from types import TracebackType

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
#: The number of a row whose legs tell no lie.
_HONEST = 999


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
        return (
            f"leg-{self.leg}-{self.lie}"
            + ("-in-turns" if self.order == "interleaved" else "")
            + ("-in-all-rounds" if self.rounds > 1 else "")
        )

    @property
    def row(self) -> RowSpec:
        return RowSpec(
            name="cheat", workload="mlp", gpu="anygpu", order=self.order, rounds=self.rounds, warmup_s=self.warmup_s,
            target_s=self.target_s if self.steps is None else None, steps=self.steps,
        )  # fmt: skip


def lying_archive(
    lies: Mapping[int, Mapping[str, str]], *, build: Callable[[Mapping[str, bytes]], bytes] = build_archive
) -> bytes:
    """The archive of a guest whose legs tell `lies`: by number of the row, and kind of leg.

    `build` makes it of what it has beside the guest's rooms.
    """
    source = (importlib.resources.files("pytest_glasshouse.attacks") / "lies.py").read_bytes()
    told = {number: dict(each) for number, each in lies.items()}
    return build({"glasshouse_lies.py": source, "__main__.py": _MAIN.format(lies=told).encode()})


class LyingGuest:
    """One guest of this archive, which its policy trusts, and rows on it; a context manager. Boots when it is entered.

    `prepare` is given its provider before that.
    """

    def __init__(self, archive: bytes, *, prepare: Callable[[MockProvider], None] = lambda _provider: None) -> None:
        self._archive = archive
        self._prepare = prepare
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> Self:
        folder = self._ending.enter_context(tempfile.TemporaryDirectory(prefix="glasshouse-cheat-"))
        provider = MockProvider((), archive=self._archive)
        self._prepare(provider)
        options = BrokerOptions(provider="mock", run_id=f"cheat-{secrets.token_hex(4)}", run_dir=Path(folder))
        self._broker = Broker(options, providers={"mock": provider})
        self._ending.callback(self._broker.end_all)
        self._host_attestation = HostAttestation()
        self._ending.callback(self._host_attestation.close)
        self._grant = self._broker.acquire(LyingLeg(lie="").row)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.close()

    def carry_out(self, row: RowSpec, number: int = 0) -> Observation:
        """Carry the row out; its legs tell the lies of this number."""
        row = replace(row, warmup_s=row.warmup_s + number / 1e9)
        # Each is a run of its own: a run's rows are planned before its first one, and a server refuses any other.
        settings = RowSettings(declared=row, run_id=f"cheat-{secrets.token_hex(4)}", seed=7)
        allocation = Allocation(self._grant, self._broker, settings, lambda _moment: None)
        return row.run(allocation, ProtectedRuntime(self._host_attestation), RawRunner()).observation


class LyingLegs:
    """Every case of `LEGS` on one guest, with an honest row as control."""

    def __init__(self, guest: LyingGuest) -> None:
        self._guest = guest
        self._control = all(each.finding == "held" for each in judge(guest.carry_out(LyingLeg(lie="").row, _HONEST)))

    def play(self, case: LyingLeg, *, others: Callable[[Observation], Collection[str]]) -> TamperResult:
        """Play one lie.

        `others` trains the legs of an observation again, and returns which of them did other work than they report; it is asked
        where no finding sees the lie.
        """
        observation = self._guest.carry_out(case.row, LEGS.index(case))
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
            control_released=self._control,
            expected_nonce="unasked",
            seen_nonce="unasked",
        )


def archive_of_all(build: Callable[[Mapping[str, bytes]], bytes] = build_archive) -> bytes:
    """The archive of a guest that tells every lie of `LEGS`, each in its row."""
    return lying_archive({number: {case.leg: case.lie} for number, case in enumerate(LEGS)}, build=build)


LEGS: tuple[LyingLeg, ...] = (
    *(LyingLeg(lie=lie) for lie in (
        "units-2-per-cent-more", "units-twice", "elapsed-half", "processor-time-half", "clock-at-95", "clock-at-91",
        "clock-slower-later",
    )),
    LyingLeg(lie="clock-at-95", leg="raw", order="interleaved"),
    LyingLeg(lie="every-2nd-step-skipped", target_s=1.0),
    LyingLeg(lie="half-the-samples", target_s=1.0),
    LyingLeg(lie="half-precision-after-the-prologue", leg="raw", target_s=1.0),
    LyingLeg(lie="smaller-steps-until-the-end"),
    LyingLeg(lie="smaller-steps-until-the-end", leg="raw", order="interleaved", target_s=2.0),
    LyingLeg(lie="no-training-after-step-3", target_s=1.0),
    LyingLeg(lie="same-wrong-adapter"),
    *(LyingLeg(lie=lie, rounds=2) for lie in ("units-2-per-cent-more", "same-wrong-adapter")),
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
