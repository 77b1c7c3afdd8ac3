"""The nominal error of every look of the sequential gate, and what they add up to: `overhead/sequential.py` holds the table.

Error is spent as `alpha (rounds / 24) ** 1.5`. The t statistics of a row's looks are drawn together, from normal rounds and with
the estimator of `overhead.interval`; look after look, the critical value is the one at which the rows that stop there for the
first time are those that may. A second seed verifies the table. `--small` is what the tests run.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_glasshouse.overhead.interval import BLOCKED_FROM
from pytest_glasshouse.overhead.sequential import EXPONENT, LOOKS, NOMINAL

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[np.float64]]

ROWS, SMALL = 16_000_000, 200_000
SEED, VERIFYING_SEED = 51_000_000, 51_000_001
_CHUNK = 200_000
#: No look rejects by less.
_KEPT_ABOVE = 1.5


def statistics(values: Array) -> tuple[Array, Array]:
    """The t statistics `(rows, looks)` of `(rows, 24)` rounds whose true mean is 0, and their degrees of freedom `(looks,)`."""
    signs = np.where(np.arange(values.shape[1]) % 2 == 0, 1.0, -1.0)
    found, freedom = [], []
    for count in LOOKS:
        first = values[:, :count]
        if count < BLOCKED_FROM:
            middle, error2, free = first.mean(axis=1), 1 / count, count - 1
            residual = first - middle[:, None]
        else:
            ahead, behind = first[:, signs[:count] > 0], first[:, signs[:count] < 0]
            middle = (ahead.mean(axis=1) + behind.mean(axis=1)) / 2
            error2, free = (1 / ahead.shape[1] + 1 / behind.shape[1]) / 4, count - 2
            residual = np.concatenate(
                [ahead - ahead.mean(axis=1, keepdims=True), behind - behind.mean(axis=1, keepdims=True)], axis=1
            )
        spread2 = (residual * residual).sum(axis=1) / free
        found.append(middle / np.sqrt(spread2 * error2))
        freedom.append(float(free))
    return np.stack(found, axis=1), np.array(freedom)


def drawn(rows: int, seed: int) -> tuple[Array, Array]:
    """Statistics of `rows` rows and of their mirror images: those of which some look is beyond 1.5."""
    rng = np.random.default_rng(seed)
    kept = []
    freedom = np.zeros(len(LOOKS))
    for first in range(0, rows, _CHUNK):
        found, freedom = statistics(rng.standard_normal((min(_CHUNK, rows - first), LOOKS[-1])))
        kept += [side[(side > _KEPT_ABOVE).any(axis=1)].astype(np.float32) for side in (found, -found)]
    return np.concatenate(kept), freedom


def nominal(statistic: Array, freedom: Array, *, rows: int, alpha: float) -> list[float]:
    """The one-sided nominal error of each look, such that `alpha` is spent in all."""
    from scipy.special import stdtr

    left, spent, found = statistic, 0.0, []
    for place, count in enumerate(LOOKS):
        due = alpha * (count / LOOKS[-1]) ** EXPONENT - spent
        stops = round(due * rows)
        at = np.partition(left[:, place], len(left) - stops)[len(left) - stops]
        found.append(float(stdtr(freedom[place], -float(at))))
        stopped = left[:, place] >= at
        spent += float(stopped.sum()) / rows
        left = left[~stopped]
    return found


def crossed(statistic: Array, freedom: Array, bounds: dict[int, float], *, rows: int) -> float:
    """The share of rows that some look rejects by the nominal errors `bounds`."""
    from scipy.special import stdtrit

    critical = np.array([-stdtrit(free, bounds[count]) for free, count in zip(freedom, LOOKS, strict=True)])
    return float((statistic >= critical).any(axis=1).sum()) / rows


def main(arguments: list[str]) -> int:
    """Print the table, and what the committed one spends on other rows."""
    rows = SMALL if "--small" in arguments else ROWS
    statistic, freedom = drawn(rows, SEED)
    for alpha in NOMINAL:
        found = nominal(statistic, freedom, rows=2 * rows, alpha=alpha)
        shown = ", ".join(f"{count}: {value:.5f}" for count, value in zip(LOOKS, found, strict=True))
        print(f"alpha {alpha:g}: {{{shown}}}")
    statistic, freedom = drawn(rows, VERIFYING_SEED)
    for alpha, bounds in NOMINAL.items():
        if bounds:
            print(f"alpha {alpha:g}: the committed table spends {crossed(statistic, freedom, dict(bounds), rows=2 * rows):.5f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
