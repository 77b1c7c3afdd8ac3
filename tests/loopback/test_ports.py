"""A port is promised once, also among processes that run side by side."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.limits import HANG_S, until
from tests.loopback import ports

_HOLDER = """
import sys
from tests.loopback.ports import reserve_ports
print(*reserve_ports(3), flush=True)
sys.stdin.read()
"""


def test_ports_of_another_process_are_not_given_before_it_ends() -> None:
    held = subprocess.Popen([sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with held:
        assert held.stdin is not None
        assert held.stdout is not None
        given = [int(port) for port in held.stdout.readline().split()]
        assert given == list(range(given[0], given[0] + 3))
        assert [ports._reserved(port) for port in given] == [False] * 3
        held.stdin.close()
        held.wait(HANG_S)
    until(lambda: all(ports._reserved(port) for port in given), "ports that nobody holds")


def test_a_port_is_given_once_and_not_while_a_program_listens_there() -> None:
    port = ports.reserve_port()
    assert not ports._reserved(port)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        assert not ports._reserved(listening.getsockname()[1])


def test_no_port_is_one_that_the_system_gives_to_connections() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    drawn = {ports.reserve_port() for _ in range(20)}
    assert len(drawn) == 20
    assert first < 20_000 or not drawn & set(range(first, last + 1))
