"""What the host sends a guest: requests to the agent with more than one member, a leg's order, and the server's answers to a leg.

The receiver reads them with `wire.typed.check_typed`. What a guest sends is in `wire.guest_messages`.
"""

# Annotations are evaluated: `check_typed` reads them.
from typing import Literal, NotRequired, TypedDict


class SegmentPlanRecord(TypedDict):
    """How long a leg's turns are."""

    warmup_limit_ns: int
    washout_ns: int
    segment_ns: int | None
    segment_steps: int | None


class BasePlan(TypedDict):
    """The base model of a leg. The host names it by its digest; the agent, which verified it, adds where it is.

    That is `descriptors` of sealed memory files, by name, or a `directory` and `workloads.model_files.identity` of its files when
    they were verified.
    """

    sha256: str
    descriptors: NotRequired[dict[str, int]]
    directory: NotRequired[str]
    identity: NotRequired[str]


class TrainingPlan(TypedDict):
    """How long and in which order one leg trains. Exactly one of `target_ns` and `steps` is set.

    `segments` is null for a leg that trains in one go.
    """

    workload: str
    device: Literal["cuda", "cpu"]
    warmup_ns: int
    target_ns: int | None
    steps: int | None
    order_seed: int
    base: BasePlan | None
    segments: SegmentPlanRecord | None


class Meeting(TypedDict):
    """Where the ranks of a leg over several nodes meet: an address of the first node, and two ports there.

    `port` is of torch's store, `link_port` of the links between the nodes (`guest.node_links`).
    """

    address: str
    port: int
    link_port: int


class NodesOrder(TypedDict):
    """Of a leg over several nodes: which of how many this one is, counted from 0, and what the nodes prove to each other to know.

    The first node listens, and its answer to `start` is the `meeting` of every other one.
    """

    node: int
    nodes: int
    secret: str
    meeting: NotRequired[Meeting]


class RanksOrder(TypedDict, total=False):
    """What a leg's order says of its ranks: how many it has on a node, and of several nodes which one this is."""

    ranks: int
    nodes: NodesOrder


class LegOrder(TypedDict):
    """One leg to start, of one rank unless `ranks` says otherwise. `material` names the agent's memory files, by part.

    Of a leg over several `nodes`, this is one node's part, and `ranks` are those of this node.
    `witness` is the key of the server whose marks are wanted at the borders of a leg that trains in one go.
    """

    witness: NotRequired[str]
    kind: Literal["protected", "raw"]
    strict_memory: NotRequired[bool]
    ranks: NotRequired[int]
    nodes: NotRequired[NodesOrder]
    nonce: str
    plan: TrainingPlan
    material: dict[str, str]


class ProtectedOrder(LegOrder):
    """The order of a protected leg: the package's manifest, and the keys of server and owner.

    Where not all of the package is there, `arrived` is how many bytes of it are; the leg asks for more when it needs them.
    """

    manifest: str
    server_key: str
    owner_key: str
    arrived: NotRequired[int]


class RawOrder(LegOrder):
    """The order of a raw leg."""

    base_sha256: str | None


class ListedFile(TypedDict):
    """One file of a base model."""

    name: str
    size: int
    sha256: str


class ModelRequest(TypedDict):
    """Request `model`: bring a base model to the guest, and verify it. `model` is the digest of the list of files.

    The source `there` is a directory of the guest, `hub` a download of `repo` at a commit from the hub at `endpoint`
    of what that directory does not have (with `keep`, which is then put into it, as into a cache of the hub's client), `pushed`
    the host, by requests `lay`, and `made` random weights of the named `shape`, which the guest makes: other files are pushed. A
    download without a new byte for `idle_s`, or after `within_s`, both in seconds, fails.
    """

    model: str
    files: list[ListedFile]
    source: Literal["there", "hub", "pushed", "made"]
    shape: NotRequired[str]
    directory: NotRequired[str]
    endpoint: NotRequired[str]
    repo: NotRequired[str]
    commit: NotRequired[str]
    keep: NotRequired[bool]
    token: NotRequired[str]
    idle_s: int
    within_s: int


class LayRequest(TypedDict):
    """Request `lay`: the next piece of a file of a model that is pushed."""

    model: str
    name: str
    offset: int


class PutRequest(TypedDict):
    """Request `put`: a piece of an item of `total` bytes."""

    name: str
    offset: int
    total: int


class GetRequest(TypedDict):
    """Request `get`: an item from `offset` on."""

    name: str
    offset: int


class StartRequest(TypedDict):
    """Request `start`. In an interleaved round, `round` names it and `role` is the leg's."""

    leg: str
    order: LegOrder
    round: NotRequired[str]
    role: NotRequired[str]


class ConductRequest(TypedDict):
    """Request `conduct`: the legs of an interleaved round in the order of their start, and the leg of each turn.

    `witness` is the key of the server whose marks are wanted between turns.
    """

    witness: NotRequired[str]
    round: str
    nonce: str
    roles: list[str]
    turns: list[str]


class PullRequest(TypedDict):
    """Request `pull`: events from `cursor` on."""

    cursor: int
    wait_ms: int


class AnswerBody(TypedDict):
    """One of the bodies below; it is checked when the leg reads it."""


class AnswerRequest(TypedDict):
    """Request `answer`: what the server answered to a leg, or to the turns of a round, by their name."""

    leg: str
    kind: str
    body: AnswerBody


class ChallengeAnswer(AnswerBody):
    """Answer `challenge`: the server's challenge, and what the evidence has to name."""

    nonce: str
    issued_at: int
    hardware: NotRequired[list[str]]
    sub: str
    aud: str
    policy: str
    plan: str
    manifest: str
    manifest_version: int


class ReleaseAnswer(AnswerBody):
    """Answer `release`: the attestation result, and the data key sealed to the leg."""

    result: str
    sealed: str


class MarkAnswer(AnswerBody):
    """Answer `mark`: the server's time, signed for the nonce of the border."""

    mark: str


class MoreAnswer(AnswerBody):
    """Answer `more`: how many bytes of the package are there now."""

    arrived: int


class RefusalAnswer(AnswerBody):
    """Answer `refusal`."""

    reason: str
