"""Every stash key of the plugin, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.plugin.row_attempts import RowAttempt
    from pytest_glasshouse.rows.overrides import RowItem
    from pytest_glasshouse.run.engine import Engine
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.run.plan import RunContext, RunPlan
    from pytest_glasshouse.run.resume import EarlierRun
    from pytest_glasshouse.run.run import Run
    from pytest_glasshouse.wire.canonical import Json

#: On the config: what the user asked for.
OPTIONS: pytest.StashKey[Options] = pytest.StashKey()
#: On the config: the short option names that another plugin or conftest file has defined.
SHORT_NAMES_TAKEN: pytest.StashKey[Sequence[str]] = pytest.StashKey()
#: On the config: what carries rows out; a test of the plugin puts its own there.
ENGINE: pytest.StashKey[Engine] = pytest.StashKey()
#: On the config: what every process of the run agrees on.
PLAN: pytest.StashKey[RunPlan] = pytest.StashKey()
#: On the config of the process that rents: the run that this one resumes.
EARLIER: pytest.StashKey[EarlierRun] = pytest.StashKey()
#: On the config of the process that rents (the controller, or the only one): this run, once rows were selected.
RUN: pytest.StashKey[Run] = pytest.StashKey()
#: On the config of the process that runs row tests: the way to the broker.
RUN_CONTEXT: pytest.StashKey[RunContext] = pytest.StashKey()
#: On an item: the row it runs.
ROW: pytest.StashKey[RowItem] = pytest.StashKey()
#: On an item: every attempt at its row in this process, oldest first.
ATTEMPTS: pytest.StashKey[list[RowAttempt]] = pytest.StashKey()
#: On an item: the record of its last attempt.
RECORD: pytest.StashKey[Record] = pytest.StashKey()
#: On an item: the results of the tamper suite it recorded.
TAMPER: pytest.StashKey[list[dict[str, Json]]] = pytest.StashKey()
#: On the config: why the rows that were collected cannot run.
REFUSED: pytest.StashKey[str] = pytest.StashKey()
#: On the config: notes about deselected rows, until the header is written.
NOTES: pytest.StashKey[Sequence[str]] = pytest.StashKey()


def options_of(config: pytest.Config) -> Options:
    """What the user asked for. Where that was nothing, the value is made once it is needed."""
    if OPTIONS not in config.stash:
        from pytest_glasshouse.plugin.options import read

        config.stash[OPTIONS] = read(config, {})  # the environment had none when pytest was configured
    return config.stash[OPTIONS]


def engine_of(config: pytest.Config) -> Engine:
    """What carries rows out in this pytest process."""
    from pytest_glasshouse.run.engine import Engine

    if ENGINE not in config.stash:
        config.stash[ENGINE] = Engine()
    return config.stash[ENGINE]
