"""Mini-rows on a real, noisy machine whose truth is known: the product's turns, borders, estimates and rules, a numpy workload.

Two resident processes a round, started again for every round; `agent.turn_scheduler.TurnScheduler` gives the turns that
`legs.order.turn_orders` drew and reads the processors at each border; `invariants.turns` says what a paused leg used.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.agent.spool import Spool
from pytest_glasshouse.agent.turn_scheduler import TurnScheduler
from pytest_glasshouse.invariants.turns import _HANDOVER_NS, IDLE_SHARE, _counted_ns, _outside_ns, _untimed_ns
from pytest_glasshouse.observation.turns import pairs_of, segments_of, turns_of
from pytest_glasshouse.overhead.estimate import estimates
from pytest_glasshouse.overhead.segments import RoundSegments, round_segments
from pytest_glasshouse.rows.leg_order import Role, leg_orders, starting_orders, turn_orders
from pytest_glasshouse.wire.tokens import peek
from tests.calibration.plan import Design
from tests.calibration.stepper import Work, alone, in_turns, neighbour
from tests.limits import HANG_S

#: The spool is synced at every turn; whose disk that waits for is not what is measured here.
_MEMORY = Path("/dev/shm")
LEGS: tuple[Role, ...] = ("protected", "raw")


@dataclass(frozen=True, kw_only=True)
class Mini:
    """One interleaved mini-row. `idle_share` is what the paused protected leg used, of the raw segments' time, at worst."""

    seed: int
    truth_pct: float
    log_ratios: list[float]
    pct: float
    ci95: list[float]
    trimmed_pct: float
    idle_share: float
    caught: bool
    took_s: float


@dataclass(kw_only=True)
class _Leg:
    """One resident process as the scheduler uses it, and the thread that listens to it."""

    role: Role
    process: Any
    pipe: Connection[Any, Any]
    scheduler: TurnScheduler
    segments: list[list[int]] = field(default_factory=list)
    thread: int = 0

    @property
    def process_group(self) -> int:
        return int(self.process.pid)

    @property
    def ranks(self) -> list[_Leg]:
        return [self]

    def readings_ns(self) -> int:
        return 0

    def command(self, kind: str, turn: int) -> None:
        self.pipe.send((kind, turn))

    def listen(self, ready: threading.Event) -> None:
        self.thread = threading.get_ident()
        ready.set()
        try:
            while True:
                kind, body = self.pipe.recv()
                if kind == "drain":
                    self.pipe.send("drained")
                    continue
                if kind == "turn-done":
                    self.segments.append(body)
                self.scheduler.leg_waiting(self.role)
        except (EOFError, OSError):
            self.scheduler.leg_ended(self.role)


