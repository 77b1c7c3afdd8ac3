"""The broker for xdist workers: the same calls over a socket of this machine.

The allocations granted to a worker that disappears are ended, since what still runs there is not known. The worker raises an
error of the class that the broker raised.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, TypedDict

from pytest_glasshouse import errors
from pytest_glasshouse.errors import GlasshouseError, InfrastructureError, ProtocolError
from pytest_glasshouse.providers.base import Grant, Instance
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire import frames, local_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.broker.broker import Broker
    from pytest_glasshouse.providers.base import InstanceState
    from pytest_glasshouse.wire.canonical import Json


class BrokerRequest(TypedDict, total=False):
    """What the operations take. The body of an event is any object."""

    row: Mapping[str, object]
    grant: dict[str, Json]
    why: str
    action: str


class ListedInstance(TypedDict):
    """An instance as a worker may know it: how a guest is reached stays in the controller."""

    instance_id: str
    name: str
    state: InstanceState


class BrokerReply(TypedDict, total=False):
    """What the operations answer; `error` names the class of the error that was raised."""

    grant: dict[str, Json]
    instances: list[ListedInstance]
    loss_reason: tuple[str, str]
    error: str
    detail: str
    allocation_id: str | None


class BrokerServer:
    """Serves a broker to the workers of a run, at `address`."""

    def __init__(self, broker: Broker, on_event: Callable[[dict[str, object]], None]) -> None:
        self._broker = broker
        self._on_event = on_event
        self._server = local_socket.SocketServer("glasshouse-broker", self._serve)
        self.address = self._server.address

    def close(self) -> None:
        """Stop listening. Workers that are connected are still answered."""
        self._server.close()

    def _serve(self, connection: socket.socket) -> None:
        worker = ""
        with connection:
            try:
                while (received := frames.receive(connection)) is not None:
                    message, _ = received
                    worker = str(message["worker"])
                    reply = self._answer(str(message["op"]), worker, json.loads(str(message["body"])))
                    frames.send(connection, {"body": json.dumps(reply)})
            except (OSError, ProtocolError):
                pass
            finally:
                if worker:
                    self._broker.abandon(worker)

    def _answer(self, op: str, worker: str, body: BrokerRequest) -> BrokerReply:
        try:
            return self._carry_out(op, worker, body)
        except GlasshouseError as error:
            return {"error": type(error).__name__, "detail": str(error), "allocation_id": error.allocation_id}
        except Exception as error:  # noqa: BLE001  (one request that breaks must not take the worker's other grants with it)
            detail = f"unexpected error in the controller's broker ({type(error).__name__}: {error})"
            return {"error": "InfrastructureError", "detail": detail, "allocation_id": None}

    def _carry_out(self, op: str, worker: str, body: BrokerRequest) -> BrokerReply:
        match op:
            case "acquire":
                return {"grant": self._broker.acquire(RowSpec.from_json(body["row"]), worker=worker).to_json()}
            case "release":
                self._broker.release(Grant.from_json(body["grant"]), worker=worker)
            case "end":
                self._broker.end(Grant.from_json(body["grant"]), body["why"])
            case "listing":
                return {"instances": [_listed(instance) for instance in self._broker.listing()]}
            case "loss-reason":
                return {"loss_reason": self._broker.loss_reason(Grant.from_json(body["grant"]))}
            case "inject-fault":
                self._broker.inject_fault(Grant.from_json(body["grant"]), body["action"])
            case "event":
                self._on_event({**body, "worker": worker})
            case _:
                raise ProtocolError(f"the broker has no operation {op!r}")
        return {}


def _listed(instance: Instance) -> ListedInstance:
    return {"instance_id": instance.instance_id, "name": instance.name, "state": instance.state}


class BrokerClient:
    """A worker's broker."""

    def __init__(self, address: str, worker: str) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._socket = local_socket.connect(address)

    def acquire(self, row: RowSpec, *, worker: str = "") -> Grant:
        """See `Broker.acquire`; raises what it raised."""
        del worker
        return Grant.from_json(self._ask("acquire", {"row": row.to_json()})["grant"])

    def release(self, grant: Grant, *, worker: str = "") -> None:
        """See `Broker.release`."""
        del worker
        self._ask("release", {"grant": grant.to_json()})

    def end(self, grant: Grant, why: str) -> None:
        """See `Broker.end`."""
        self._ask("end", {"grant": grant.to_json(), "why": why})

    def listing(self) -> tuple[Instance, ...]:
        """See `Broker.listing`."""
        return tuple(Instance(**fields) for fields in self._ask("listing", {})["instances"])

    def inject_fault(self, grant: Grant, action: str) -> None:
        """See `Broker.inject_fault`."""
        self._ask("inject-fault", {"grant": grant.to_json(), "action": action})

    def loss_reason(self, grant: Grant) -> tuple[str, str]:
        """See `Broker.loss_reason`."""
        kind, sentence = self._ask("loss-reason", {"grant": grant.to_json()})["loss_reason"]
        return kind, sentence

    def event(self, body: Mapping[str, object]) -> None:
        """Send the controller an event of this worker."""
        self._ask("event", body)

    def close(self) -> None:
        """Close the connection; the controller ends grants that are still held."""
        self._socket.close()

    def _ask(self, op: str, body: Mapping[str, object]) -> BrokerReply:
        with self._lock:
            try:
                frames.send(self._socket, {"op": op, "worker": self._worker, "body": json.dumps(body)})
                received = frames.receive(self._socket)
            except OSError as error:
                raise InfrastructureError(f"the controller's broker is gone ({error})") from None
        if received is None:
            raise InfrastructureError("the controller's broker is gone")
        reply: BrokerReply = json.loads(str(received[0]["body"]))
        if "error" in reply:
            kind = getattr(errors, reply["error"], InfrastructureError)
            known = issubclass(kind, GlasshouseError) and not issubclass(kind, errors.ReasonedError)
            raise (kind if known else InfrastructureError)(reply["detail"], allocation_id=reply["allocation_id"])
        return reply
