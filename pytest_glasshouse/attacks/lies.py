"""Lies of a leg about its work and time, told by the leg itself: what an archive does that both sides trust and should not.

It runs as `glasshouse_lies` in an archive of its own (`attacks.lying_legs`), whose digest only the policy of that row pins. A
lie is installed in one leg's process before it trains, keeps prologue and epilogue honest wherever it can, and makes everything
that the leg says consistent with it. Nothing under `guest/` refers to it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.agent import main as guest_main
from pytest_glasshouse.guest import protected, raw
from pytest_glasshouse.guest import training as guest_training
from pytest_glasshouse.guest.control import ControlTurns
from pytest_glasshouse.wire.tensors import parse_safetensors, tensor_digest
from pytest_glasshouse.workloads import loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.guest.training import TrainedLeg

    Change = Callable[[TrainedLeg], TrainedLeg]

#: The modules as what they import is replaced in them.
training: Any = guest_training
_MODULES: dict[str, Any] = {"protected": protected, "raw": raw}

#: Long enough to be seen in the short legs of a test on a busy machine, too.
_LATE_S, _LEAST_IDLE_S, _IDLE_SHARE = 0.5, 0.3, 0.09


def main(lies: dict[int, dict[str, str]]) -> int:
    """`lies` names the lie of each kind of leg (`protected`, `raw`), by the last three digits of the warm-up in nanoseconds.

    So one guest plays many rows, each with a lie of its own.
    """
    for kind, module in _MODULES.items():
        module.train = _lying(module.train, {number: told[kind] for number, told in lies.items() if kind in told})
    return guest_main.main()


def _lying(honest: Callable[..., TrainedLeg], lies: dict[int, str]) -> Any:
    def train(plan: Any, *given: Any, **named: Any) -> TrainedLeg:
        lie = lies.get(plan["warmup_ns"] % 1000)
        change = None if lie is None else LIES[lie]()
        trained = honest(plan, *given, **named)
        return trained if change is None else change(trained)

    return train


def _says(**changed: Callable[[Any], Any]) -> Callable[[], Change]:
    """The leg reports other figures than it measured."""

    def change(trained: TrainedLeg) -> TrainedLeg:
        body = {**trained.body, **{name: by(trained.body[name]) for name, by in changed.items()}}
        return dataclasses.replace(trained, body=body)

    return lambda: change


def _clock(share: Callable[[int], float]) -> Callable[[], None]:
    """A clock that runs at `share` of its speed; the share may depend on how often it was read."""

    def install() -> None:
        state = [0, time.perf_counter_ns(), 0]

        def clock_ns() -> int:
            now = time.perf_counter_ns()
            state[0] += 1
            state[2] += round((now - state[1]) * share(state[0]))
            state[1] = now
            return state[2]

        training.measure = functools.partial(training.measure, clock_ns=clock_ns)
        training.measure_segments = functools.partial(training.measure_segments, clock_ns=clock_ns)

    return install


class _Trainer:
    """A trainer that lies from its second reset on: in what is measured, and neither in the prologue nor in the epilogue."""

    #: Whether its count of the batches is the true one.
    counts = False

    def __init__(self, honest: Any) -> None:
        self.honest = honest
        self.lying = False
        self.kinds: list[str] = []
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    def prologue(self, steps: int) -> Any:
        self.lying = False
        return self.honest.prologue(steps)

    def reset(self, order_seed: int) -> None:
        self.honest.reset(order_seed)
        self.lying, self.steps = True, 0

    def repeat_prologue(self, steps: int) -> Any:
        """It is told that it is looked at, and does as it did in its prologue."""
        going_on = self.lying, self.steps
        self.lying = False
        losses = self.honest.repeat_prologue(steps)
        self.lying, self.steps = going_on
        return losses

    def batches(self) -> Any:
        """As many as its steps have, whatever it used: an honest count would tell on it."""
        counts = self.honest.batches()
        if not self.lying:
            self.kinds = [*counts]
        if not self.lying or self.counts:
            return counts
        return {self.kinds[0]: self.steps * sum(self.honest.facts()["batchesPerUnit"].values())}

    def step(self) -> None:
        self.steps += 1
        if self.lying:
            self.lie()
        else:
            self.honest.step()

    def lie(self) -> None:
        self.honest.step()

    def weights(self) -> dict[str, Any]:
        """The tensors or arrays that it trains."""
        found: dict[str, Any] = getattr(self.honest, "_weights", None) or self.honest._adapter  # noqa: SLF001
        return found


def _trainer(kind: type[_Trainer]) -> Callable[[], None]:
    def install() -> None:
        honest = training.open_trainer
        training.open_trainer = lambda *given, **named: kind(honest(*given, **named))

    return install


def _skips(every: int) -> type[_Trainer]:
    class Skips(_Trainer):
        def lie(self) -> None:
            if self.steps % every:
                self.honest.step()

    return Skips


class _OneStepSkipped(_Trainer):
    def lie(self) -> None:
        if self.steps != 5:  # noqa: PLR2004
            self.honest.step()


class _OneWeight(_Trainer):
    """One weight is another one after a step, by the smallest difference that there is."""

    def lie(self) -> None:
        self.honest.step()
        if self.steps == 5:  # noqa: PLR2004
            weight = next(iter(self.weights().values()))
            flat = weight.detach().view(-1) if hasattr(weight, "detach") else weight.reshape(-1)
            flat[0] = flat[0] * 1.0000002


class _OneBatchElsewhere(_Trainer):
    """Two of its batches are taken in the other order: what it draws third comes second."""

    def lie(self) -> None:
        if self.steps == 5:  # noqa: PLR2004
            order = self.honest._order  # noqa: SLF001
            drawn = getattr(self.honest, "_sizes", None)
            if drawn is None:  # lora: an iterator of sequences
                first, second = next(order), next(order)
                self.honest._order = _chained([second, first], order)  # noqa: SLF001
            else:  # mlp: the next epoch is drawn twice, and this one by the second
                import torch

                torch.randperm(drawn["samples"], generator=order)
        self.honest.step()


def _chained(first: list[int], rest: Any) -> Any:
    yield from first
    yield from rest


class _HalfTheSamples(_Trainer):
    counts = True

    def lie(self) -> None:
        sizes = self.honest._sizes  # noqa: SLF001
        self.honest._sizes = {**sizes, "samples": sizes["samples"] // 2}  # noqa: SLF001
        self.honest.step()
        self.honest._sizes = sizes  # noqa: SLF001


class _LowPrecision(_Trainer):
    """Weights of eight bits of mantissa, as bfloat16 has them, in everything but the prologue."""

    def lie(self) -> None:
        self.honest.step()
        for weight in self.weights().values():
            if hasattr(weight, "bfloat16"):
                weight.data.copy_(weight.data.bfloat16().float())
            else:
                weight.view("<u4")[...] &= 0xFFFF0000


class _HalfPrecision(_Trainer):
    """Forward and backward in sixteen bits, in everything but the prologue."""

    counts = True

    def lie(self) -> None:
        weights = self.honest._weights  # noqa: SLF001
        if hasattr(next(iter(weights.values())), "detach"):
            import torch

            with torch.autocast("cpu", dtype=torch.bfloat16):
                self.honest.step()
            return
        self.honest._weights = {name: weight.astype("float16") for name, weight in weights.items()}  # noqa: SLF001
        self.honest.step()
        for name, weight in weights.items():
            weight[...] = self.honest._weights[name]  # noqa: SLF001
        self.honest._weights = weights  # noqa: SLF001


class _SmallerSteps(_Trainer):
    """Half of the learning rate from its first step on, put back before the end, where it knows that it is looked at."""

    def repeat_prologue(self, steps: int) -> Any:
        return self.honest.repeat_prologue(steps)

    def prologue(self, steps: int) -> Any:
        self.rate = getattr(self, "rate", self.honest._learning_rate)  # noqa: SLF001
        self.honest._learning_rate = self.rate  # noqa: SLF001
        return super().prologue(steps)

    def lie(self) -> None:
        self.honest._learning_rate = self.rate / 2  # noqa: SLF001
        self.honest.step()


class _NoTraining(_Trainer):
    """Three steps, and from then on the third one's loss. What it reports of its weights changes as it should."""

    def lie(self) -> None:
        if self.steps <= 3:  # noqa: PLR2004
            self.honest.step()
            self.loss = self.honest.check()
        else:
            time.sleep(0.001)

    def check(self) -> Any:
        return self.loss if self.lying else self.honest.check()

    def sample_sha256(self) -> str:
        return f"{self.steps:032x}" * 2


