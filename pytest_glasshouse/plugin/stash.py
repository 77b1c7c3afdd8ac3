"""Every stash key of the plugin, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.plugin.row_attempts import Try
    from pytest_glasshouse.rows.overrides import RowItem
    from pytest_glasshouse.run.engine import Engine
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.run.plan import RunContext, RunPlan
    from pytest_glasshouse.run.resume import Earlier
    from pytest_glasshouse.run.run import Run

#: On the config: what the user asked for.
OPTIONS: pytest.StashKey[Options] = pytest.StashKey()
#: On the config: the short option names that somebody else owns.
TAKEN: pytest.StashKey[Sequence[str]] = pytest.StashKey()
#: On the config: what carries rows out, when a test of the plugin puts its own there.
ENGINE: pytest.StashKey[Engine] = pytest.StashKey()
#: On the config: what every process of the run agrees on.
PLAN: pytest.StashKey[RunPlan] = pytest.StashKey()
#: On the config of the process that rents: the run that this one goes on with.
EARLIER: pytest.StashKey[Earlier] = pytest.StashKey()
#: On the config of the process that rents (the controller, or the only one): this run, once rows were selected.
RUN: pytest.StashKey[Run] = pytest.StashKey()
#: On the config of the process that runs row tests: the way to the broker.
RUN_CONTEXT: pytest.StashKey[RunContext] = pytest.StashKey()
#: On an item: the row it runs.
ROW: pytest.StashKey[RowItem] = pytest.StashKey()
#: On an item: every attempt at its row in this process, oldest first.
TRIES: pytest.StashKey[list[Try]] = pytest.StashKey()
#: On an item: the record of its last attempt.
RECORD: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
#: On an item: the results of the tamper suite it recorded.
TAMPER: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
#: On the config: why the rows that were collected cannot run.
REFUSED: pytest.StashKey[str] = pytest.StashKey()
#: On the config: notes about rows left out, until the header is written.
NOTES: pytest.StashKey[Sequence[str]] = pytest.StashKey()


def engine_of(config: pytest.Config) -> Engine:
    """What carries rows out in this pytest process."""
    from pytest_glasshouse.run.engine import RowEngine

    if ENGINE not in config.stash:
        config.stash[ENGINE] = RowEngine()
    return config.stash[ENGINE]
