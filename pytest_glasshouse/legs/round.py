"""One round of one row: its settings, and its part of the observation, in which everything seen is recorded.

Nothing is judged here. Findings and figures are computed from the observation alone, here and by anyone who has the report.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.channel.allowance import Allowance
from pytest_glasshouse.channel.guest_channel import Channel
from pytest_glasshouse.errors import GuestGoneError, InfrastructureError, IntegrityError, ProtocolError
from pytest_glasshouse.legs.leg_watch import LegDeadlineError, LegWatch, Progress
from pytest_glasshouse.legs.nodes import LegMeeting
from pytest_glasshouse.observation.document import Exit, Failure, Greeting, Head, LoadedCode, Stretches
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.observation.trained import Callback, Started
from pytest_glasshouse.wire.elapsed import since_boot_ns
from pytest_glasshouse.wire.guest_messages import DETAIL, GREETING
from pytest_glasshouse.wire.host_messages import Meeting
from pytest_glasshouse.wire.leg_messages import rank_id
from pytest_glasshouse.wire.marks import MarkWanted
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.adapter_figures import adapter_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_glasshouse.legs.attempt_marks import AttemptMarks
    from pytest_glasshouse.observation.document import (
        GuestSeen,
        HostTimes,
        LegNotes,
        ProtectedNotes,
        RankNotes,
        RawNotes,
        RoundNotes,
        TrainingPlanRecord,
    )
    from pytest_glasshouse.providers.base import Grant, Instance
    from pytest_glasshouse.rows.interleaving import Interleaving
    from pytest_glasshouse.rows.leg_order import Role
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import (
        NodesOrder,
        ProtectedOrder,
        RanksOrder,
        RawOrder,
        SegmentPlanRecord,
        StartRequest,
        TrainingPlan,
    )
    from pytest_glasshouse.wire.tensors import Buffer
    from pytest_glasshouse.workloads.base import Material

#: Set-up, attestation, export and zeroize together must not take longer than this, beside warm-up and target.
ALLOWANCE_S = 600.0


@dataclass(kw_only=True)
class Round:
    """One round on one allocation."""

    row: RowSpec
    grant: Grant
    channel: Channel
    material: Material
    number: int
    rounds: int
    seed: int
    run_id: str
    subject: str
    leg_timeout_s: float | None
    listing: Callable[[], Iterable[Instance]]
    emit: Callable[[Progress], None]
    cursor: int
    plan_sha256: str
    confidential: bool = False
    strict_memory: bool = False
    design: Interleaving | None = None
    """How the legs take turns; None where they run one after the other."""
    allowance: Allowance = field(default_factory=Allowance)
    vouch: Callable[[Round, str], str] | None = None
    """Signs for the agent's key where no protected leg enrols it."""
    marks: AttemptMarks | None = None
    """Has the attestation server count this round, and sign its time at the borders of timed stretches."""
    order: Sequence[Role]
    """In which order the legs run, or start."""
    untrusted_guest: str = ""
    """Why nothing more may be started on this guest."""
    nonce: str = field(default_factory=lambda: secrets.token_hex(32))
    node: int = 0
    """Whose part of the round this is, on an allocation of several nodes; `channel` leads to its agent."""
    meetings: dict[Role, LegMeeting] = field(default_factory=dict)
    """Of legs over several nodes, by leg: the parts on all nodes share this."""

    def __post_init__(self) -> None:
        #: The parts on the other nodes.
        self.others: list[Round] = []
        self._watches: list[LegWatch] = []
        self._begun: set[str] = set()
        self._started_ns: dict[Role, int] = {}
        self._began_ns = since_boot_ns()
        #: This round's part of the observation; legs add to it.
        self.notes: RoundNotes = {
            "round": self.number,
            "nonce": self.nonce,
            "guest": [],
            "protected": None,
            "raw": None,
            "order": list(self.order),
        }

    def add_nodes(self, channels: Sequence[Channel]) -> None:
        """Add this round's parts on the other nodes, whose notes become part of this one's."""
        for node, channel in enumerate(channels, 1):
            part = replace(self, channel=channel, node=node, marks=None, cursor=0, emit=lambda _progress: None)
            self.others.append(part)
            self.notes.setdefault("nodes", []).append(part.notes)

    @property
    def untrusted(self) -> str:
        """Why nothing more may be started on the guest of any node; "" where it may."""
        return next((part.untrusted_guest for part in self.parts if part.untrusted_guest), "")

    @property
    def parts(self) -> list[Round]:
        """The round's part on every node, in their order: this one first."""
        return [self, *self.others]

    @property
    def ranks(self) -> int:
        """How many ranks a leg has on each node."""
        return self.row.gpus // self.row.nodes

    def ranks_order(self, leg: Role) -> RanksOrder:
        """The members of a leg's order about its ranks; nothing for a leg of one rank."""
        order: RanksOrder = {} if self.ranks == 1 else {"ranks": self.ranks}
        if self.row.nodes > 1:
            meeting = self.meetings.setdefault(leg, LegMeeting())
            nodes: NodesOrder = {"node": self.node, "nodes": self.row.nodes, "secret": meeting.secret}
            if meeting.place is not None:
                nodes["meeting"] = meeting.place
            order["nodes"] = nodes
        return order

    def leg_id(self, leg: Role) -> str:
        """Unique on the allocation: it names the leg's workspace and exports there."""
        return f"{leg}-{self.nonce[:12]}"

    def order_seed(self, leg: Role) -> int:
        """The seed of this leg's data order: recorded, and another one for every leg and round."""
        drawn = hashlib.sha256(f"glasshouse-order/1\n{self.seed}\n{self.number}\n{leg}".encode()).digest()
        # 48 bits: canonical JSON and the journal hold integers up to 2^53.
        return int.from_bytes(drawn[:6], "big")

    def guest_plan(self, leg: Role) -> TrainingPlan:
        """What a leg is to train, as its guest is sent it."""
        # What the package holds is no file of the guest.
        target, base = self.row.target_s, None if self.row.sealed else self.material.base
        return {
            "workload": self.row.workload,
            "device": "cuda" if self.grant.device == "cuda" else "cpu",
            "warmup_ns": round(self.row.warmup_s * 1e9),
            "target_ns": None if target is None else round(target * 1e9),
            "steps": self.row.steps,
            "order_seed": self.order_seed(leg),
            "base": None if base is None else {"sha256": base.sha256},
            "segments": self._segments(),
        }

    def training_plan(self, leg: Role) -> TrainingPlanRecord:
        """What a leg is to train, as the observation has it."""
        plan = self.guest_plan(leg)
        return {
            "workload": plan["workload"],
            "device": plan["device"],
            "warmup_ns": plan["warmup_ns"],
            "target_ns": plan["target_ns"],
            "steps": plan["steps"],
            "order_seed": plan["order_seed"],
            "segments": plan["segments"],
            "base_directory": plan["base"] is not None,
        }

    def _segments(self) -> SegmentPlanRecord | None:
        design = self.design
        if design is None:
            return None
        return {
            "warmup_limit_ns": round(design.warmup_limit_s * 1e9),
            "washout_ns": round(design.washout_s * 1e9),
            "segment_ns": None if design.segment_s is None else round(design.segment_s * 1e9),
            "segment_steps": design.segment_steps,
        }

    def begin(self, leg: Role, order: ProtectedOrder | RawOrder) -> None:
        """Start a leg: alone, or as one of this round's legs that take turns."""
        self._started_ns[leg] = since_boot_ns()
        start: StartRequest = {"leg": self.leg_id(leg), "order": order}
        if self.design is None:
            if self.node == 0:
                self.allowance.begin(self.row.nodes)
            if self.witness is not None:
                order["witness"] = self.witness
        else:
            start |= {"round": self.turns_id, "role": leg}
        self._begun.add(self.leg_id(leg))
        reply = self.channel.request("start", start)
        if self.design is None:
            self.skip_earlier_events(reply)
        if self.row.nodes > 1 and self.node == 0:
            try:
                self.meetings[leg].place = check_typed(reply["meeting"], Meeting, "start.meeting")
            except KeyError:
                raise self.broke_protocol("start: expected to hear where the other nodes' ranks meet its own") from None

    def skip_earlier_events(self, reply: dict[str, Json]) -> None:
        """Events from before a leg was started belong to other rows: they are not read again."""
        self.cursor = max(self.cursor, check_typed(reply.get("cursor", 0), int, "cursor"))

    @property
    def adapter_limit(self) -> int:
        """The largest adapter there can be, in bytes: the initial weights trained, perhaps in a wider type, and sealed."""
        return 4 * len(self.material.parts["initial"]) + (1 << 20)

    @property
    def running(self) -> bool:
        """Whether a leg was started whose exit was not seen."""
        here = any(not watch.ended for watch in self._watches if watch.leg_id in self._begun)
        return here or any(other.running for other in self.others)

    def host_times(self, leg: Role, watch: LegWatch) -> HostTimes:
        """The host's clock, from the round's beginning: before the leg was started, and when its signed exit had arrived."""
        found: HostTimes = {"startNs": self._started_ns[leg] - self._began_ns}
        if watch.exit_ns is not None:
            found["exitNs"] = watch.exit_ns - self._began_ns
        return found

    def begin_marked(self) -> None:
        """Begin the round at the attestation server, before anything of it is started. Raises `InfrastructureError`."""
        if self.marks is not None:
            self.notes["marks"] = {"times": [], "agent": {}}
            self._mark(secrets.token_hex(16))

    @property
    def witness(self) -> str | None:
        """The key of the server whose marks are wanted at borders; None where none are."""
        return None if self.marks is None else self.marks.server_key

    def answer_mark(self, asker: str, body: dict[str, Json]) -> None:
        """Bring the mark of a border to the leg, or the turns, that wait for it. Raises `InfrastructureError`."""
        borders = 2 * len(self.order) if self.design is None else len(self.order) * self.design.pairs + 1
        if self.witness is None or len(self.notes["marks"]["times"]) > borders:
            raise self.broke_protocol(f"mark-wanted: expected no more than {borders} borders of a round")
        try:
            token = self._mark(check_typed(body, MarkWanted, "mark-wanted")["nonce"])
        except InfrastructureError:
            # Who asked waits for an answer that will not come.
            self.channel.request("answer", {"leg": asker, "kind": "refusal", "body": {"reason": "no-answer"}})
            raise
        self.channel.request("answer", {"leg": asker, "kind": "mark", "body": {"mark": token}})

    def _mark(self, nonce: str) -> str:
        assert self.marks is not None  # noqa: S101  (asked by the callers)
        token, t_us = self.marks.mark(round_nonce=self.nonce, nonce=nonce)
        self.notes["marks"]["times"].append([nonce, t_us])
        return token

    def note_marks(self, whose: str, body: dict[str, Json]) -> None:
        """Record the agent's account of the marks of a leg, or of the `turns`."""
        if "marks" not in self.notes or whose in self.notes["marks"]["agent"]:
            raise self.broke_protocol(f"expected one account of the marks of {whose}, where marks were asked for")
        self.notes["marks"]["agent"][whose] = check_typed(body["marks"], str, "marks")

    @property
    def turns_id(self) -> str:
        """The name of this round's turns at the agent."""
        return f"turns-{self.nonce[:12]}"

    def meet_guest(self, leg: Role) -> None:
        """Get the guest's greeting and the provider's listing, right before a leg."""
        reply = self.channel.request("hello")
        try:
            GREETING.check(reply, "hello")
            hello = check_typed(reply, Greeting, "hello")
        except ProtocolError as error:
            raise self.broke_protocol(error) from None
        seen: GuestSeen = {
            "leg": leg,
            "allocation": hello["allocation"],
            "bootId": hello["bootId"],
            "agentNonce": hello["agentNonce"],
            "ak": hello["ak"],
            "archiveSha256": hello["archiveSha256"],
            "gpuModel": hello["gpuModel"],
            "gpuUuid": hello["gpuUuid"],
            "driver": hello["driver"],
            "torch": hello["torch"],
            "python": hello["python"],
            "listed": sorted(i.instance_id for i in self.listing() if i.instance_id == self.grant.instance_id),
        }
        if self.vouch is not None:
            seen["vouched"] = self.vouch(self, hello["ak"])
        self.notes["guest"].append(seen)

    def watch(self, leg: Role) -> LegWatch:
        """A watch on one leg with this round's deadline."""
        ranks = [self._watch(leg, rank) for rank in range(1, self.ranks)]
        watch = self._watch(leg, 0, ranks=ranks)
        self._watches.append(watch)
        return watch

    def _watch(self, leg: Role, rank: int, *, ranks: Sequence[LegWatch] = ()) -> LegWatch:
        target = self.row.target_s
        timeout = self.leg_timeout_s or ALLOWANCE_S + self.trains_s()
        emit = self.emit if self.design is None else self._emit_without_rate
        return LegWatch(
            self.channel,
            leg_id=rank_id(self.leg_id(leg), rank),
            leg=leg,
            timeout_s=timeout,
            target_s=target,
            steps=self.row.steps,
            # What the first rank shows is the leg's progress.
            emit=emit if rank == 0 else lambda _progress: None,
            progress=Progress(
                row_id=self.row.row_id,
                leg=leg,
                phase="start",
                round=self.number,
                rounds=self.rounds,
                elapsed_s=0.0,
                legs=len(self.order),
            ),
            allocation_id=self.grant.allocation_id,
            ranks=ranks,
        )

    def _emit_without_rate(self, progress: Progress) -> None:
        """Legs that take turns are not compared while they run: a run could be stopped when the figures look good."""
        if progress.phase not in {"train", "wait"}:
            self.emit(replace(progress, fraction=None, rate=None))

    def trains_s(self) -> float:
        """How long a leg is expected to run beside its set-up and end, in seconds: in an interleaved round, all turns."""
        target = self.row.target_s
        if self.design is None or target is None:
            return self.row.warmup_s + (target * 1.5 if target else 24 * 3600)
        turns = len(self.design.legs) * self.design.pairs
        turn_s = (self.design.segment_s or 0.0) + self.design.washout_s
        return len(self.design.legs) * (self.design.warmup_limit_s + ALLOWANCE_S) + turns * (turn_s * 1.5 + 1)

    def follow(self, watch: LegWatch, on_event: Callable[[str, dict[str, Json]], None]) -> Ended | None:
        """Follow a leg to its exit. A guest that is lost on the way ends the row; it is no error of the run."""

        def on_leg_event(kind: str, body: dict[str, Json]) -> None:
            if kind == "mark-wanted":
                self.answer_mark(watch.leg_id, body)
            elif kind == "marks":
                self.note_marks(watch.leg, body)
            else:
                on_event(kind, body)

        try:
            self.cursor = watch.until_exit(self.cursor, on_leg_event)
        except (GuestGoneError, InfrastructureError) as error:
            if isinstance(error, LegDeadlineError) and not error.killed:
                self.untrusted_guest = str(error)
            return Ended(outcome="excluded", reason=str(error), decision=EXCLUDED)
        except ProtocolError as error:
            return self.ended_by_protocol(error)
        return None

    def broke_protocol(self, why: object) -> ProtocolError:
        """The error of a guest that broke the protocol."""
        return ProtocolError(f"guest of allocation {self.grant.allocation_id}: {why}", allocation_id=self.grant.allocation_id)

    def ended_by_protocol(self, error: ProtocolError) -> Ended:
        """How a row ends whose guest broke the protocol. Raises `error` again where it is not this guest's."""
        if error.allocation_id != self.grant.allocation_id:
            raise error
        self.untrusted_guest = str(error)
        return Ended(outcome="error", reason=f"the guest broke the protocol: {error}", decision=GUEST_ENDED)


