"""A minimal guest: a tiny process on the agent's socket that answers hello, so that hundreds of pods can be rented without torch.

    server = runpod(pods=FAKE_GUEST)                       of `orders.py`
    server.cloud.rented[instance_id].pod.root / SOCKET     where it listens

As `__main__.py` of an archive it is a guest of the mock provider, with the arguments of one. It speaks the agent's frames with the standard library alone, trains nothing, attests nothing, and refuses every other request.
"""

import json
import os
import secrets
import socket
import struct
import sys
import threading
from pathlib import Path

SOCKET = "agent.sock"
GPU_MODEL = "simulated (CPU)"

_HEAD = struct.Struct(">II")


def hello(nonce: str) -> dict[str, object]:
    """Who answers; the nonce is another one after a restart, as an agent's is."""
    return {
        "agentNonce": nonce,
        "allocation": "",
        "bootId": os.environ.get("GLASSHOUSE_POD_BOOT_ID", ""),
        "device": "cpu",
        "gpuModel": GPU_MODEL,
        "gpuUuid": None,
    }


def serve(connection: socket.socket, nonce: str) -> None:
    """Answer until the other side hangs up."""
    with connection:
        while len(head := _exactly(connection, _HEAD.size)) == _HEAD.size:
            text, payload = _HEAD.unpack(head)
            request = json.loads(_exactly(connection, text))
            _exactly(connection, payload)
            match request.get("op"):
                case "hello":
                    answer = hello(nonce)
                case "pull":
                    answer = {"events": []}
                case _:
                    answer = {"detail": "nothing runs here", "error": "ProtocolError"}
            data = json.dumps(answer, sort_keys=True, separators=(",", ":")).encode()
            connection.sendall(_HEAD.pack(len(data), 0) + data)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length and (piece := connection.recv(length - len(data))):
        data += piece
    return data


def end_with_the_host() -> None:
    """A guest of the mock provider ends when the pipe from its host closes."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> int:
    nonce = secrets.token_hex(16)
    arguments = sys.argv[1:]
    folder = Path(arguments[arguments.index("--directory") + 1])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SOCKET
    if "--until-eof" in arguments:
        threading.Thread(target=end_with_the_host, daemon=True).start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.with_suffix(".new")))
        listener.listen()
        path.with_suffix(".new").rename(path)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, nonce), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
