"""Rows over several processes: workers select and run rows, the controller rents, reports and ends.

The controller does not collect, and most pytest runs have no rows. So it only listens, at an address in `workerinput`; a
worker that selected rows sends them there, then the controller opens the run and answers workers with the broker's address.
No file is involved: a controller that is killed leaves none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError, InfrastructureError
from pytest_glasshouse.plugin.session_hooks import RunHooks, refuse, run_inputs
from pytest_glasshouse.plugin.stash import RUN, engine_of
from pytest_glasshouse.plugin.terminal import header, write_line
from pytest_glasshouse.rows.overrides import RowItem
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run.plan import RunContext, RunPlan, Selected
from pytest_glasshouse.run.run import Run
from pytest_glasshouse.wire import frames, local_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pytest_glasshouse.broker.broker_socket import BrokerServer
    from pytest_glasshouse.observation.document import Facts
    from pytest_glasshouse.run.attempt_history import AttemptMessage
    from pytest_glasshouse.run.engine import Event


class WorkerInput(TypedDict):
    """What xdist hands to a worker, as far as this module reads it: the worker's id, and the controller's address."""

    workerid: str
    glasshouse_controller: str


class SentSelection(TypedDict):
    """What a worker selected: `Selected` as JSON, a row as declared and as it runs."""

    rows: dict[str, tuple[Facts, Facts]]
    models: dict[str, str | None]
    others: int
    notes: list[str]
    files: list[str]
    refused: str


class SentRun(TypedDict):
    """The run that the controller opened: its plan, and its broker's address if there is a broker."""

    plan: Facts
    address: str | None


class ControllerSocket:
    """Receives what workers selected, by their ids, and sends them the run. A thread in the controller."""

    def __init__(self) -> None:
        self._selected: dict[str, SentSelection] = {}
        self.run: SentRun | None = None
        self._server = local_socket.SocketServer("glasshouse-controller", self._serve)
        self.address = self._server.address

    def selected(self, worker: str) -> SentSelection | None:
        """What that worker sent, before xdist reported that its collection was finished."""
        return self._selected.get(worker)

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, GlasshouseError, ValueError, zlib.error):
            received = frames.receive(connection)
            if received is None:
                return
            message, payload = received
            if payload:
                self._selected[str(message["worker"])] = json.loads(zlib.decompress(payload))
            frames.send(connection, {}, b"" if payload or self.run is None else json.dumps(self.run).encode())


def _exchange(worker: WorkerInput, selection: SentSelection | None = None) -> SentRun | None:
    """In a worker: send the controller a selection, or ask it for the run."""
    try:
        with local_socket.connect(worker["glasshouse_controller"]) as connection:
            payload = (
                b"" if selection is None else zlib.compress(json.dumps(selection).encode())
            )  # thousands of rows fit into a frame
            frames.send(connection, {"worker": worker["workerid"]}, payload)
            received = frames.receive(connection)
    except OSError as error:
        raise InfrastructureError(f"the controller does not answer ({error})") from None
    answer: SentRun | None = json.loads(received[1]) if received is not None and received[1] else None
    return answer


