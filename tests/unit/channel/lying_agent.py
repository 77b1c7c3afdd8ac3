"""A fake agent on a real unix socket that gives the replies a test defines. Nothing trains in it.

    with LyingAgent({"hello": [honest, {"error": "KeyError", "detail": "x"}]}) as agent:
        channel = GuestChannel(agent.address, allocation_id="a")

An answer is an object, bytes (the whole frame, however wrong), a `Trickle`, or a function of the request that returns one of
them; a list is used up, its last item again and again. What has no answer is answered honestly.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire import evidence, frames, tokens
from pytest_glasshouse.wire.canonical import canonical

KEY = Ed25519PrivateKey.generate()
HELLO: dict[str, Any] = {
    "agentNonce": "0" * 32, "ak": tokens.public_text(KEY.public_key()), "allocation": "a", "archiveSha256": "0" * 64,
    "bootId": "b", "device": "cpu", "driver": None, "gpuModel": "CPU (of ours)", "gpuUuid": None, "python": "3.12.3",
    "torch": "2.6.0+cpu", "kernel": "6.1.0", "transformers": None, "peft": None, "gpuCount": 0,
}  # fmt: skip


@dataclass
class Trickle:
    """A frame a byte at a time, one every `every_s` seconds, until the client disconnects."""

    frame: bytes
    every_s: float = 0.02
    sent: int = 0


def frame(message: Any, payload: bytes = b"") -> bytes:
    """The bytes of a frame, also of one that no canonical form allows."""
    text = message if isinstance(message, bytes) else canonical(message)
    return len(text).to_bytes(4, "big") + len(payload).to_bytes(4, "big") + text + payload


def exit_event(leg: str, **claims: Any) -> dict[str, Any]:
    """The exit that an honest agent signs."""
    honest = evidence.exit_claims(
        nonce="0" * 64, head_token="", process_gone=True, exit_status=0, workspace_entries=0,
        gpu={"before": None, "after": None, "of": "nothing", "reason": "no GPU"}, scan={"status": "unseen", "reason": "raw"},
    )  # fmt: skip
    token = tokens.sign({**honest, **claims}, key=KEY, typ=evidence.TYP_EXIT)
    return event(leg, "exit", {"exit": token, "exit_status": 0})


def event(leg: str, kind: str, body: dict[str, Any], *, seq: int = 0, t_ns: int = 1) -> dict[str, Any]:
    return {"seq": seq, "t_ns": t_ns, "leg": leg, "type": kind, "body": body}


class LyingAgent:
    """See the module. `asked` holds every request, `sent` the bytes beside each, `gone` is set once it is closed."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = {op: [*each] if isinstance(each, list) else [each] for op, each in (answers or {}).items()}
        self.asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.sent: dict[str, list[bytes]] = defaultdict(list)
        self.legs: list[str] = []
        self.gone = threading.Event()
        self._directory = tempfile.TemporaryDirectory(prefix="gl-")
        self.address = str(Path(self._directory.name) / "agent.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.gone.set()
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
                request: dict[str, Any] = received[0]
                self.asked[request["op"]].append(request)
                self.sent[request["op"]].append(bytes(received[1]))
                answer = self._answer(request)
                if isinstance(answer, Trickle):
                    self._trickle(connection, answer)
                else:
                    connection.sendall(answer if isinstance(answer, bytes) else frame(answer))

    def _answer(self, request: dict[str, Any]) -> Any:
        left = self.answers.get(request["op"], [self._honest])
        answer = left.pop(0) if len(left) > 1 else left[0]
        while callable(answer):
            answer = answer(request)
        return answer

    def _trickle(self, connection: socket.socket, trickle: Trickle) -> None:
        for byte in trickle.frame:
            if self.gone.wait(trickle.every_s):
                return
            connection.sendall(bytes([byte]))
            trickle.sent += 1

    def _honest(self, request: dict[str, Any]) -> Any:
        match request["op"]:
            case "hello":
                return HELLO
            case "enrol":
                return {"ak": HELLO["ak"], "proof": evidence.prove_enrolment(request["grant"], key=KEY)}
            case "start":
                self.legs.append(request["leg"])
                return {"cursor": 0}
            case "pull":
                return {"events": [] if request["cursor"] or not self.legs else [exit_event(self.legs[-1])]}
            case "get":
                return frame({"total": 3}, b"abc"[request["offset"] :])
            case _:
                return {}


Answer = Callable[[dict[str, Any]], Any]


def refused(_request: dict[str, Any]) -> dict[str, Any]:
    """An error reply, with characters that must not be printed."""
    return {"error": "KeyError", "detail": f"\x1b[31m::error::{secrets.token_hex(2)}"}
