"""The product's engine, but its guests train with numpy: for whole runs of pytest whose subject is not the training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run.engine import Engine
from pytest_glasshouse.run.options import Options
from pytest_glasshouse.run.plan import ResolvedModel
from tests.numpy_guest.archive import numpy_provider
from tests.numpy_guest.bytecode import use_kept

#: The variable that says where byte code is kept (`bytecode.keep_in_cache`).
KEPT = "GUEST_BYTECODE"
#: What a project's conftest.py needs for it; the root of this repository has to be importable.
CONFTEST = """
from pytest_glasshouse.plugin.stash import ENGINE
from tests.numpy_guest.engine import NumpyEngine

def pytest_configure(config):
    config.stash[ENGINE] = NumpyEngine()
"""


class NumpyEngine(Engine):
    """For rows of the workload mlp on the mock provider. It needs no torch."""

    def broker(
        self,
        options: Options,
        rows: Sequence[RowSpec],
        *,
        run_id: str,
        run_dir: Path,
        tell: Callable[[str, str], None],
        models: Mapping[str, ResolvedModel] | None = None,
    ) -> Broker:
        del rows, models
        provider = numpy_provider(options.faults)
        use_kept(provider, "numpy", below=Path(os.environ[KEPT]))
        return Broker(
            BrokerOptions(
                provider=options.provider, run_id=run_id, run_dir=run_dir, faults=options.faults,
                allocation="row" if options.allocation == "row" else "shared",
                boot_timeout_s=options.boot_timeout_s, leg_timeout_s=options.leg_timeout_s,
            ),
            providers={"mock": provider},
            emit=tell,
        )  # fmt: skip
