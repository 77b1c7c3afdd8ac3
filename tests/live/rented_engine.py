"""The engine of a rented run whose guests train with numpy and rest; the test may set its timing and put its clock forward.

`Rental.run` writes a `conftest.py` that puts it into the config's stash, so it runs in the process of that pytest. Everything else is the
product's: command line, broker, reaper, provider's client, ssh, installer, agent, legs.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.broker.broker import Broker
from pytest_glasshouse.broker.pricing import disk_gb
from pytest_glasshouse.broker.rented_connection import RentedConnection
from pytest_glasshouse.broker.timing import Clock, Timing
from pytest_glasshouse.broker.tunnel_connection import RoutedConnection, TunnelConnection
from pytest_glasshouse.providers.base import Routed
from pytest_glasshouse.run.engine import Engine
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.numpy_guest.resting import resting_archive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.run.plan import ResolvedModel

#: A file in the project's folder: by how many seconds the broker's wall clock is ahead.
AHEAD = "clock-ahead"

CONFTEST = """
from pytest_glasshouse.plugin.stash import ENGINE
from tests.live.rented_engine import RentedEngine

def pytest_configure(config):
    config.stash[ENGINE] = RentedEngine({folder!r}, {timing!r})
"""


class RentedEngine(Engine):
    """See the module. `timing` as JSON; an empty one is the provider's own."""

    def __init__(self, folder: str, timing: str) -> None:
        super().__init__()
        self._ahead = Path(folder) / AHEAD
        self._timing = Timing.from_json(timing) if timing else None

    def check_material(
        self, rows: Sequence[tuple[RowSpec, str | None]], options: Options, *, seed: int, rehearsed: bool
    ) -> dict[str, ResolvedModel]:
        """As ever, but no library builds the model: the guests have none that could."""
        del rehearsed
        return super().check_material(rows, options, seed=seed, rehearsed=False)

    def broker(self, options: Options, rows: Sequence[RowSpec], **named: Any) -> Broker:
        made = super().broker(options, rows, **named)
        provider: Any = made._fleet.provider(options.provider)
        provider.archive_sha256 = sha256_hex(resting_archive())
        connection: TunnelConnection
        if isinstance(provider, Routed):
            connection = RoutedConnection(
                provider, boot_timeout_s=options.boot_timeout_s, queue_timeout_s=options.machines.queue_timeout_s,
                emit=named["tell"], archive=resting_archive,
            )  # fmt: skip
        else:
            connection = RentedConnection(
                image=options.image,
                boot_timeout_s=options.boot_timeout_s,
                disk_gb=disk_gb(made._options.model_bytes, shared=True),
                emit=named["tell"],
                archive=resting_archive,
            )
        return Broker(
            replace(made._options, timing=self._timing),
            providers={provider.name: provider},
            clock=Clock(wall=self._wall),
            connection=connection,
            emit=named["tell"],
        )

    def _wall(self) -> float:
        ahead_s = float(self._ahead.read_text()) if self._ahead.exists() else 0.0
        return time.time() + ahead_s