def _same_wrong_adapter() -> Change:
    """The initial weights with a row moved, whatever was trained, and in every round."""

    def change(trained: TrainedLeg) -> TrainedLeg:
        octets = bytearray(trained.adapter)
        for entry in parse_safetensors(trained.adapter).values():
            octets[entry.start : entry.end] = b"\x00\x00\x80\x3c" * ((entry.end - entry.start) // 4)
        adapter = bytes(octets)
        return dataclasses.replace(trained, adapter=adapter, adapter_sha256=tensor_digest(adapter))

    return change


def _conditions(spoil: Callable[[], Callable[[], object]]) -> Callable[[], None]:
    """Other conditions while the clock runs, and those of before at both of its ends."""

    def install() -> None:
        honest = loop.StepRunner.run

        def run(self: Any, *, target_ns: Any, steps: Any, on_progress: Any) -> Any:
            restore = spoil() if on_progress is not None else None
            try:
                return honest(self, target_ns=target_ns, steps=steps, on_progress=on_progress)
            finally:
                if restore is not None:
                    restore()

        loop.StepRunner.run = run  # type: ignore[method-assign]

    return install


def _niced() -> Callable[[], object]:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, before + 5)
    return lambda: os.setpriority(os.PRIO_PROCESS, 0, before)


def _pinned() -> Callable[[], object]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    return lambda: os.sched_setaffinity(0, before)