class Controller:
    """xdist's hooks in the controller. `make_plan` is called once, when the first worker has rows."""

    def __init__(self, config: pytest.Config, make_plan: Callable[[], RunPlan]) -> None:
        self._config = config
        self._make_plan = make_plan
        self._socket: ControllerSocket | None = None
        self._server: BrokerServer | None = None

    def pytest_configure_node(self, node: Any) -> None:
        if self._socket is None:
            self._socket = ControllerSocket()
        node.workerinput["glasshouse_controller"] = self._socket.address

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        if self._socket is None or self._config.stash.get(RUN, None) is not None:
            return
        selection = self._socket.selected(node.gateway.id)
        if selection is not None:
            try:
                _refuse_dist_each(self._config)
                self._open(self._socket, _selected(selection))
            except GlasshouseError as error:
                refuse(error)

    def _open(self, listening: ControllerSocket, selected: Selected) -> None:
        config, plan = self._config, self._make_plan()
        run = Run.open(run_inputs(config), plan, selected)
        config.stash[RUN] = run
        config.pluginmanager.register(RunHooks(run, config), "glasshouse-run")
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and config.get_verbosity() >= 0:
            reporter.ensure_newline()
            notes = (*selected.notes, *plan.notes)
            for line in header(run.options, run_id=plan.run_id, rows=len(selected.rows), notes=notes, short_names_taken=()):
                write_line(reporter, line)
        if run.broker is not None:
            self._server = run.engine.serve(run.broker, self._on_event)
        _forbid_worker_restarts(config)
        address = None if self._server is None else self._server.address
        listening.run = {"plan": dataclasses.asdict(run.plan), "address": address}

    def _on_event(self, event: Event) -> None:
        run = self._config.stash.get(RUN, None)
        if run is not None and event.get("type") == "progress":
            run.live.show(event, worker=str(event.get("worker", "")))
        elif run is not None and event.get("type") == "attempt":
            run.store.update(str(event["nodeid"]), event["message"])

    def pytest_unconfigure(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _refuse_dist_each(config: pytest.Config) -> None:
    """With `--dist each` every row would have several records, and nothing says which of them counts."""
    if config.getoption("dist", None) == "each":
        raise ConfigurationError("--dist each runs every row on every worker; expected every row once: use --dist load")


def _forbid_worker_restarts(config: pytest.Config) -> None:
    """A replacement worker would take a new allocation for work that was lost. The user may still ask for one."""
    session = config.pluginmanager.get_plugin("dsession")
    if session is not None and config.getoption("maxworkerrestart", None) is None:
        session._max_worker_restart = 0  # noqa: SLF001 - decided once rows are known, after xdist read its option


def send_selection(config: pytest.Config, selected: Selected) -> None:
    """In a worker: send what was selected. To be called before xdist reports that collection has finished."""
    selection: SentSelection = {
        "rows": {nodeid: (each.declared.to_json(), each.row.to_json()) for nodeid, each in selected.rows.items()},
        "models": {nodeid: each.model for nodeid, each in selected.rows.items()},
        "others": selected.others,
        "notes": list(selected.notes),
        "files": list(selected.files),
        "refused": selected.refused,
    }
    _exchange(_worker_input(config), selection)


def _selected(sent: SentSelection) -> Selected:
    rows = {
        nodeid: RowItem(declared=RowSpec.from_json(declared), row=RowSpec.from_json(row), model=sent["models"].get(nodeid))
        for nodeid, (declared, row) in sent["rows"].items()
    }
    return Selected(
        rows=rows, others=sent["others"], notes=tuple(sent["notes"]), files=tuple(sent["files"]), refused=sent["refused"]
    )


def open_context(config: pytest.Config) -> RunContext:
    """In a worker: the context that leads to the controller's broker. The run is open before xdist hands out the first test."""
    worker = _worker_input(config)
    run = _exchange(worker)
    if run is None:
        raise InfrastructureError("expected a run that the controller has opened, saw none; run again")
    name = str(worker["workerid"])
    plan = RunPlan(**run["plan"])
    if run["address"] is None:
        return RunContext(plan=plan, worker=name, broker=None, on_progress=lambda _event: None)
    client = engine_of(config).connect(run["address"], worker=name)

    def update(nodeid: str, message: AttemptMessage) -> None:
        client.event({"type": "attempt", "phase": "attempt", "worker": name, "nodeid": nodeid, "message": message})

    return RunContext(
        plan=plan,
        worker=name,
        broker=client,
        on_progress=lambda event: client.event({"type": "progress", "worker": name, **event}),
        update=update,
    )


def _worker_input(config: pytest.Config) -> WorkerInput:
    given: WorkerInput = config.workerinput  # type: ignore[attr-defined]
    return given
