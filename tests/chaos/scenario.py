"""What happens in one chaos run, drawn from its seed: provider, faults, who is killed, and when.

The same seed draws the same plan. When exactly a kill lands still depends on the machine, which is the point.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from tests.loopback.faults import Fault

Victim = Literal["nobody", "harness", "sigterm", "sigint", "worker", "link", "pod", "machine", "restart", "host", "frozen"]
PROVIDERS = ("runpod-rest", "vastai", "runpod-sdk")
#: The host of a user's own has no API that could play faults; one seed in so many is its.
OWN_HOST, OWN_HOST_EVERY = "ssh", 8
#: Each of its requests is a connection of its own.
OWN_HOST_SLOWER = 4.0

#: Faults of every provider; those of one provider only are added to them.
_FAULTS = (
    Fault(kind="lost-answer"), Fault(kind="500-after"), Fault(kind="html-after"), Fault(kind="null-pod"), Fault(kind="500"),
    Fault(kind="html-502"), Fault(kind="429"), Fault(kind="429", retry_after_s=1), Fault(kind="no-capacity"),
    Fault(kind="late-create", after_s=0.5), Fault(kind="stuck"), Fault(kind="error-state"), Fault(kind="wrong-gpu"),
    Fault(kind="no-start"), Fault(kind="vanish", after_s=1.0), Fault(kind="restart", after_s=1.0),
    Fault(kind="503", on="list", times=2), Fault(kind="html-502", on="get"), Fault(kind="hang-up", on="list"),
    Fault(kind="refused", on="terminate", times=2), Fault(kind="silent", on="terminate", times=2),
    Fault(kind="500", on="terminate"), Fault(kind="hang-up", on="terminate"),
    Fault(kind="comes-back", on="terminate", after_s=0.1), Fault(kind="lag", on="terminate", after_s=0.3),
)  # fmt: skip
_OF_VAST = (
    Fault(kind="new-contract-in-error"),
    Fault(kind="second-page", on="list", times=3),
    Fault(kind="short-list", on="list"),
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run. `at_s` counts from the first line of the run's ledger, `rows` are run by `workers` processes (0: the harness)."""

    seed: int
    provider: str
    faults: tuple[Fault, ...]
    victim: Victim
    at_s: float
    rows: int
    workers: int
    #: Rows whose evidence is wrong: no key may be released for them.
    dishonest: frozenset[int]
    #: Of Slurm's clients (`on_slurm.FAULTS`).
    slurm_faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        faults = ", ".join((*(f"{fault.kind} on {fault.on}" for fault in self.faults), *self.slurm_faults)) or "no fault"
        return f"seed {self.seed}: {self.provider}, {faults}; {self.victim} at {self.at_s:.2f} s; {self.rows} rows, {self.workers} workers"


def draw_slurm(seed: int) -> Scenario:
    """The plan of one seed on Slurm."""
    drawn = random.Random(f"slurm {seed}")
    rows = drawn.choice((1, 2, 2))
    victims: tuple[Victim, ...] = get_args(Victim)
    return Scenario(
        seed=seed,
        provider="slurm",
        faults=(),
        victim=drawn.choices(victims, weights=(1, 4, 2, 1, 2, 2, 2, 2, 2, 4, 2))[0],
        at_s=drawn.uniform(0.0, 2.5),
        rows=rows,
        workers=drawn.choice((0, 0, 1, 2)),
        dishonest=frozenset(row for row in range(rows) if drawn.random() < 0.2),
        slurm_faults=drawn.choice(((), (), ("lost-answer",), ("no-answer",), ("refused",), ("not-sent",))),
    )


def draw(seed: int) -> Scenario:
    """The plan of one seed."""
    drawn = random.Random(seed)
    provider = drawn.choices(PROVIDERS, weights=(45, 45, 10))[0]
    own = seed % OWN_HOST_EVERY == OWN_HOST_EVERY - 1
    pool = _FAULTS + (_OF_VAST if provider == "vastai" else ())
    rows = drawn.choice((1, 2, 2))
    victims: tuple[Victim, ...] = get_args(Victim)
    return Scenario(
        seed=seed,
        provider=OWN_HOST if own else provider,
        faults=() if own else tuple(drawn.sample(pool, k=drawn.choice((0, 1, 1, 2, 3)))),
        victim=drawn.choices(victims, weights=(1, 3, 2, 1, 2, 2, 2, 2, 2, 4, 2))[0],
        at_s=drawn.uniform(0.0, 2.5) * (OWN_HOST_SLOWER if own else 1.0),
        rows=rows,
        workers=drawn.choice((0, 0, 1, 2)),
        dishonest=frozenset(row for row in range(rows) if drawn.random() < 0.2),
    )
