"""What one rank of a leg may do wrong, in a guest of the tests' own: each is played by rank 1 of a protected leg, and by no other.

A file of that guest's archive; `FAULT` is replaced when the archive is built.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:], strict=False) if flag == "--site-packages")

from pytest_glasshouse.agent import main as guest_main
from pytest_glasshouse.guest import leg_launcher
from pytest_glasshouse.guest import protected as protected_legs
from pytest_glasshouse.guest import protected_rank as protected_ranks
from pytest_glasshouse.guest import training as training_code

protected: Any = protected_legs
protected_rank: Any = protected_ranks
training: Any = training_code

FAULT = "none"


def zeroize_skipped() -> None:
    """It keeps what it trained on, and writes no line of it."""
    honest = protected_rank.ProtectedRank._end

    def end(self: Any, ranks: Any, arena: Any) -> None:
        append = self._journal.append
        self._journal.append = lambda kind, body: None if kind == "zeroized" else append(kind, body)
        honest(self, ranks, arena)

    protected_rank.ProtectedRank._end = end


def copies_kept() -> None:
    """It says that it zeroized, and keeps a copy of the canary."""
    honest = protected_rank.ProtectedRank._train_shared

    def train_shared(self: Any, ranks: Any, parts: Any) -> None:
        self.kept = bytearray(parts["canary"])
        honest(self, ranks, parts)

    protected_rank.ProtectedRank._train_shared = train_shared


def clock_slowed() -> None:
    """Its clock shows nine tenths of the time."""
    honest = training.measure

    def measure(*given: Any, **named: Any) -> Any:
        return honest(*given, **named, clock_ns=lambda: round(time.perf_counter_ns() * 0.9))

    training.measure = measure


def other_data() -> None:
    """It trains on other labels than the package has."""
    honest, honest_train = training.open_trainer, protected.train

    def open_trainer(*given: Any, **named: Any) -> Any:
        trainer = honest(*given, **named)
        trainer._labels = trainer._labels[::-1].copy()
        return trainer

    def train(*given: Any, **named: Any) -> Any:
        training.open_trainer = open_trainer
        return honest_train(*given, **named)

    protected.train = train


def other_weights() -> None:
    """It starts from weights of its own."""
    honest = training.open_trainer

    def open_trainer(*given: Any, **named: Any) -> Any:
        trainer = honest(*given, **named)
        trainer._initial = {name: array * 2 for name, array in trainer._initial.items()}
        trainer.initial_sha256 = lambda: "0" * 64
        return trainer

    training.open_trainer = open_trainer


def other_library() -> None:
    """It has loaded a module that the first rank has not."""
    honest = protected.import_training

    def import_training(*given: Any) -> None:
        honest(*given)
        import colorsys  # noqa: F401

    protected.import_training = import_training


def library_later() -> None:
    """It loads code while it trains that is of no package that was measured."""
    honest = training.open_trainer

    def open_trainer(*given: Any, **named: Any) -> Any:
        from pathlib import Path

        folder = Path(os.environ["TMPDIR"])
        (folder / "planted.py").write_text("value = 1\n", encoding="utf-8")
        sys.path.insert(0, str(folder))
        import planted  # type: ignore[import-not-found]  # noqa: F401

        return honest(*given, **named)

    training.open_trainer = open_trainer


def killed() -> None:
    """Its process is killed in the middle of a step."""
    _signalled(signal.SIGKILL)


def stopped() -> None:
    """Its process is stopped in the middle of a step."""
    _signalled(signal.SIGSTOP)


def nonfinite_loss() -> None:
    """Its loss is not finite."""
    honest = training.open_trainer

    def open_trainer(*given: Any, **named: Any) -> Any:
        trainer = honest(*given, **named)
        trainer._finite = False

        def reset(seed: int, reset: Any = trainer.reset) -> None:
            reset(seed)
            trainer._finite = False

        trainer.reset = reset
        return trainer

    training.open_trainer = open_trainer


def steps_alone() -> None:
    """It does not average its gradients after the prologue: it trains a model of its own."""
    honest = training.open_trainer

    def open_trainer(*given: Any, **named: Any) -> Any:
        trainer = honest(*given, **named)
        average = trainer._ranks.average

        def alone(gradients: Any) -> None:
            own = [gradient.copy() for gradient in gradients]
            average(gradients)
            if trainer.measured:
                for gradient, mine in zip(gradients, own, strict=True):
                    gradient[...] = mine

        def reset(seed: int, reset: Any = trainer.reset) -> None:
            reset(seed)
            trainer.measured = seed != 0

        trainer.measured = False
        trainer._ranks.average, trainer.reset = alone, reset
        return trainer

    training.open_trainer = open_trainer


def _signalled(number: int) -> None:
    honest = training.open_trainer

    def open_trainer(*given: Any, **named: Any) -> Any:
        trainer = honest(*given, **named)
        step = trainer.step

        def then() -> None:
            step()
            os.kill(os.getpid(), number)

        trainer.step = then
        return trainer

    training.open_trainer = open_trainer


launcher: Any = leg_launcher
_run_leg = launcher.run_leg


def _run_rank(control_fd: int) -> int:
    """Each rank is forked from one launcher: its number is known only then."""
    if os.environ.get("RANK") == "1" and FAULT in globals():
        globals()[FAULT]()
    return int(_run_leg(control_fd))


launcher.run_leg = _run_rank

if __name__ == "__main__":
    sys.exit(guest_main.main())
