"""The claims of signed tokens and the bodies of journal lines, as far as anything in a report is derived from them.

A token or a line of another shape gives nothing to derive from: `wire.typed.check_typed` tells which member is wrong.
"""

# Annotations are evaluated: `check_typed` reads them.
from typing import NotRequired, TypedDict

from pytest_glasshouse.observation.document import Facts
from pytest_glasshouse.rows.leg_order import Role


class CnfClaim(TypedDict):
    """The session's two ephemeral public keys."""

    hpke: str
    sig: str


class StateClaim(TypedDict):
    """The journal's head when the evidence was made."""

    name: str
    head: str


class RankClaims(TypedDict):
    """What the evidence says of a rank of the leg other than the first."""

    rank: int
    sig: str
    components: dict[str, str]
    antidebug: Facts


class EvidenceClaims(TypedDict):
    """Signed by the agent: what was measured before a key was asked for."""

    cnf: CnfClaim
    components: dict[str, str]
    container: str
    state: StateClaim
    antidebug: Facts
    ranks: NotRequired[list[RankClaims]]


class ResultClaims(TypedDict):
    """Signed by the server: the attestation result."""

    iat: int
    ear_status: str
    eat_nonce: str
    evidence_sha256: str
    manifest: str
    policy: str
    plan: str
    composite: str
    attempt: int


class WorkloadClaim(TypedDict):
    """What the package trains."""

    initial_sha256: str


class ManifestClaims(TypedDict):
    """Signed by the owner: what the package holds."""

    workload: WorkloadClaim


class PackagedPart(TypedDict):
    """A part of the package."""

    name: str
    size: int


class ConfidentialClaims(TypedDict):
    """Of the same manifest: whether the package is confidential, and its parts."""

    confidential: bool
    parts: list[PackagedPart]


class HeadClaims(TypedDict):
    """Signed by the leg at its end: its journal's last link and its adapter's digest."""

    head: str
    count: int
    adapter: str
    status: NotRequired[str]


class ReceiptClaims(TypedDict):
    """Signed by the server: the journal's head and the agent's exit, countersigned."""

    iat: int
    nonce: str
    head_sha256: str
    exit_sha256: str
    attempt: int
    held_ms: NotRequired[int]


class GpuClaim(TypedDict):
    """The GPU memory of the leg, before and after its end; null where it could not be read."""

    before: NotRequired[int | None]
    after: NotRequired[int | None]
    of: NotRequired[str]
    reason: NotRequired[str]


class ScanLook(TypedDict):
    """One look at the leg's memory."""

    bytes: int


class ScanLooks(TypedDict):
    """The look after the wipe."""

    wiped: ScanLook


class ScanClaim(TypedDict):
    """The memory scan. Where it was unseen it has a `reason` and no counts."""

    status: str
    reason: NotRequired[str]


class ScanCounts(ScanClaim):
    """A memory scan that was done: counts by kind of secret."""

    copies: int
    left: dict[str, int]
    patterns: dict[str, int]
    control: dict[str, int]
    looks: ScanLooks


class ImagesClaim(TypedDict):
    """Whether the code that ran was still what was measured."""

    status: str
    reason: NotRequired[str]
    changed: NotRequired[list[str]]


class ExitClaims(TypedDict):
    """Signed by the agent once the leg's process was gone. `head` is bound to what the leg left.

    GPU, scan and images are read by one invariant each, which checks what it reads.
    """

    nonce: str
    head: str
    process_gone: bool
    exit_status: int
    workspace_entries: int
    gpu: Facts
    """A `GpuClaim`."""
    scan: Facts
    """A `ScanClaim`, or `ScanCounts`."""
    images: NotRequired[Facts]
    """An `ImagesClaim`."""


class RepeatBorders(TypedDict):
    """A repetition of the prologue before a turn, by that turn's leg: the counters at both of its borders."""

    turn: int
    borders: list[list[int]]


class BordersClaims(TypedDict):
    """Signed by the agent: who had which turn, and the counters at both borders of each turn, and of each repetition."""

    nonce: str
    roles: list[Role]
    turns: list[Role]
    borders: list[list[list[int]]]
    repeats: NotRequired[list[RepeatBorders]]


class Conditions(TypedDict, total=False):
    """Under what conditions the kernel ran a leg; empty where it could not be read."""

    nice: int
    policy: int
    processors: str
    hugePages: str


class RepeatTold(TypedDict):
    """What losses a leg told when it was asked to repeat its prologue, after so many timed stretches."""

    after: int
    losses: list[str]


class StretchesClaims(TypedDict):
    """Signed by the agent: a leg's timed stretches by the agent's clock, and the conditions seen at their ends."""

    nonce: str
    stretches: list[list[int]]
    conditions: list[Conditions]
    cpuNs: list[list[int]]
    waitsNs: list[list[int]]
    repeats: NotRequired[list[RepeatTold]]


class KeyReceived(TypedDict):
    """Journal line `key_received`."""

    result: str


class PackageVerified(TypedDict):
    """Journal line `package_verified`."""

    manifest: str
    open_ns: int


class PackageShared(TypedDict):
    """Journal line `package_shared`."""

    manifest: str


class Heads(TypedDict):
    """Journal line `zeroized` of a leg of several ranks: the heads of the other ranks' journals."""

    heads: list[str]


class TrainStarted(TypedDict):
    """Journal line `train_started`."""

    initial: str
    order_seed: int


class Zeroized(TypedDict):
    """Journal line `zeroized`."""

    zeroize_ns: int
    exposure_byte_s: NotRequired[int]
    exposure_peak_bytes: NotRequired[int]
