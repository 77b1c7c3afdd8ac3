"""A process that may fork no leg says so, and a leg's descriptors keep their numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ASKED = """
import os, socket, sys, threading
sys.path.insert(0, sys.argv[1])
from pytest_glasshouse.guest import leg_launcher as launcher
from pytest_glasshouse.guest.control import Control

archive = os.open(__import__("pytest_glasshouse").__file__, os.O_RDONLY)
ours, theirs = socket.socketpair()
asked = launcher._Launcher(Control(ours), {archive, theirs.fileno()})
print(asked._unfit())
again = os.open(f"/proc/self/fd/{archive}", os.O_RDONLY)
print(asked._unfit())
other = os.open("/dev/zero", os.O_RDONLY)
print(asked._unfit())
os.close(other)
over = threading.Event()
threading.Thread(target=over.wait).start()
print(asked._unfit())
over.set()
"""
_PLACED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pytest_glasshouse.guest import leg_launcher as launcher

one, two = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
launcher._place([one, two], [two, one])
print(os.read(one, 1), os.read(two, 1))
"""


def _printed(code: str) -> list[str]:
    root = str(Path(__file__).resolve().parents[3])
    ran = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True, cwd=os.sep)
    return ran.stdout.splitlines()


def test_a_launcher_with_a_second_thread_or_an_open_file_is_unfit() -> None:
    """What it has of the archive, which it was started with, is opened anew in each leg."""
    assert _printed(_ASKED) == ["", "", "its imports opened /dev/zero", "it has 2 threads"]


def test_a_legs_descriptors_get_the_numbers_they_are_named_by_though_others_have_them() -> None:
    assert _printed(_PLACED) == ["b'' b'\\x00'"]
