"""What agent and leg send each other over their socketpair, where it is neither an event nor an answer of the server.

The receiver reads them with `wire.typed.check_typed`. Events are in `wire.guest_messages`, answers in `wire.host_messages`.
"""

# Annotations are evaluated: `check_typed` reads them.
from typing import Any, TypedDict

from pytest_glasshouse.wire.host_messages import LegOrder


class Begin(TypedDict):
    """Agent to leg: its order, and the descriptor of the memory file of each part."""

    order: LegOrder
    descriptors: dict[str, int]


class LegChallenge(TypedDict):
    """Agent to leg: the part of the server's challenge that the leg needs, and the digest of everything measured."""

    nonce: str
    policy: str
    plan: str
    composite: str


class ReadRequest(TypedDict):
    """Agent to leg: a range of the leg's memory to copy into the memory file that both hold."""

    address: int
    length: int


class LoadedFiles(TypedDict):
    """Leg to agent: executable mappings `[path, device:inode]`, modules `[name, file]` and import hooks `[name, file]`."""

    maps: list[list[str]]
    modules: list[list[str]]
    hooks: list[list[str]]


class Ready(TypedDict):
    """Leg to agent: it is hardened, has imported what it trains with, and asks for a challenge."""

    cnf: dict[str, str]
    antidebug: dict[str, int | list[Any]]
    memory: dict[str, bool | int]
    images: LoadedFiles


class Attest(TypedDict):
    """Leg to agent: the journal's first lines and its head, for the evidence."""

    log: list[str]
    head: str


class ProgressBody(TypedDict):
    """Leg to agent: units and nanoseconds of its timed training so far, and the last loss."""

    units: int
    elapsed_ns: int
    loss: str


class More(TypedDict):
    """Leg to agent: it needs more of its package than the bytes that have arrived."""

    arrived: int


class Export(TypedDict):
    """Leg to agent: one piece of its adapter."""

    name: str
    offset: int
    total: int
