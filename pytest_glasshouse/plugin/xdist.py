"""Rows over several processes: workers select and run rows, the controller rents, reports and ends.

The controller does not collect, and most pytest runs have no rows. So it only listens, at an address in `workerinput`; a
worker that selected rows tells them there, then the controller opens the run, and whoever asks is told the broker's address.
Nothing of it is a file: a controller that is killed leaves none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError, InfrastructureError
from pytest_glasshouse.plugin.session_hooks import RunHooks, refuse, session_of
from pytest_glasshouse.plugin.stash import RUN, engine_of
from pytest_glasshouse.plugin.terminal import header, tell
from pytest_glasshouse.rows.overrides import RowItem
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run.plan import RunContext, RunPlan, Selected
from pytest_glasshouse.run.run import NoGrants, Run
from pytest_glasshouse.wire import frames, local_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pytest_glasshouse.run.engine import ServerLike

ADDRESS = "glasshouse_controller"


class ControllerSocket:
    """Where workers tell what they selected, by their ids, and ask for the way to the run. A thread in the controller."""

    def __init__(self) -> None:
        self._selected: dict[str, dict[str, Any]] = {}
        self.run: dict[str, Any] | None = None
        self._server = local_socket.SocketServer("glasshouse-controller", self._serve)
        self.address = self._server.address

    def selected(self, worker: str) -> dict[str, Any] | None:
        """What that worker told, before it said that its collection was finished."""
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


def _ask(worker: Mapping[str, Any], told: object = None) -> Any:
    """In a worker: tell the desk something, or ask it for the run."""
    try:
        with local_socket.connect(worker[ADDRESS]) as connection:
            payload = b"" if told is None else zlib.compress(json.dumps(told).encode())  # thousands of rows fit into a frame
            frames.send(connection, {"worker": worker["workerid"]}, payload)
            received = frames.receive(connection)
    except OSError as error:
        raise InfrastructureError(f"the controller does not answer ({error})") from None
    return json.loads(received[1]) if received is not None and received[1] else None


class Controller:
    """xdist's hooks in the controller. `make_plan` is called once, when the first worker has rows."""

    def __init__(self, config: pytest.Config, make_plan: Callable[[], RunPlan]) -> None:
        self._config = config
        self._make_plan = make_plan
        self._socket: ControllerSocket | None = None
        self._server: ServerLike | None = None

    def pytest_configure_node(self, node: Any) -> None:
        if self._socket is None:
            self._socket = ControllerSocket()
        node.workerinput[ADDRESS] = self._socket.address

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        if self._socket is None or self._config.stash.get(RUN, None) is not None:
            return
        told = self._socket.selected(node.gateway.id)
        if told is not None:
            try:
                _refuse_each(self._config)
                self._open(self._socket, _selected(told))
            except GlasshouseError as error:
                refuse(error)

    def _open(self, reader: ControllerSocket, selected: Selected) -> None:
        config, plan = self._config, self._make_plan()
        run = Run.open(session_of(config), plan, selected)
        config.stash[RUN] = run
        config.pluginmanager.register(RunHooks(run, config), "glasshouse-run")
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
        reader.run = {"plan": dataclasses.asdict(run.plan), "address": address}

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
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _refuse_each(config: pytest.Config) -> None:
    """Every row by every worker: each of them once per worker, and no way to say which counts."""
    if config.getoption("dist", None) == "each":
        raise ConfigurationError("--dist each runs every row on every worker; expected every row once: use --dist load")


def _no_blind_restart(config: pytest.Config) -> None:
    """A replacement worker would take a new allocation for work that was lost. The user may still ask for it."""
    session = config.pluginmanager.get_plugin("dsession")
    if session is not None and config.getoption("maxworkerrestart", None) is None:
        session._max_worker_restart = 0  # noqa: SLF001 - decided once rows are known, after xdist read its option


def tell_controller(config: pytest.Config, selected: Selected) -> None:
    """In a worker: say what was selected. To be called before xdist says that collection has finished."""
    told = {
        "rows": {nodeid: [each.declared.to_json(), each.row.to_json()] for nodeid, each in selected.rows.items()},
        "models": {nodeid: each.model for nodeid, each in selected.rows.items()},
        "others": selected.others,
        "notes": list(selected.notes),
        "files": list(selected.files),
        "refused": selected.refused,
    }
    _ask(_worker_input(config), told)


def _selected(told: Mapping[str, Any]) -> Selected:
    rows = {
        nodeid: RowItem(declared=RowSpec.from_json(declared), row=RowSpec.from_json(row), model=told["models"].get(nodeid))
        for nodeid, (declared, row) in told["rows"].items()
    }
    return Selected(
        rows=rows, others=told["others"], notes=tuple(told["notes"]), files=tuple(told["files"]), refused=told["refused"]
    )


def open_context(config: pytest.Config) -> RunContext:
    """In a worker: the way to the controller's broker. The run is open before xdist hands out the first test."""
    worker = _worker_input(config)
    told = _ask(worker)
    if told is None:
        raise InfrastructureError("the controller has opened no run")
    name = str(worker["workerid"])
    if told["address"] is None:
        return RunContext(plan=RunPlan(**told["plan"]), worker=name, grants=NoGrants(), on_progress=lambda _event: None)
    client = engine_of(config).connect(told["address"], worker=name)
    return RunContext(
        plan=RunPlan(**told["plan"]),
        worker=name,
        grants=client,
        on_progress=lambda event: client.event({"type": "progress", "worker": name, **event}),
        keep=lambda nodeid, record: client.event(
            {"type": "kept", "phase": "kept", "worker": name, "nodeid": nodeid, "record": record}
        ),
    )


def _worker_input(config: pytest.Config) -> dict[str, Any]:
    given: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
    return given
