"""Group-sequential looks: when a row may be judged under its limit before its last round, and by which nominal error.

After each of `LOOKS` rounds the bounds are looked at. Error is spent as `alpha (rounds / 24) ** 1.5` (K. K. G. Lan and D. L.
DeMets, Biometrika 70, 1983; the power family), so that over all looks together `alpha` is spent and no more. `NOMINAL` is the
one-sided tail of Student's t that belongs to a look; `benchmarks/sequential_bounds.py` derives it. Bounds by these tails hold at
all looks at once (C. Jennison and B. W. Turnbull's repeated confidence intervals): wherever a row stopped, and for any limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: The rounds after which a row may end.
LOOKS = (5, 7, 9, 12, 16, 20, 24)
#: Of the share of rounds, in the error spent.
EXPONENT = 1.5

#: By the one-sided error over all looks: the one-sided nominal error of each.
NOMINAL: Mapping[float, Mapping[int, float]] = MappingProxyType(
    {
        0.05: MappingProxyType({5: 0.00474, 7: 0.00414, 9: 0.00539, 12: 0.00903, 16: 0.01509, 20: 0.02129, 24: 0.02822}),
        0.025: MappingProxyType({5: 0.00236, 7: 0.00197, 9: 0.00251, 12: 0.00422, 16: 0.00699, 20: 0.00977, 24: 0.01279}),
    }
)


def nominal_tail(tail: float, rounds: int) -> float:
    """The tail that a look after `rounds` rounds has of `tail` in all; after any other number the least of them.

    Raises `ValueError` for a `tail` without a table.
    """
    for alpha, looks in NOMINAL.items():
        if abs(alpha - tail) < 1e-9:  # noqa: PLR2004  (0.05 and (1 - 0.9) / 2 differ in the last digit)
            return looks.get(rounds, min(looks.values()))
    raise ValueError(f"no looks spend error of {tail:g} on a side; expected {' or '.join(f'{each:g}' for each in NOMINAL)}")
