"""The links between the nodes of a leg: the first rank of each other node has one connection to the leg's first rank.

They leave the box, over the cluster's network. Both ends prove that they know the leg's secret (HMAC over nonces of both) before
anything else is read; who cannot is closed, and does not end the leg. What is sent afterwards is neither encrypted nor signed:
numbers that all ranks go by, and nothing secret.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import struct
import time
from hashlib import sha256

from pytest_glasshouse.errors import RankLostError

_NONCE = 32
_NODE = struct.Struct(">I")
_PROOF = sha256().digest_size
#: How long every node may take to connect, and how long one proof may take.
MEET_S = 600.0
_PROOF_S = 5.0
_AGAIN_S = 0.2
#: A machine that is gone closes nothing: it is noticed after about half a minute.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))


def accept_nodes(listener: socket.socket, *, secret: bytes, nodes: int, within_s: float = MEET_S) -> list[socket.socket]:
    """One connection to each other node, in their order. Raises `RankLostError` when one does not come.

    A peer that does not prove the secret, or that it is a node which is missing, is closed.
    """
    found: dict[int, socket.socket] = {}
    until = time.monotonic() + within_s
    while len(found) < nodes - 1:
        left = until - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            listener.settimeout(left)
            connection = listener.accept()[0]
        except OSError:
            for each in found.values():
                each.close()
            missing = ", ".join(str(node) for node in range(1, nodes) if node not in found)
            raise RankLostError(f"expected a connection of every node; node {missing} did not come") from None
        node = _proven_node(connection, secret)
        if node is None or not 0 < node < nodes or node in found:
            connection.close()
            continue
        found[node] = _ready(connection)
    return [found[node] for node in range(1, nodes)]


def connect_first(address: str, port: int, *, secret: bytes, node: int, within_s: float = MEET_S) -> socket.socket:
    """The connection of `node` to the first one. Raises `RankLostError`, also where the first node does not know the secret."""
    until = time.monotonic() + within_s
    why = "nothing answers"
    while (left := until - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((address, port), timeout=min(left, _PROOF_S))
        except OSError as error:
            why = error.strerror or "nothing answers"
            time.sleep(_AGAIN_S)
            continue
        try:
            connection.settimeout(_PROOF_S)
            theirs, ours = _exactly(connection, _NONCE), os.urandom(_NONCE)
            named = _NODE.pack(node)
            connection.sendall(named + ours + _proof(secret, b"node", named, theirs, ours))
            answer = _exactly(connection, _PROOF)
        except OSError as error:
            connection.close()
            why = error.strerror or "it ended the connection"
            time.sleep(_AGAIN_S)
            continue
        if not hmac.compare_digest(answer, _proof(secret, b"first", named, theirs, ours)):
            connection.close()
            raise RankLostError("what listens in the first node's place does not know the leg's secret")
        return _ready(connection)
    raise RankLostError(f"expected the first node to answer within {within_s:g} s; {why}")


def _proven_node(connection: socket.socket, secret: bytes) -> int | None:
    """Which node is at the other end, once both ends have proven the secret; None for any other peer."""
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(connection.settimeout, None)
            connection.settimeout(_PROOF_S)
            ours = os.urandom(_NONCE)
            connection.sendall(ours)
            named, theirs = _exactly(connection, _NODE.size), _exactly(connection, _NONCE)
            if not hmac.compare_digest(_exactly(connection, _PROOF), _proof(secret, b"node", named, ours, theirs)):
                return None
            connection.sendall(_proof(secret, b"first", named, ours, theirs))
    except OSError:
        return None
    return int(_NODE.unpack(named)[0])


def _proof(secret: bytes, who: bytes, node: bytes, first_nonce: bytes, node_nonce: bytes) -> bytes:
    return hmac.new(secret, b"glasshouse-link/1 " + who + node + first_nonce + node_nonce, sha256).digest()


def _exactly(connection: socket.socket, length: int) -> bytes:
    """`length` bytes, all of them before a deadline: a peer that sends one at a time does not hold the leg up."""
    until, taken = time.monotonic() + _PROOF_S, b""
    while len(taken) < length:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(length - len(taken))
        if not piece:
            raise ConnectionError
        taken += piece
    return taken


def _ready(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection
