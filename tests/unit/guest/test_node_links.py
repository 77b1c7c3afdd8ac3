"""Who is admitted as a node of a leg: only what proves that it knows the leg's secret, once for each node."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_glasshouse.errors import RankLostError
from pytest_glasshouse.guest.node_links import accept_nodes, connect_first
from tests.limits import HANG_S

SECRET = secrets.token_bytes(32)


@pytest.fixture(name="listener")
def a_listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def _admitted(listener: socket.socket, *nodes: int, strangers: tuple[bytes, ...] = ()) -> list[bytes]:
    """What each admitted node says, in the order of the nodes; every stranger speaks before they connect."""
    with ThreadPoolExecutor() as others:
        for said in strangers:
            with socket.create_connection(("127.0.0.1", _port(listener)), timeout=HANG_S) as stranger:
                stranger.sendall(said)
        connecting = [others.submit(connect_first, "127.0.0.1", _port(listener), secret=SECRET, node=node) for node in nodes]
        found = accept_nodes(listener, secret=SECRET, nodes=max(nodes) + 1, within_s=HANG_S)
        for node, connection in zip(nodes, connecting, strict=True):
            with connection.result(HANG_S) as connected:
                connected.sendall(b"%d" % node)
    heard = []
    for link in found:
        with link:
            heard.append(link.recv(1))
    return heard


def test_every_node_is_linked_in_the_order_of_the_nodes(listener: socket.socket) -> None:
    assert _admitted(listener, 2, 1, 3) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "said", [b"", b"x", b"\0" * 68, b"\xa5" * 68, b"\xa5" * 9000], ids=["empty", "byte", "zeros", "frame", "long"]
)
def test_a_stranger_is_closed_and_does_not_end_the_leg(said: bytes, listener: socket.socket) -> None:
    """Any process that reaches the port may connect."""
    assert _admitted(listener, 1, strangers=(said, said)) == [b"1"]


def test_a_node_that_does_not_know_the_secret_is_no_node(listener: socket.socket) -> None:
    with ThreadPoolExecutor(1) as other:
        refused = other.submit(connect_first, "127.0.0.1", _port(listener), secret=b"another", node=1, within_s=0.5)
        with pytest.raises(RankLostError, match="node 1 did not come"):
            accept_nodes(listener, secret=SECRET, nodes=2, within_s=0.5)
        listener.close()
        with pytest.raises(RankLostError, match="expected the first node to answer"):
            refused.result(HANG_S)


@pytest.mark.parametrize("node", [0, 2, 7])
def test_a_node_that_the_leg_does_not_have_is_not_admitted(node: int, listener: socket.socket) -> None:
    with ThreadPoolExecutor(1) as other:
        known = other.submit(connect_first, "127.0.0.1", _port(listener), secret=SECRET, node=node)
        with pytest.raises(RankLostError, match="node 1 did not come"):
            accept_nodes(listener, secret=SECRET, nodes=2, within_s=0.5)
        known.result(HANG_S).close()


def test_what_listens_in_the_first_nodes_place_is_found_out(listener: socket.socket) -> None:
    """It gets a proof for its own nonce, and cannot answer with one."""
    with ThreadPoolExecutor(1) as other:
        joining = other.submit(connect_first, "127.0.0.1", _port(listener), secret=SECRET, node=1, within_s=HANG_S)
        connection = listener.accept()[0]
        with connection:
            connection.sendall(b"n" * 32)
            proof = connection.recv(68)
            connection.sendall(proof[-32:])
            with pytest.raises(RankLostError, match="does not know the leg's secret"):
                joining.result(HANG_S)
