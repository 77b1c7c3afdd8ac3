"""Where the ranks of a leg over several nodes meet: at the address that Slurm names, on its interface, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.agent.leg_environment import rank_environment
from pytest_glasshouse.agent.node_network import ADDRESS, NodeNetwork
from pytest_glasshouse.agent.rank_group import group_of
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.host_messages import NodesOrder

FIRST: NodesOrder = {"node": 0, "nodes": 2, "secret": "00"}


def test_the_first_node_listens_at_that_address_only_and_tells_the_others() -> None:
    network = NodeNetwork(FIRST, {ADDRESS: "127.0.0.1"})
    try:
        assert network.listener is not None
        assert network.links is not None
        assert [each.getsockname() for each in (network.listener, network.links)] == [
            ("127.0.0.1", network.port),
            ("127.0.0.1", network.link_port),
        ]
        other = NodeNetwork({**FIRST, "node": 1, "meeting": network.meeting}, {})  # type: ignore[typeddict-item]
        assert (other.address, other.port, other.interface, other.listener) == ("127.0.0.1", network.port, "lo", None)
    finally:
        network.close()


@pytest.mark.parametrize("environ", [{}, {ADDRESS: ""}, {ADDRESS: "::1"}, {ADDRESS: "node1"}, {ADDRESS: "192.0.2.7"}])
def test_without_an_address_of_this_node_no_rank_is_started(environ: dict[str, str]) -> None:
    """Not on every address of the machine, and not on a name that some resolver knows."""
    with pytest.raises(ProtocolError, match="start: "):
        NodeNetwork(FIRST, environ)


def test_a_node_that_was_not_told_where_is_refused() -> None:
    with pytest.raises(ProtocolError, match="where the first node is"):
        NodeNetwork({**FIRST, "node": 1}, {})


def test_ranks_of_a_node_are_numbered_after_those_of_the_nodes_before_it() -> None:
    found = rank_environment(1, 2, 7, node=3, nodes=4, address="192.0.2.1", interface="ib0")
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("7", "8", "1", "2")
    assert (found["MASTER_ADDR"], found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == ("192.0.2.1", "ib0", "ib0")


def test_a_failed_rank_is_named_by_its_number_in_the_leg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "127.0.0.1")
    meeting: Any = {"address": "127.0.0.1", "port": 1, "link_port": 2}
    order: Any = {"ranks": 2, "nodes": {**FIRST, "node": 1, "meeting": meeting}}
    group = group_of(order)
    assert group is not None
    group.failed(1, {"reason": "OutOfMemoryError", "detail": "no room"})
    assert group.failure() == {"reason": "OutOfMemoryError", "detail": "rank 3: no room"}
    group.close()
