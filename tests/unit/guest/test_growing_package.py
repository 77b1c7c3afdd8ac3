"""A leg whose package is still being sent waits for the bytes it needs, and does not wait for ever on a host that sends none."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_glasshouse.agent.memory_files import MemoryFiles
from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.guest.opener import map_file
from pytest_glasshouse.guest.protected import Protected


class Host:
    """Answers `more` with the next of these counts."""

    def __init__(self, *arrived: int) -> None:
        self._arrived = list(arrived)
        self.asked: list[int] = []

    def send(self, kind: str, body: dict[str, int]) -> None:
        assert kind == "more"
        self.asked.append(body["arrived"])

    def receive(self, kind: str) -> tuple[str, dict[str, int]]:
        return kind, {"arrived": self._arrived.pop(0)}


def a_leg(host: Host, *, arrived: int, total: int = 100) -> Any:
    order: Any = {"plan": {}, "manifest": "", "arrived": arrived}
    leg = object.__new__(Protected)
    leg._control, leg._package, leg._arrived = host, memoryview(bytes(total)), order["arrived"]  # type: ignore[assignment]
    return leg


def test_it_asks_until_what_it_needs_is_there() -> None:
    host = Host(40, 70)
    leg = a_leg(host, arrived=20)
    leg._await_bytes(20)
    assert host.asked == []
    leg._await_bytes(60)
    assert host.asked == [20, 40]
    leg._await_bytes(70)
    assert host.asked == [20, 40]


@pytest.mark.parametrize("arrived", [20, 10, 101])
def test_a_host_that_sends_nothing_or_more_than_there_is_ends_it(arrived: int) -> None:
    with pytest.raises(IntegrityError, match="the host sent no more"):
        a_leg(Host(arrived), arrived=20)._await_bytes(60)


def test_a_growing_item_is_mapped_whole_takes_memory_as_it_comes_and_is_no_complete_one() -> None:
    files = MemoryFiles()
    files.write("package", offset=0, total=1 << 20, piece=b"x" * 4096)
    with pytest.raises(ProtocolError, match="expected 1048576 bytes; saw 4096"):
        files.descriptor("package")
    fd = files.growing("package")
    view = map_file(fd, whole=False)
    assert (len(view), bytes(view[:3]), os.fstat(fd).st_blocks * 512) == (1 << 20, b"xxx", 4096)
    files.write("package", offset=4096, total=1 << 20, piece=b"y" * 4096)
    assert bytes(view[4096:4099]) == b"yyy"
    os.close(fd)
    with pytest.raises(ProtocolError, match="saw no such name"):
        files.growing("another")
