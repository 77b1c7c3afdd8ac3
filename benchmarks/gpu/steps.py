"""Steps that are run one after the other, each within its own limit and all within one: a result file each, and resumption.

A step is a command. One that failed, was stopped or was not reached is run by the next call; one that passed is kept. Whatever
becomes of a step, the others are run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["passed", "failed", "stopped", "not run"]

#: What is left of the total limit for the summary.
_RESERVE_S = 10.0
#: How long a step that is stopped may take to end what it started, before it is killed.
_GRACE_S = 10.0
#: A step is not begun with less than this.
_LEAST_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command. `unavailable` says why it cannot be run here; `env` is added to the environment."""

    name: str
    what: str
    limit_s: float
    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    unavailable: str = ""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What came of a step. `commit` is the code it ran on, `why` why it did not pass."""

    name: str
    status: Status
    seconds: float
    exit: int | None = None
    why: str = ""
    commit: str = ""

    @classmethod
    def read(cls, path: Path) -> StepResult | None:
        """The result in a file; None where there is none that can be read."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(**fields)
        except (OSError, ValueError, TypeError):
            return None


class Runner:
    """Runs steps in `tree`, with results, logs and whatever the steps write in `work`."""

    def __init__(
        self,
        *,
        tree: Path,
        work: Path,
        total_s: float,
        commit: str = "",
        tell: Callable[[str], None] = print,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree, self._work, self._commit, self._tell, self._monotonic = tree, work, commit, tell, monotonic
        self._until = monotonic() + total_s
        self._total_s = total_s
        (work / "results").mkdir(parents=True, exist_ok=True)

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        """Run what has not passed yet; every step's result, in the order of the steps."""
        return [self._one(step) for step in steps]

    def log(self, step: str) -> Path:
        """The file of what a step printed."""
        return self._work / f"{step}.log"

    def _one(self, step: Step) -> StepResult:
        path = self._work / "results" / f"{step.name}.json"
        before = StepResult.read(path)
        if before is not None and before.status == "passed":
            self._tell(f"{step.name}: passed before, in {before.seconds:.0f} s")
            return before
        result = self._attempt(step)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(result.__dict__), encoding="utf-8")
        draft.replace(path)
        self._tell(f"{step.name}: {result.status} after {result.seconds:.0f} s{': ' + result.why if result.why else ''}")
        return result

    def _attempt(self, step: Step) -> StepResult:
        def ended(status: Status, seconds: float = 0.0, **fields: Any) -> StepResult:
            return StepResult(name=step.name, status=status, seconds=round(seconds, 1), commit=self._commit, **fields)

        if step.unavailable:
            return ended("not run", why=step.unavailable)
        left_s = self._until - self._monotonic() - _RESERVE_S
        if left_s < min(_LEAST_S, step.limit_s):
            return ended("not run", why=f"{max(left_s, 0):.0f} s were left of {self._total_s:.0f}")
        limit_s = min(step.limit_s, left_s)
        began = self._monotonic()
        code = self._command(step, limit_s)
        took = self._monotonic() - began
        if code is None:
            return ended("stopped", took, why=f"it did not end within {limit_s:.0f} s")
        return ended("passed" if code == 0 else "failed", took, exit=code, why="" if code == 0 else f"exit {code}")

    def _command(self, step: Step, limit_s: float) -> int | None:
        """The command's exit status; None where it had to be stopped. Its process group is gone afterwards."""
        environ = {**os.environ, **step.env}
        with self.log(step.name).open("wb") as log:
            process = subprocess.Popen(
                list(step.command), cwd=self._tree, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            try:
                return process.wait(limit_s)
            except subprocess.TimeoutExpired:
                # SIGTERM first: pytest ends the guests that it started.
                _signal(process, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_S)
                return None
            finally:
                _signal(process, signal.SIGKILL)
                process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
