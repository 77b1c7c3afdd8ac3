"""Run a command beside busy processes, several times in a row; the first failure ends it.

Each busy process allocates 50 MB, touches every page, and frees them, again and again. `--busy random` draws how many there are
for each run. Everything that is drawn comes from the seed, which is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import subprocess
import sys
import time

_BYTES = 50 << 20
_PAGE = 4096
_BUSY = f"""
import os
parent = os.getppid()
while os.getppid() == parent:
    block = bytearray({_BYTES})
    for at in range(0, {_BYTES}, {_PAGE}):
        block[at] = 1
    del block
"""


def main() -> int:
    """Run the command line's command; 0 if all runs ended with 0."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: under_load.py --runs 3 -- make tests")
    parser.add_argument("--busy", default="14", help="how many busy processes; `random`: 0 to 14, drawn for each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311
    print(f"seed {options.seed}", flush=True)
    for number in range(1, options.runs + 1):
        count = draw.randint(0, 14) if options.busy == "random" else int(options.busy)
        busy = [subprocess.Popen([sys.executable, "-I", "-c", _BUSY]) for _ in range(count)]
        began = time.monotonic()
        try:
            done = subprocess.run(options.command, check=False)
        finally:
            for process in busy:
                process.kill()
                process.wait()
        took, load = time.monotonic() - began, os.getloadavg()[0]
        result = f"load {load:.1f}, {took:.0f} s, status {done.returncode}"
        print(f"run {number} of {options.runs}: {count} busy, {result}", flush=True)
        if done.returncode != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
