"""Joins standard input and output to a job: the far end of one stream, as `srun` or `ssh` runs it on the job's node.

It is sent as text and imports the standard library only. `job_init`, which it finds by the job's name, gives it the descriptor
to join: of a program that it starts in the job, or of a connection to the agent there.

python3 -I -S -c CODE NAME REQUEST
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading

_PIECE = 1 << 20
_REQUEST_S = 20.0


def joined(name: str, request: str) -> socket.socket:
    """What the job's first process gives for a request. Raises `OSError`."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(_REQUEST_S)
        asked.connect("\0" + name)
        peer = struct.unpack("3i", asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if peer[1] not in (os.getuid(), 0):
            # Any user of the node may take a name first.
            raise PermissionError("the process that listens there is another user's")
        asked.sendall(request.encode() + b"\n")
        size = struct.calcsize("i")
        message, ancillary, _, _ = asked.recvmsg(64, socket.CMSG_LEN(size))
        if not message.startswith(b"+") or not ancillary:
            raise ConnectionError(message.decode("ascii", "replace")[1:] or "no answer")
        return socket.socket(fileno=struct.unpack("i", ancillary[0][2][:size])[0])


def send_all(stream: socket.socket) -> None:
    """Standard input to the job, until its end."""
    with contextlib.suppress(OSError):
        while True:
            piece = os.read(0, _PIECE)
            if not piece:
                break
            stream.sendall(piece)
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_WR)


def main() -> None:
    """Join until the job's side is closed."""
    try:
        stream = joined(sys.argv[1], sys.argv[2])
    except OSError as error:
        sys.stderr.write(f"glasshouse bridge: {type(error).__name__}: {error}\n")
        sys.exit(1)
    threading.Thread(target=send_all, args=(stream,), daemon=True).start()
    with contextlib.suppress(OSError):
        while True:
            piece = stream.recv(_PIECE)
            if not piece:
                break
            view = memoryview(piece)
            while view:
                view = view[os.write(1, view) :]
    os._exit(0)


if __name__ == "__main__":
    main()