class Bench:
    """Starts processes from a server that has numpy already, and runs the neighbours, which load the core."""

    def __init__(self, directory: Path) -> None:
        os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.calibration.stepper"])
        self._spool = Spool(directory / "spool.jsonl")
        self._key = Ed25519PrivateKey.generate()
        # Legs and neighbours share one core: other work of the machine has the rest.
        self._core = max(os.sched_getaffinity(0))

    def start(self, body: Callable[..., None], *arguments: Any) -> tuple[Any, Connection[Any, Any]]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=body, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    @contextmanager
    def neighbours(self, count: int, *, seed: int, busy_s: float) -> Iterator[None]:
        """The competing load of one row, seeded like everything else in it."""
        started = [
            self._context.Process(target=neighbour, args=(seed + place, busy_s, self._core), daemon=True)
            for place in range(count)
        ]
        for each in started:
            each.start()
        try:
            yield
        finally:
            for each in started:
                each.kill()
                each.join()

    def interleaved(self, design: Design, *, work: Work, seed: int) -> Mini:
        """One mini-row: every round with fresh processes, judged by the product's own arithmetic."""
        began = time.monotonic()
        rounds, shares = [], []
        with self.neighbours(design.neighbours, seed=seed, busy_s=design.busy_s):
            orders = starting_orders(LEGS, rounds=design.rounds, seed=seed, fixed=False)
            for number, order in enumerate(orders, 1):
                measured, share = self._round(design, work, seed, number, order)
                rounds.append(measured)
                shares.append(share)
        found = estimates(rounds)
        ci95 = found.headline.ci95
        return Mini(
            seed=seed,
            truth_pct=work.truth_pct,
            log_ratios=list(found.log_ratios),
            pct=found.headline.pct,
            ci95=[] if ci95 is None else [ci95.low, ci95.high],
            trimmed_pct=found.trimmed.pct,
            idle_share=max(shares),
            caught=max(shares) > IDLE_SHARE,
            took_s=time.monotonic() - began,
        )

    def _round(self, design: Design, work: Work, seed: int, number: int, order: Sequence[Role]) -> tuple[RoundSegments, float]:
        drawn = turn_orders(order, number=number, pairs=design.pairs, seed=seed)
        scheduler = TurnScheduler(
            name="calibration", nonce=f"{seed}-{number}", roles=order, turns=[role for pair in drawn for role in pair],
            key=self._key, spool=self._spool,
        )  # fmt: skip
        before = len(self._spool.since(0, wait_s=0))
        legs: dict[Role, _Leg] = {}
        for role in order:
            process, pipe = self.start(in_turns, work if role == "protected" else work.raw, design.plan(), self._core)
            leg = legs[role] = _Leg(role=role, process=process, pipe=pipe, scheduler=scheduler)
            ready = threading.Event()
            threading.Thread(target=leg.listen, args=(ready,), daemon=True).start()
            assert ready.wait(HANG_S)
            scheduler.add_leg(role, leg)
        scheduler.start()
        scheduler.join()
        for leg in legs.values():
            leg.process.join()
        events = [event for event in self._spool.since(before, wait_s=0) if event["type"] == "borders"]
        token: Any = events[-1]["body"]
        notes: Any = {"borders": token["borders"]}
        bodies: dict[Role, Any] = {role: {"segments": leg.segments} for role, leg in legs.items()}
        pairs = pairs_of(notes, bodies)
        claims: Any = peek(token["borders"])
        turns = turns_of(claims)
        raw_ns = sum(pair["raw"]["elapsed_ns"] for pair in pairs)
        counted = {role: sum(map(_counted_ns, segments_of(body).values())) for role, body in bodies.items()}
        handovers_ns = _HANDOVER_NS * design.pairs
        untimed_ns = _untimed_ns("protected", turns, counted) - _untimed_ns("raw", turns, counted)
        # The finding's two rules: work in the raw leg's time, and work while no clock of the protected leg's ran.
        shares = (_outside_ns(turns) / raw_ns, untimed_ns / raw_ns if untimed_ns > handovers_ns else 0.0)
        return round_segments(number, pairs), max(shares)

    def sequential(self, design: Design, *, work: Work, seed: int, row_s: float) -> float:
        """A row as it was published: one leg after the other, for as long as an interleaved row takes. Percent."""
        leg_s = row_s / 2 - design.warmup_s
        rates: dict[str, float] = {}
        (order,) = leg_orders("raw-first" if seed % 2 else "protected-first", rounds=1, seed=seed, fixed=True)
        with self.neighbours(design.neighbours, seed=seed, busy_s=design.busy_s):
            for role in order:
                process, pipe = self.start(alone, work if role == "protected" else work.raw, design.warmup_s, leg_s, self._core)
                units, elapsed_ns = pipe.recv()
                rates[role] = units / elapsed_ns
                process.join()
        return (1 - rates["protected"] / rates["raw"]) * 100


