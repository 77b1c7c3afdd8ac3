"""Rows over several processes: workers select and run rows, the controller rents, reports and ends.

The controller does not collect, and most pytest runs have no rows. So it only names a private folder in `workerinput`; a
worker that selected rows writes them there, and then the controller opens the run and leaves the broker's address there.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.plan import Door, Plan, Selected, engine_of
from pytest_glasshouse.reporting import RunHooks
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run import NoGrants, Run, refuse
from pytest_glasshouse.selection import RowItem
from pytest_glasshouse.stash import RUN
from pytest_glasshouse.terminal import header, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.engine import ServerLike

FOLDER = "glasshouse_folder"


class Controller:
    """xdist's hooks in the controller. `make_plan` is called once, when the first worker has rows."""

    def __init__(self, config: pytest.Config, make_plan: Callable[[], Plan]) -> None:
        self._config = config
        self._make_plan = make_plan
        self._folder: Path | None = None
        self._server: ServerLike | None = None

    def pytest_configure_node(self, node: Any) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="glasshouse-"))
        node.workerinput[FOLDER] = str(self._folder)

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        if self._folder is None or self._config.stash.get(RUN, None) is not None:
            return
        told = self._folder / f"{node.gateway.id}.json"
        if told.is_file():
            try:
                self._open(self._folder, _selected(json.loads(told.read_text(encoding="utf-8"))))
            except GlasshouseError as error:
                refuse(error)

    def _open(self, folder: Path, selected: Selected) -> None:
        config, plan = self._config, self._make_plan()
        run = Run.open(config, plan, selected)
        config.stash[RUN] = run
        config.pluginmanager.register(RunHooks(run), "glasshouse-run")
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and config.get_verbosity() >= 0:
            reporter.ensure_newline()
            notes = (*selected.notes, *plan.notes)
            for line in header(run.options, run_id=plan.run_id, rows=len(selected.rows), notes=notes, taken=()):
                tell(reporter, line)
        if run.broker is not None:
            self._server = run.engine.serve(run.broker, self._on_event)
        _no_blind_restart(config)
        address = None if self._server is None else self._server.address
        _write(folder / "run.json", {"plan": dataclasses.asdict(run.plan), "address": address})

    def _on_event(self, event: Mapping[str, Any]) -> None:
        run = self._config.stash.get(RUN, None)
        if run is not None and event.get("type") == "progress":
            run.live.show(event, worker=str(event.get("worker", "")))
        elif run is not None and event.get("type") == "kept":
            run.keep(str(event["nodeid"]), event["record"])

    def pytest_unconfigure(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _no_blind_restart(config: pytest.Config) -> None:
    """A replacement worker would take a new allocation for work that was lost. The user may still ask for it."""
    session = config.pluginmanager.get_plugin("dsession")
    if session is not None and config.getoption("maxworkerrestart", None) is None:
        session._max_worker_restart = 0  # noqa: SLF001 - decided once rows are known, after xdist read its option


def tell_controller(config: pytest.Config, selected: Selected) -> None:
    """In a worker: write down what was selected. To be called before xdist says that collection has finished."""
    told = {
        "rows": {nodeid: [each.declared.to_dict(), each.row.to_dict()] for nodeid, each in selected.rows.items()},
        "others": selected.others,
        "notes": list(selected.notes),
        "files": list(selected.files),
    }
    worker = _worker_input(config)
    _write(Path(worker[FOLDER]) / f"{worker['workerid']}.json", told)


def _selected(told: Mapping[str, Any]) -> Selected:
    rows = {
        nodeid: RowItem(declared=RowSpec.from_dict(declared), row=RowSpec.from_dict(row))
        for nodeid, (declared, row) in told["rows"].items()
    }
    return Selected(rows=rows, others=told["others"], notes=tuple(told["notes"]), files=tuple(told["files"]))


def open_door(config: pytest.Config) -> Door:
    """In a worker: the way to the controller's broker. The run is open before xdist hands out the first test."""
    worker = _worker_input(config)
    told = json.loads((Path(worker[FOLDER]) / "run.json").read_text(encoding="utf-8"))
    name = str(worker["workerid"])
    if told["address"] is None:
        return Door(plan=Plan(**told["plan"]), worker=name, grants=NoGrants(), on_progress=lambda _event: None)
    client = engine_of(config).connect(told["address"], worker=name)
    return Door(
        plan=Plan(**told["plan"]),
        worker=name,
        grants=client,
        on_progress=lambda event: client.event({"type": "progress", "worker": name, **event}),
        keep=lambda nodeid, record: client.event({"type": "kept", "nodeid": nodeid, "record": record}),
    )


def _worker_input(config: pytest.Config) -> dict[str, Any]:
    given: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
    return given


def _write(path: Path, content: object) -> None:
    """Whole or not at all: the reader is another process."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)
