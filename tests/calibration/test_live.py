"""The live calibration: on this machine, now, with neighbours. Everything below was written down before its first full run."""

from __future__ import annotations

from tests.calibration.live import Design
from tests.calibration.stepper import Work

SEED = 20_261_121
ROWS = 24
#: True overheads of 0, 0.4975, 1.9608 and 5 %.
COSTS = (Work(), Work(extra=1, per=200), Work(extra=1, per=50), Work(extra=1, per=19))
DEFERRED = Work(extra=1, per=19, deferred=True)
DESIGN = Design()