def calibrate(
    *, costs: Sequence[Work], rows: int, seed: int, design: Design, report: Callable[[str], None], deferred: Work
) -> dict[str, Any]:
    """`rows` mini-rows at every cost, as many sequential ones and as many deferred ones; seeds count up from `seed`."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        bench = Bench(Path(directory))
        minis: list[Mini] = []
        sequential: list[float] = []
        caught: list[Mini] = []
        # One of everything after the other, so that an hour of the machine's day is no cost's own.
        for row in range(rows):
            for place, work in enumerate(costs):
                minis.append(bench.interleaved(design, work=work, seed=seed + 1000 * place + row))
                report(_shown(minis[-1]))
            row_s = minis[-1].took_s
            sequential.append(bench.sequential(design, work=costs[0], seed=seed + 90_000 + row, row_s=row_s))
            report(f"  sequential, nothing differs: {sequential[-1]:+.2f} %")
            caught.append(bench.interleaved(replace(design, rounds=2, pairs=6), work=deferred, seed=seed + 80_000 + row))
            report(f"  deferred: idle share {caught[-1].idle_share:.2%}, reads {caught[-1].pct:+.2f} %")
    return {
        "seed": seed,
        "rows": rows,
        "design": asdict(design),
        "machine": {"cpus": os.cpu_count(), "loadBefore": os.getloadavg()[2]},
        "tookSec": time.monotonic() - began,
        "minis": [asdict(each) for each in minis],
        "sequentialPct": sequential,
        "deferred": [asdict(each) for each in caught],
    }


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What a calibration shows: coverage, errors, spreads and their ratio with its 95 % interval (F, on equal footing)."""
    from scipy.stats import f

    minis = result["minis"]
    covered = sum(each["ci95"][0] <= each["truth_pct"] <= each["ci95"][1] for each in minis)
    errors = [each["pct"] - each["truth_pct"] for each in minis]
    by_truth: dict[str, list[float]] = {}
    for each, error in zip(minis, errors, strict=True):
        by_truth.setdefault(f"{each['truth_pct']:.3f}", []).append(error)
    within = math.fsum(sum((e - _mean(own)) ** 2 for e in own) for own in by_truth.values())
    freedom = len(errors) - len(by_truth)
    interleaved = math.sqrt(within / freedom) if freedom else math.nan
    sequential = _spread(result["sequentialPct"])
    ratio, others = sequential / interleaved, len(result["sequentialPct"]) - 1
    return {
        "rows": len(minis),
        "covered": covered,
        "pooledErrorPct": _mean(errors),
        "errorByTruthPct": {truth: _mean(own) for truth, own in by_truth.items()},
        "spreadInterleavedPct": interleaved,
        "spreadSequentialPct": sequential,
        "spreadRatio": ratio,
        "spreadRatioCi95": [
            ratio / math.sqrt(float(f.ppf(0.975, others, freedom))),
            ratio / math.sqrt(float(f.ppf(0.025, others, freedom))),
        ],
        "deferred": len(result["deferred"]),
        "deferredCaught": sum(each["caught"] for each in result["deferred"]),
        "honestCalledBusy": sum(each["caught"] for each in minis),
        "tookSec": result["tookSec"],
    }


def _shown(mini: Mini) -> str:
    low, high = mini.ci95
    hit = "covers" if low <= mini.truth_pct <= high else "MISSES"
    return (
        f"true {mini.truth_pct:.2f} %: {mini.pct:+.2f} [{low:+.2f}, {high:+.2f}] {hit}, companion {mini.trimmed_pct:+.2f}, "
        f"idle share {mini.idle_share:.4%}, {mini.took_s:.1f} s"
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _spread(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum((value - _mean(values)) ** 2 for value in values) / (len(values) - 1))


if __name__ == "__main__":
    from tests.calibration.plan import COSTS, DEFERRED, DESIGN, SEED

    found = calibrate(
        costs=COSTS, rows=int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else SEED, design=DESIGN,
        report=lambda text: print(text, flush=True), deferred=DEFERRED,
    )  # fmt: skip
    print(json.dumps(summary(found), indent=1))
    if len(sys.argv) > 3:
        text = json.dumps({**found, "summary": summary(found)}, indent=1)
        Path(sys.argv[3]).write_text(text + "\n", encoding="utf-8")
