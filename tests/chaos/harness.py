"""The host of a chaos run: broker, socket for workers, signals, proof. As the plugin's controller does it, without pytest.

python -m tests.chaos.harness FOLDER SETTINGS      SETTINGS: JSON, see `run.Running`
python -m tests.chaos.harness --worker FOLDER SETTINGS ADDRESS NUMBER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.broker_socket import BrokerClient, BrokerServer
from pytest_glasshouse.broker.connection import Connection
from pytest_glasshouse.broker.timing import Timing
from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.providers.base import Provider, Routed
from pytest_glasshouse.providers.place_settings import OwnMachines
from pytest_glasshouse.providers.registry import open_provider
from pytest_glasshouse.run.signals import Signals
from tests.chaos.connection import ChaosConnection, ChaosHostConnection
from tests.chaos.leg import ROWS, run_row, write


def _worker(folder: Path, settings: dict[str, Any], address: str, number: int) -> int:
    name = f"gw{number}"
    client = BrokerClient(address, worker=name)
    for row in range(number, settings["rows"], settings["workers"]):
        try:
            run_row(row, client, folder, worker=name, dishonest=row in settings["dishonest"])
        except GlasshouseError as error:
            write(folder / "rows", {"row": ROWS[row].name, "outcome": "infrastructure", "reason": str(error)})
    client.close()
    return 0


def _host(folder: Path, settings: dict[str, Any]) -> int:
    options = BrokerOptions(
        provider=settings["provider"],
        run_id=settings["run_id"],
        run_dir=folder,
        budget_usd=5.0,
        allow_simulated=True,
        timing=Timing.from_json(settings["timing"]),
        boot_timeout_s=settings["boot_s"],
        machines=OwnMachines.from_environment(os.environ),
    )
    connection: Connection = ChaosConnection(train_s=settings["train_s"], boot_s=settings["boot_s"])
    providers: dict[str, Provider] = {}
    if settings["provider"] in ("ssh", "slurm"):
        provider = open_provider(settings["provider"], allow_simulated=True, machines=options.machines)
        providers[provider.name] = provider
        connection = ChaosHostConnection(
            cast("Routed", provider),
            train_s=settings["train_s"],
            boot_s=settings["boot_s"],
            told=settings["told"],
            queue_s=options.machines.queue_timeout_s,
        )
    broker = Broker(options, providers=providers, connection=connection)
    signals = Signals(lambda _name: broker.signal_end())
    signals.install()
    workers: list[subprocess.Popen[bytes]] = []
    try:
        broker.plan(ROWS[: settings["rows"]])
        if settings["workers"]:
            server = BrokerServer(broker, on_event=lambda _event: None)
            for number in range(settings["workers"]):
                arguments = ["--worker", str(folder), json.dumps(settings), server.address, str(number)]
                workers.append(subprocess.Popen([sys.executable, "-m", "tests.chaos.harness", *arguments]))
                (folder / f"worker{number}.pid").write_text(str(workers[-1].pid))
            for worker in workers:
                worker.wait()
            server.close()
        else:
            for row in range(settings["rows"]):
                run_row(row, broker, folder, worker="main", dishonest=row in settings["dishonest"])
    except KeyboardInterrupt:
        pass
    finally:
        cleanup = broker.end_all()
        write(folder / "end", {"status": cleanup.status, "detail": cleanup.detail})
        for worker in workers:
            worker.kill()
    return 0 if cleanup.status in ("proven", "nothing-rented") else 10


def main() -> int:
    """As host or as worker."""
    if sys.argv[1] == "--worker":
        return _worker(Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    threading.current_thread().name = "chaos-host"
    code = _host(Path(sys.argv[1]), json.loads(sys.argv[2]))
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
