"""Where the ranks of a leg over several nodes meet: an address of the first node, on the interface that Slurm names.

The leg's first rank listens there and nowhere else, for torch's store and for the links of the other nodes; each node's ranks use
the one interface that leads there. What passes leaves the box: SECURITY.md says what that is, and who can read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.host_messages import Meeting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.wire.host_messages import NodesOrder

#: Set by Slurm in every task: an address of the node that launched the step, which is the first node of the job.
ADDRESS = "SLURM_LAUNCH_NODE_IPADDR"
_SIOCGIFADDR = 0x8915
_NAME_BYTES = 15


class NodeNetwork:
    """The sockets and the interface of one node's part of a leg. Only the first node has sockets; `close` closes them."""

    #: The ranks use the machine's own network: no namespace of theirs leads to another machine.
    namespace: int | None = None

    def __init__(self, order: NodesOrder, environ: Mapping[str, str] | None = None) -> None:
        """Raises `ProtocolError` where the engine names no address, or one that no interface of this node leads to."""
        self.node, self.nodes = order["node"], order["nodes"]
        self.listener: socket.socket | None = None
        self.links: socket.socket | None = None
        if self.node == 0:
            self.address = _address(os.environ if environ is None else environ)
            self.listener, self.links = _listening(self.address), _listening(self.address)
            self.port, self.link_port = (int(each.getsockname()[1]) for each in (self.listener, self.links))
        else:
            meeting = order.get("meeting")
            if meeting is None:
                raise ProtocolError("start: expected to be told where the first node is")
            self.address, self.port, self.link_port = meeting["address"], meeting["port"], meeting["link_port"]
        try:
            self.interface = _interface_to(self.address, self.port)
        except ProtocolError:
            self.close()
            raise

    @property
    def meeting(self) -> Meeting | None:
        """Where the other nodes' ranks meet this one's; None on any other node than the first."""
        return None if self.node else Meeting(address=self.address, port=self.port, link_port=self.link_port)

    def close(self) -> None:
        """Close what the agent holds of it; the ranks have their own descriptors."""
        for each in (self.listener, self.links):
            if each is not None:
                each.close()


def _address(environ: Mapping[str, str]) -> str:
    try:
        return str(ipaddress.IPv4Address(environ.get(ADDRESS, "")))
    except ValueError:
        raise ProtocolError(f"start: expected an IPv4 address of the first node in {ADDRESS}, saw none") from None


def _listening(address: str) -> socket.socket:
    listener = socket.socket()
    try:
        listener.bind((address, 0))
    except OSError as error:
        listener.close()
        raise ProtocolError(f"start: the address that the cluster names is none of this node ({error.strerror})") from None
    listener.listen(64)
    return listener


def _interface_to(address: str, port: int) -> str:
    """The interface whose own address packets to `address` carry."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect((address, port))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                asked = struct.pack("256s", name.encode()[:_NAME_BYTES])
                if socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, asked)[20:24]) == own:
                    return name
    raise ProtocolError("start: no interface of this node leads to the first one")
