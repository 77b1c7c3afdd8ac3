"""The contract for a site's Slurm: a real one on loopback, whose nodes have no GPU. What is its alone: `tests/slurm`."""

from tests.contract.every_place import EveryPlace


class TestSlurm(EveryPlace):
    kind = "slurm"
