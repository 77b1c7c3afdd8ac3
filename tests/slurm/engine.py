"""The engine of a run on the tests' Slurm whose guests train with numpy and rest. All else is the product's.

`Site` writes a `conftest.py` that puts it into the config's stash, so it runs in the process of that pytest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.broker.broker import Broker
from pytest_glasshouse.broker.timing import Timing
from pytest_glasshouse.broker.tunnel_connection import RoutedConnection
from pytest_glasshouse.run.engine import Engine
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.numpy_guest.resting import resting_archive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.run.plan import ResolvedModel

#: As on any place of the user's own, and asked more often: this controller has nothing else to do.
QUICK = Timing(poll_s=0.2, search_s=3.0, settle_s=0.3, give_up_s=30.0, looks=2, bootstrap_s=120.0, reserve_s=0.0)

CONFTEST = """
from pytest_glasshouse.plugin.stash import ENGINE
from tests.slurm.engine import SlurmEngine

def pytest_configure(config):
    config.stash[ENGINE] = SlurmEngine()
"""


class SlurmEngine(Engine):
    """See the module."""

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
        connection = RoutedConnection(
            provider, boot_timeout_s=options.boot_timeout_s, queue_timeout_s=options.machines.queue_timeout_s, emit=named["tell"],
            archive=resting_archive,
        )  # fmt: skip
        return Broker(
            replace(made._options, timing=QUICK), providers={provider.name: provider}, connection=connection, emit=named["tell"]
        )
