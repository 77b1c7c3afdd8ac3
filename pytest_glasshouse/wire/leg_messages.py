"""What agent and leg send each other over their socketpair, where it is neither an event nor an answer of the server.

The receiver reads them with `wire.typed.check_typed`. Events are in `wire.guest_messages`, answers in `wire.host_messages`.
"""

# Annotations are evaluated: `check_typed` reads them.
from typing import Any, NotRequired, TypedDict

from pytest_glasshouse.wire.host_messages import LegOrder


def rank_id(leg_id: str, rank: int) -> str:
    """The name of a rank's workspace and events: the first rank's are the leg's."""
    return leg_id if rank == 0 else f"{leg_id}-r{rank}"


class RankPlace(TypedDict):
    """Which of how many ranks of its node a process is: most legs have one node.

    `listener` is the leg's first rank's listening socket, a descriptor, for torch's store. Of several nodes, `links` is the one
    that the other nodes' first ranks connect to.
    """

    rank: int
    size: int
    listener: int | None
    links: NotRequired[int | None]


class Begin(TypedDict):
    """Agent to leg: its order, and the descriptor of the memory file of each part; of a leg of several ranks, which one it is."""

    order: LegOrder
    descriptors: dict[str, int]
    rank: NotRequired[RankPlace]


class LinkedProcesses(TypedDict):
    """Agent to a rank: the processes at the other ends of its links, in their order; nobody else's messages are read there."""

    pids: list[int]


class Agreed(TypedDict):
    """First rank to another: a number that all go by."""

    value: int


class SharedParts(TypedDict):
    """First rank to another: where each part begins and ends in the memory that is shared. Its descriptor follows."""

    bytes: int
    parts: dict[str, list[int]]


class Left(TypedDict):
    """A rank to the first one: it holds nothing of the shared memory any more, and its journal's head, empty in a raw leg."""

    head: str


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


class LegStart(TypedDict):
    """Agent to launcher: fork a leg that works in `directory` with these variables, in the network namespace `network` if any.

    The descriptors that follow get the numbers of `descriptors`, in that order; `control` is the leg's end of its socketpair.
    """

    directory: str
    environment: dict[str, str]
    descriptors: list[int]
    control: int
    network: int | None


class StartedLeg(TypedDict):
    """Launcher to agent: the leader of the leg's session, which it forked, and the leg, which that forked; 0 if it did not."""

    leader: int
    leg: int


class LoadedLauncher(TypedDict):
    """Launcher to agent: what it has loaded, a process that traces it or did (0 for none), and why it may fork no leg if so."""

    images: LoadedFiles
    tracer: int
    unfit: str


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


class RepeatedBody(TypedDict):
    """Leg to agent: the losses of its prologue's first steps, which it was asked to repeat."""

    losses: list[str]


class More(TypedDict):
    """Leg to agent: it needs more of its package than the bytes that have arrived."""

    arrived: int


class Export(TypedDict):
    """Leg to agent: one piece of its adapter."""

    name: str
    offset: int
    total: int
