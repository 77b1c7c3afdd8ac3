"""The contract for hosts of the user's own: two real `sshd` on loopback, without a GPU. What is theirs alone: `tests/own_hosts`."""

from tests.contract.every_place import EveryPlace


class TestSsh(EveryPlace):
    kind = "ssh"