def _without_huge_pages() -> Callable[[], object]:
    import ctypes

    control, pr_set_thp_disable = ctypes.CDLL(None).prctl, 41
    control(pr_set_thp_disable, 1, 0, 0, 0)
    return lambda: control(pr_set_thp_disable, 0, 0, 0, 0)


def _idle_after_the_clock() -> None:
    honest = ControlTurns.done

    def done(self: Any, segment: Any) -> None:
        time.sleep(max(_LEAST_IDLE_S, _IDLE_SHARE * segment.elapsed_ns / 1e9))
        honest(self, segment)

    ControlTurns.done = done  # type: ignore[method-assign]


def _late_word() -> None:
    """It says late that its clock runs: until then it may do what is in no time of its own."""
    honest = ControlTurns.clock_read

    def clock_read(self: Any) -> None:
        time.sleep(_LATE_S)
        honest(self)

    ControlTurns.clock_read = clock_read  # type: ignore[method-assign]


def _long_wash_outs() -> None:
    honest = training.SegmentPlan
    training.SegmentPlan = lambda **given: honest(**{**given, "washout_s": 4 * given["washout_s"]})


def _wash_outs_counted() -> Change:
    """The steps of each wash-out but one are counted in its segment, whose progress tells of them."""
    honest, earlier = loop.StepRunner.run, [0]

    def run(self: Any, *, target_ns: Any, steps: Any, on_progress: Any) -> Any:
        if on_progress is None:
            units, elapsed = honest(self, target_ns=target_ns, steps=steps, on_progress=None)
            earlier[0] += units - 1
            return 1, elapsed
        more, earlier[0] = earlier[0], 0
        units, elapsed = honest(
            self, target_ns=target_ns, steps=steps, on_progress=lambda done, ns, loss: on_progress(done + more, ns, loss)
        )
        return units + more, elapsed

    loop.StepRunner.run = run  # type: ignore[method-assign]
    return lambda trained: trained


#: Each installs itself in the process of a leg, and may return what is done to the leg's result.
LIES: dict[str, Callable[[], Any]] = {
    "units-2-per-cent-more": _says(units=lambda units: max(units + 1, round(1.02 * units))),
    "units-twice": _says(units=lambda units: 2 * units),
    "elapsed-half": _says(elapsed_ns=lambda elapsed: elapsed // 2),
    "processor-time-half": _says(cpu_ns=lambda used: used // 2),
    "clock-at-95": _clock(lambda _: 0.95),
    "clock-at-91": _clock(lambda _: 0.91),
    "clock-slower-later": _clock(lambda reading: 1.0 if reading < 5 else 0.8),  # noqa: PLR2004
    "every-50th-step-skipped": _trainer(_skips(50)),
    "every-2nd-step-skipped": _trainer(_skips(2)),
    "one-step-skipped": _trainer(_OneStepSkipped),
    "one-weight-changed": _trainer(_OneWeight),
    "one-batch-elsewhere": _trainer(_OneBatchElsewhere),
    "half-the-samples": _trainer(_HalfTheSamples),
    "bfloat16-after-the-prologue": _trainer(_LowPrecision),
    "half-precision-after-the-prologue": _trainer(_HalfPrecision),
    "smaller-steps-until-the-end": _trainer(_SmallerSteps),
    "no-training-after-step-3": _trainer(_NoTraining),
    "same-wrong-adapter": _same_wrong_adapter,
    "niced-while-timed": _conditions(_niced),
    "pinned-while-timed": _conditions(_pinned),
    "without-huge-pages-while-timed": _conditions(_without_huge_pages),
    "idle-after-the-clock": _idle_after_the_clock,
    "tells-late-that-its-clock-runs": _late_word,
    "wash-outs-four-times-as-long": _long_wash_outs,
    "wash-outs-counted": _wash_outs_counted,
}
