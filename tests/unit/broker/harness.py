"""A run that rents, as a process of its own, for tests that kill it. Real broker, real client, real reaper; guests only answer hello.

    python -m tests.unit.broker.harness PROVIDER RUN_DIRECTORY TIMING ROWS

It prints one line per grant and then waits for its standard input's end.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.timing import Timing
from pytest_glasshouse.rows.spec import RowSpec
from tests.limits import HANG_S
from tests.unit.broker.scripted import Agents

ROWS = [
    RowSpec(name="one", workload="mlp", gpu="a4000", order="raw-first", target_s=1.0),
    RowSpec(name="two", workload="mlp", gpu="h100", order="raw-first", target_s=1.0),
]


def main() -> None:
    """Rent, print it, wait, end."""
    provider, directory, timing, rows = sys.argv[1:]
    agents = Agents()
    agents.hello["device"] = "cpu"
    options = BrokerOptions(
        provider=provider,
        run_id=Path(directory).name,
        run_dir=Path(directory),
        budget_usd=5.0,
        allow_simulated=True,
        timing=Timing.from_json(timing),
        boot_timeout_s=HANG_S,
    )
    broker = Broker(options, connection=agents)
    for row in ROWS[: int(rows)]:
        grant = broker.acquire(row)
        sys.stdout.write(f"granted {grant.instance_id}\n")
        sys.stdout.flush()
    sys.stdin.read()
    sys.stdout.write(f"{broker.end_all().status}\n")
    agents.close()


if __name__ == "__main__":
    main()
