"""What a guest's processes free goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.limits import HANG_S

#: Frees 64 blocks of 1 MiB of 128, every other one, after a larger one has taught glibc to keep what is smaller; prints MiB held.
_CHILD = """
import ctypes, sys
from pytest_glasshouse.guest.launcher import give_back_freed, keep_little
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def held():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:")) // 1024
if "little" in sys.argv:
    keep_little(1 << 18)
libc.free(libc.malloc(16 << 20))
before, blocks = held(), []
for _ in range(128):
    blocks.append(libc.malloc(1 << 20))
    ctypes.memset(blocks[-1], 1, 1 << 20)
for block in blocks[::2]:
    libc.free(block)
if "give" in sys.argv:
    give_back_freed()
print(held() - before)
"""


def held_mib(*arguments: str) -> int:
    command = [sys.executable, "-c", _CHILD, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True).stdout)


@pytest.mark.parametrize("how", ["little", "give"])
def test_freed_blocks_are_not_kept(how: str) -> None:
    assert held_mib(how) < 80
    assert held_mib() > 112, "by itself this C library keeps them: the test shows something"
