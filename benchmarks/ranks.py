"""What protection costs a step of a leg of several ranks: CPU seconds per step and rank, protected over raw, on this machine.

    python -m benchmarks.ranks [ROUNDS] [SECONDS] [RANKS]

One interleaved mlp row on the mock provider: both legs resident, their ranks on the CPU with gloo. Prints ratios with their 95 %
interval, Student's t over the rounds, and judges nothing. The processor time is that of a rank's own process within the timed
stretches, as its agent confirmed it (*work witnessed*); a step is an epoch's, counted once over all ranks. The raw leg has the
same ranks, barriers and collectives, so that what is left is the journal and its thread. The aim is at most 0.1 %.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.invariants import verified
from pytest_glasshouse.invariants.finding import EvidenceReader
from pytest_glasshouse.invariants.judging import judge
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.overhead.interval import middle_and_reach
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.rows.spec import RowSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.observation.document import Observation

ROUNDS, SECONDS, RANKS = 5, 10, 2


def log_ratios(observation: Observation, ranks: int) -> list[list[float]]:
    """For each rank, and last for all of them together: of each round, the logarithm of protected over raw CPU time per unit."""
    found: list[list[float]] = [[] for _ in range(ranks + 1)]
    for notes in observation["rounds"]:
        leg = EvidenceReader(observation, notes)
        ends = [verified.ends(leg.of_rank(rank) if rank else leg) for rank in range(ranks)]
        spent = {role: [end[role]["cpu_ns"] / end[role]["units"] for end in ends] for role in ("protected", "raw")}
        for place, (ours, theirs) in enumerate(zip(spent["protected"], spent["raw"], strict=True)):
            found[place].append(math.log(ours / theirs))
        found[ranks].append(math.log(sum(spent["protected"]) / sum(spent["raw"])))
    return found


def main(rounds: int = ROUNDS, seconds: int = SECONDS, ranks: int = RANKS) -> None:
    """Measure and print."""
    row = RowSpec(
        name="ranks", workload="mlp", gpu="anygpu", gpus=ranks, order="interleaved", target_s=float(seconds), warmup_s=0.5,
        rounds=rounds,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        host = HostAttestation()
        options = BrokerOptions(provider="mock", run_id="bench-ranks", run_dir=Path(name))
        broker = Broker(options, providers={"mock": MockProvider()})
        try:
            grant = broker.acquire(row)
            settings = RowSettings(declared=row, run_id="bench-ranks", seed=7)
            outcome = row.run(Allocation(grant, broker, settings, lambda _moment: None), ProtectedRuntime(host), RawRunner())
            broker.release(grant)
        finally:
            host.close()
            broker.end_all()
    if outcome.ended is not None:
        raise SystemExit(outcome.ended.reason)
    print(f"{rounds} rounds, {seconds} s of each leg, {ranks} ranks; CPU seconds per step, protected / raw")
    not_held = [f"{found.invariant}: {found.reason}" for found in judge(outcome.observation) if found.finding != "held"]
    print(f"findings that did not hold: {'; '.join(not_held) or 'none'}")
    found = log_ratios(outcome.observation, ranks)
    for rank in range(ranks):
        print(f"rank {rank}: {_shown(found[rank])}")
    print(f"all ranks: {_shown(found[ranks])}")


def _shown(values: Sequence[float]) -> str:
    each = ", ".join(f"{100 * math.expm1(value):+.3f}" for value in values)
    if len(values) == 1:
        return f"{each} %"
    middle, reach = middle_and_reach(values, tail=0.025)
    low, high = (100 * math.expm1(middle + sign * reach) for sign in (-1, 1))
    return f"{100 * math.expm1(middle):+.3f} % ({low:+.3f} to {high:+.3f}; rounds {each})"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
