"""The guest's base models, each named by the digest of its list of files: those that arrived, and what a leg is given of one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.memory_left import available_bytes
from pytest_glasshouse.agent.model_arrival import Arrival
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import BasePlan, LayRequest, ModelRequest

#: How long an arrival that was stopped may take to end, in seconds: less than the host waits for an answer.
_END_S = 10.0


def descriptors_of(plan: BasePlan | None) -> tuple[int, ...]:
    """The sealed memory files of a leg's base model, for the leg to inherit; none where it is files."""
    return () if plan is None else tuple(plan.get("descriptors", {}).values())


class Models:
    """Every model of this guest, by its digest."""

    def __init__(self, directory: Path, *, archive_fd: int, site_packages: Sequence[str]) -> None:
        self._directory = directory
        self._archive_fd = archive_fd
        self._site_packages = site_packages
        self._lock = threading.Lock()
        self._arrivals: dict[str, Arrival] = {}
        #: How much memory there is for models, in bytes, when one is verified.
        self.memory_left: Callable[[], int] = available_bytes
        #: How much the device has that trains.
        self.device_memory: Callable[[], int] = available_bytes

    def begin(self, request: ModelRequest) -> None:
        """Start to bring a model here. One that is here, or on its way, is left alone; one that failed is tried again."""
        with self._lock:
            earlier = self._arrivals.get(request["model"])
            if earlier is not None and not earlier.given_up:
                return
            if earlier is not None:
                # It may still be removing what it wrote.
                earlier.join(_END_S)
                if earlier.is_alive():
                    raise ProtocolError("model: expected the arrival that was given up to end; it still runs")
            arrival = Arrival(request, self._directory, archive_fd=self._archive_fd, site_packages=self._site_packages)
            arrival.memory_left, arrival.device_memory = self.memory_left, self.device_memory
            self._arrivals[request["model"]] = arrival
            arrival.start()

    def state(self, model: str) -> dict[str, Json]:
        """Where a model's arrival is: see `wire.guest_messages`."""
        return self._arrival(model).state()

    def write(self, piece: LayRequest, payload: bytes | bytearray) -> None:
        """The next piece of a file that is pushed."""
        self._arrival(piece["model"]).write(piece["name"], offset=piece["offset"], payload=payload)

    def stop(self, model: str) -> None:
        """Give up an arrival that is not complete."""
        self._arrival(model).stop("the host gave up")

    def plan(self, model: str) -> BasePlan:
        """What a leg is given. Raises `ProtocolError` unless the model was verified here."""
        return self._arrival(model).plan()

    def stop_all(self) -> tuple[Arrival, ...]:
        """Give up everything that is on its way; returns all arrivals."""
        with self._lock:
            arrivals = tuple(self._arrivals.values())
        for arrival in arrivals:
            arrival.stop("the guest ends")
        return arrivals

    def end(self) -> None:
        """Stop every download, and wait for its end: what it wrote is removed then."""
        for arrival in self.stop_all():
            arrival.join(_END_S)

    def _arrival(self, model: str) -> Arrival:
        with self._lock:
            arrival = self._arrivals.get(model)
        if arrival is None:
            raise ProtocolError(f"expected the digest of a model that was asked for; saw {printable(model, limit=80)}")
        return arrival
