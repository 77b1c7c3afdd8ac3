"""The beginning of a row whose base model has to reach its guest: a real channel to a real agent of this process, or to one that lies."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, cast

from pytest_glasshouse.agent.agent import Agent
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.legs.base_model import bring
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.model_sources import ModelSources
from pytest_glasshouse.legs.round import Round
from pytest_glasshouse.observation.document import ModelArrival
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire import frames
from pytest_glasshouse.workloads.base import BaseModel, HubSource, Material
from pytest_glasshouse.workloads.model_files import listed_content
from tests.limits import HANG_S
from tests.unit.agent.arriving_models import TOTAL
from tests.unit.legs.lying_row import granted

if TYPE_CHECKING:
    from tests.unit.channel.lying_agent import LyingAgent

REPO, COMMIT = "org/model", "c" * 40


class ServedAgent:
    """Serves an agent at an address, as the product does, but for connections that are cut.

    `cut(op, number)` says of every request, counted by its kind from 0, whether its connection ends `before` it is carried out or
    `after`, without an answer.
    """

    def __init__(self, agent: Agent, cut: Callable[[str, int], str] = lambda _op, _number: "") -> None:
        self._agent, self._cut = agent, cut
        self.counts: dict[str, int] = {}
        self._directory = tempfile.TemporaryDirectory(prefix="gl-")
        self.address = str(Path(self._directory.name) / "agent.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._directory.cleanup()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ProtocolError):
            while (received := frames.receive(connection)) is not None:
                op = str(received[0]["op"])
                number = self.counts[op] = self.counts.get(op, -1) + 1
                cut = self._cut(op, number)
                if cut == "before":
                    return
                reply, payload = self._agent.handle(*received)
                if cut == "after":
                    return
                frames.send(connection, reply, payload)


def base_of(
    files: Mapping[str, bytes], *, directory: Path | None = None, hub: str | None = None, on_host: bool = True
) -> BaseModel:
    """A base model of these files: in memory or in a directory, and on a hub where `hub` is its address."""
    source = None if hub is None else HubSource(endpoint=hub, repo=REPO, commit=COMMIT)
    return BaseModel(
        model_id="org/model", revision=None, files=listed_content(files), content={} if directory else files,
        directory=directory, hub=source, weights=None if on_host else {},
    )  # fmt: skip


def first_round(
    address: str, base: BaseModel | None, told: list[Progress] | None = None, *, reconnect_s: float = HANG_S, **grant: Any
) -> Round:
    """A round before its first leg, on a rented guest at an address."""
    given = replace(granted(cast("LyingAgent", SimpleNamespace(address=address))), **{"remote": True, **grant})
    return Round(
        row=RowSpec(name="row", workload="lora", gpu="anygpu", order="raw-first", steps=1, model="org/model"),
        grant=given, channel=GuestChannel(address, allocation_id=given.allocation_id, reconnect_s=reconnect_s),
        material=Material(parts={"initial": b""}, initial_sha256="", base=base, facts={}), number=1, rounds=1, seed=1, run_id="run",
        subject="", leg_timeout_s=None, listing=tuple, emit=(told if told is not None else list[Progress]()).append, cursor=0,
        plan_sha256="", order=("raw", "protected"),
    )  # fmt: skip


def brought_to(
    address: str, base: BaseModel | None, sources: ModelSources, told: list[Progress] | None = None, **grant: Any
) -> tuple[ModelArrival | None, Ended | None]:
    """What `bring` gives of such a row."""
    current = first_round(address, base, told, **grant)
    try:
        return bring(current, sources)
    finally:
        current.channel.close()


def state(phase: str, **fields: Any) -> dict[str, Any]:
    """What a guest answers to `arrival` while a model is pushed to it."""
    return {
        "phase": phase, "source": "pushed", "done": 0, "total": TOTAL, "wants": None, "reason": None, "detail": None, "ms": 1,
        "held": "memory" if phase == "ready" else None, **fields,
    }  # fmt: skip
