"""What the plugin adds to the start of pytest: `pytest --co` in an empty directory with and without it, as a paired ratio.

    python benchmarks/startup.py [PAIRS]

Prints and judges nothing; 1.05 is the aim. Pairs alternate their order at random (the seed is printed), so that a machine that
slows down meanwhile slows both; the interval is Student's t over the pairs' log ratios.
"""

from __future__ import annotations

import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SEED = 20261120
#: A plugin with nothing in it: `-p NAME` alone makes pytest read the entry points of every installed distribution.
_EMPTY = "glasshouse_empty_plugin"


def cpu_seconds(plugin: str, places: str) -> float:
    """CPU time of one `pytest --co` with one plugin, in an empty directory."""
    with tempfile.TemporaryDirectory() as empty:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Exit 5: nothing was collected. Every other plugin of the environment is left out of both.
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--co", "-q", "-p", "no:cacheprovider", "-p", plugin],
            cwd=empty,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 5:  # noqa: PLR2004
        raise SystemExit(f"pytest --co ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    from scipy import stats

    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    draw = random.Random(SEED)  # noqa: S311
    variants = {"with": "pytest_glasshouse.plugin.hooks", "without": _EMPTY}
    logs: list[float] = []
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as places:
        (Path(places) / f"{_EMPTY}.py").write_text("")
        for plugin in variants.values():
            cpu_seconds(plugin, places)  # byte code is compiled once, outside the measurement
        for _ in range(pairs):
            order = ["with", "without"]
            draw.shuffle(order)
            once = {name: cpu_seconds(variants[name], places) for name in order}
            for name, value in once.items():
                seconds[name].append(value)
            logs.append(math.log(once["with"] / once["without"]))
    interval = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    print(f"pytest --co in an empty directory, CPU seconds, {pairs} pairs, seed {SEED}")
    for name, values in seconds.items():
        print(f"  {name:8} the plugin: median {statistics.median(values):.3f} s, least {min(values):.3f} s")
    low, high = math.exp(interval.low), math.exp(interval.high)
    print(f"  ratio {math.exp(statistics.fmean(logs)):.3f}, 95 % interval {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
