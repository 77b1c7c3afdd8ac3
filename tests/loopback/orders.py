"""Orders to create an instance with, as a test writes them."""

from __future__ import annotations

from tests.loopback.cloud import Order

GPU = "NVIDIA RTX A4000"


def order(*command: str, name: str = "glasshouse-loopback-1-1") -> Order:
    return Order(name=name, image="i", gpu=GPU, command=command or ("sleep", "60"), env={}, ports=["22/tcp"], disk_gb=1)


DAEMON = (
    "import os,sys,time\n"
    "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(300)\n    os._exit(0)\n"
    "print('up', flush=True); time.sleep(300)\n"
)