EXCLUDED = "excluded from the overhead figures; run the row again"
GUEST_ENDED = "the guest was ended and nothing more of it is used; excluded from the overhead figures"


def protected_notes(notes: RoundNotes) -> ProtectedNotes:
    """The notes of the protected leg, begun if need be."""
    begun = notes["protected"]
    if begun is None:
        notes["protected"] = begun = {}
    return begun


def raw_notes(notes: RoundNotes, leg: Literal["raw", "raw2"]) -> RawNotes:
    """The notes of a raw leg, begun if need be."""
    begun = notes.get(leg)
    if begun is None:
        notes[leg] = begun = {}
    return begun


def note_figures(current: Round, notes: LegNotes, adapter: Buffer) -> None:
    """What the owner finds out about an adapter; nothing where it is none of this material's."""
    with contextlib.suppress(IntegrityError):
        notes["adapterFigures"] = adapter_figures(current.row.workload, current.material.parts, adapter)


def note_ranks(notes: LegNotes, watch: LegWatch) -> None:
    """What the other ranks of a leg left, where it has more than one."""
    if not watch.ranks:
        return
    notes["ranks"] = []
    for number, other in enumerate(watch.ranks, 1):
        found: RankNotes = {"rank": number, "timeline": other.timeline}
        found["images"] = other.body("images", LoadedCode)
        found["failed"] = other.body("failed", Failure)
        if (left := other.body("exit", Exit)) is not None:
            found["exit"] = left["exit"]
        if (timed := other.body("stretches", Stretches)) is not None:
            found["stretches"] = timed["stretches"]
        if other.journal:
            found["journal"] = other.journal
        if (head := other.body("head", Head)) is not None:
            found["head"] = head["head"]
        if "started" in other.events:
            found["started"] = other.body("started", Started)
        if "callback" in other.events:
            found["callback"] = other.body("callback", Callback)
        notes["ranks"].append(found)


def why_failed(failed: Failure) -> str:
    """Why a leg failed, as it says itself: the kind of error and its text."""
    detail = printable(failed["detail"], limit=DETAIL)
    return f"{failed['reason']}: {detail}" if detail else failed["reason"]
