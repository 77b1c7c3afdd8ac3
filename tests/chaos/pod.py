"""A guest without torch: an agent that "trains" for a moment, behind a real sshd, with a watchdog that ends its own pod.

The first process of a chaos pod. Everything it needs comes in its environment, as on a rented box.
"""

import contextlib
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(os.environ["GLASSHOUSE_POD_ROOT"])
_HEAD = struct.Struct(">II")
_NONCE = secrets.token_hex(16)
_done: list[str] = []


def _sshd() -> None:
    for name, content in (("host", os.environ["CHAOS_HOST_KEY"]), ("authorized", os.environ["PUBLIC_KEY"])):
        (ROOT / name).touch(mode=0o600)
        (ROOT / name).write_text(content + "\n")
    lines = (
        f"Port {os.environ['GLASSHOUSE_POD_PORT']}", "ListenAddress 127.0.0.1", f"HostKey {ROOT / 'host'}",
        f"AuthorizedKeysFile {ROOT / 'authorized'}", "PidFile none", "StrictModes no", "UsePAM no",
        "PasswordAuthentication no", "PermitRootLogin prohibit-password", "AllowStreamLocalForwarding yes",
    )  # fmt: skip
    (ROOT / "sshd_config").write_text("\n".join(lines) + "\n")
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(ROOT / "sshd_config")])


def _train(nonce: str) -> None:
    time.sleep(float(os.environ["CHAOS_TRAIN_S"]))
    # Written where the judge of the run can read it when this pod is long gone.
    with Path(os.environ["CHAOS_DONE"]).open("a") as file:
        file.write(nonce + "\n")
    _done.append(nonce)


def _answer(request: dict[str, str]) -> dict[str, object]:
    match request["op"]:
        case "hello":
            return {"agentNonce": _NONCE, "device": "cpu", "gpuModel": "CPU", "gpuUuid": None, "allocation": "chaos"}
        case "train":
            threading.Thread(target=_train, args=(request["nonce"],), daemon=True).start()
            return {}
        case "done":
            return {"done": request["nonce"] in _done}
    return {"error": "ProtocolError", "detail": "no such operation"}


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length and (piece := connection.recv(length - len(data))):
        data += piece
    return data


def _serve(connection: socket.socket) -> None:
    with connection:
        while len(head := _exactly(connection, _HEAD.size)) == _HEAD.size:
            text, payload = _HEAD.unpack(head)
            request = json.loads(_exactly(connection, text))
            _exactly(connection, payload)
            data = json.dumps(_answer(request), sort_keys=True, separators=(",", ":")).encode()
            connection.sendall(_HEAD.pack(len(data), 0) + data)


def _watchdog() -> None:
    """The absolute deadline comes in the environment: a restart does not move it."""
    time.sleep(max(float(os.environ["CHAOS_DEADLINE"]) - time.time(), 0.0))
    base = os.environ["CHAOS_API"]
    if pod := os.environ.get("RUNPOD_POD_ID"):
        url, key = f"{base}/v2/pods/{pod}", os.environ["RUNPOD_API_KEY"]
    else:
        url, key = f"{base}/api/v0/instances/{os.environ['CONTAINER_ID']}/", os.environ["CONTAINER_API_KEY"]
    while True:
        body = None if "/v2/" in url else b"{}"
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, method="DELETE", headers=headers)
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=5).close()
        time.sleep(0.2)


def main() -> int:
    _sshd()
    threading.Thread(target=_watchdog, daemon=True).start()
    path = ROOT / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()
        (Path(os.environ["CHAOS_PATHS"]) / os.environ["CHAOS_NAME"]).write_text(str(path))
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
