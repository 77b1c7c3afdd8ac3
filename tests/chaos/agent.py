"""An agent without torch that "trains" for a moment. Started over SSH in a pod whose first process is the real one.

python -I -S -c CODE TRAIN_S DONE      prints the path of its socket and goes on in the background
"""

import json
import os
import secrets
import socket
import struct
import sys
import threading
import time
from pathlib import Path

_HEAD = struct.Struct(">II")
_NONCE = secrets.token_hex(16)
_done: list[str] = []


def _train(nonce: str, train_s: float, done: Path) -> None:
    time.sleep(train_s)
    # Written where the judge of the run can read it when this pod is long gone.
    with done.open("a") as file:
        file.write(nonce + "\n")
    _done.append(nonce)


def _answer(request: dict[str, str], train_s: float, done: Path, root: Path) -> dict[str, object]:
    match request["op"]:
        case "hello":
            # As the real agent does for the watchdog: a message of the host arrived.
            (root / "contact").touch()
            return {"agentNonce": _NONCE, "device": "cpu", "gpuModel": "CPU", "gpuUuid": None, "allocation": "chaos"}
        case "train":
            threading.Thread(target=_train, args=(request["nonce"], train_s, done), daemon=True).start()
            return {}
        case "done":
            return {"done": request["nonce"] in _done}
        case "shutdown":
            (root / "shutdown").touch()
            return {}
    return {"error": "ProtocolError", "detail": "no such operation"}


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length and (piece := connection.recv(length - len(data))):
        data += piece
    return data


def _serve(connection: socket.socket, train_s: float, done: Path, root: Path) -> None:
    with connection:
        while len(head := _exactly(connection, _HEAD.size)) == _HEAD.size:
            text, payload = _HEAD.unpack(head)
            request = json.loads(_exactly(connection, text))
            _exactly(connection, payload)
            data = json.dumps(_answer(request, train_s, done, root), sort_keys=True, separators=(",", ":")).encode()
            connection.sendall(_HEAD.pack(len(data), 0) + data)


def main() -> int:
    train_s, done = float(sys.argv[1]), Path(sys.argv[2])
    root = Path(os.environ["GLASSHOUSE_POD_ROOT"])
    path = root / "chaos.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()
        sys.stdout.write(f"{path}\n")
        sys.stdout.flush()
        held = os.environ.get("GLASSHOUSE_POD_HELD", "")
        if os.fork():
            os._exit(0)
        if held:
            # As the real agent on a host of the user's own: it ends with its keeper.
            threading.Thread(target=lambda: os.read(int(held.split(",")[0]), 1) or os._exit(0), daemon=True).start()
        os.setsid()
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, train_s, done, root), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
