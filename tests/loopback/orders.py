"""Orders to create an instance with, as a test writes them."""

from __future__ import annotations

from pathlib import Path

from tests.loopback import fake_guest
from tests.loopback.cloud import Order
from tests.loopback.pod_disk import DIRECTORY

GPU = "NVIDIA RTX A4000"

#: The command of a pod that is a fake guest. No file of the tests is on a pod's disk, so the command has its code.
FAKE_GUEST = ("python3", "-I", "-S", "-c", Path(fake_guest.__file__).read_text(encoding="utf-8"), "--directory", DIRECTORY)


def order(*command: str, name: str = "glasshouse-loopback-1-1") -> Order:
    return Order(name=name, image="i", gpu=GPU, command=command or ("sleep", "60"), env={}, ports=["22/tcp"], disk_gb=1)


DAEMON = (
    "import os,sys,time\n"
    "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(300)\n    os._exit(0)\n"
    "print('up', flush=True); time.sleep(300)\n"
)
