"""What a server's marks cost a row: the same interleaved row with a mark at every border and without, in turn, on this machine.

    python -m benchmarks.marks [PAIRS_OF_ROWS] [SECONDS]

A real `glasshouse serve` with its ledger on disk, in a process of its own; rows on the mock provider. Prints ratios and judges
nothing: CPU seconds per step in each leg's timed stretches, and the wall time of whole rows. A mark is outside of all measured
time, so the first is 1 but for noise.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server import serve
from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.legs.attempt_marks import AttemptMarks
from pytest_glasshouse.legs.attestation import HostAttestation, OutsideServer
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.tokens import peek

ROWS, SECONDS = 5, 20


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One row: CPU seconds per step of each leg, wall seconds, and how long its marks took."""

    cpu_s: dict[str, float]
    wall_s: float
    marks_s: list[float]


class Unmarked(ProtectedRuntime):
    """Rounds are begun at the server, and nothing is marked at borders."""

    def marks(self, **about: Any) -> AttemptMarks | None:
        """As the parent's, which asks for no times."""
        made = super().marks(**about)
        if made is not None:
            made.server_key = None
        return made


def cost(broker: Broker, host: HostAttestation, row: RowSpec, *, marked: bool, run: str) -> Cost:
    """Carry out the row once."""
    grant = broker.acquire(row)
    allocation = Allocation(grant, broker, RowSettings(declared=row, run_id=run, seed=7), lambda _moment: None)
    runtime = ProtectedRuntime(host) if marked else Unmarked(host)
    began = time.perf_counter()
    outcome = row.run(allocation, runtime, RawRunner())
    wall_s = time.perf_counter() - began
    broker.release(grant)
    if outcome.ended is not None:
        raise SystemExit(outcome.ended.reason)
    (result,) = results(outcome.observation)
    (observed,) = outcome.observation["rounds"]
    accounts = observed.get("marks", {"agent": {}})["agent"].values()
    marks: list[Any] = [each for token in accounts for each in peek(token)["marks"]]  # type: ignore[union-attr]
    legs = {"raw": result.raw, "protected": result.protected}
    return Cost(
        cpu_s={name: leg.cpu_ns / leg.units / 1e9 for name, leg in legs.items() if leg is not None},
        wall_s=wall_s,
        marks_s=[(got - asked) / 1e9 for _, asked, got in marks],
    )


def main(rows: int = ROWS, seconds: int = SECONDS) -> None:
    """Measure and print."""
    row = RowSpec(
        name="marks", workload="mlp", gpu="anygpu", order="interleaved", target_s=float(seconds), warmup_s=0.5, rounds=1
    )
    costs: dict[bool, list[Cost]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process, place = serve(folder)
        host = HostAttestation(OutsideServer(url=place.url, key=place.key, owner_key=folder / "owner.key"))
        broker = Broker(
            BrokerOptions(provider="mock", run_id="bench-marks", run_dir=folder / "run"), providers={"mock": MockProvider()}
        )
        try:
            for number in range(rows + 1):
                for marked in (True, False) if number % 2 else (False, True):
                    found = cost(broker, host, row, marked=marked, run=f"bench-{number}-{marked}")
                    if number:  # the first pair compiles byte code
                        costs[marked].append(found)
        finally:
            host.close()
            broker.end_all()
            process.terminate()
            process.wait()
    marks = [each for found in costs[True] for each in found.marks_s]
    print(f"{rows} rows with marks and {rows} without, {seconds} s of each leg; {len(marks) // rows} marks a row")
    print(f"a mark took {statistics.median(marks) * 1e3:.1f} ms (median), {max(marks) * 1e3:.1f} ms at most")
    for leg in ("raw", "protected"):
        ratios = [a.cpu_s[leg] / b.cpu_s[leg] for a, b in zip(costs[True], costs[False], strict=True)]
        print(f"CPU seconds per step, {leg}: with marks / without = {statistics.median(ratios):.4f} (median of {_shown(ratios)})")
    ratios = [a.wall_s / b.wall_s for a, b in zip(costs[True], costs[False], strict=True)]
    print(f"wall time of a row: with marks / without = {statistics.median(ratios):.4f} (median of {_shown(ratios)})")


def _shown(ratios: list[float]) -> str:
    return ", ".join(f"{each:.4f}" for each in ratios)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
