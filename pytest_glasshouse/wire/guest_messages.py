"""What a guest may send: every reply of its agent, every event in its spool, every line of its journal, every token it signs.

Knows shapes, sizes, ranges and which event may come twice. Refuses to judge the content: that a message fits here means that it
can be kept, shown and published, and nothing else. What an honest guest sends is defined in `guest/` and `agent/`; a message
added there is added here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.wire import evidence
from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, Json, canonical, parse_object
from pytest_glasshouse.wire.foreign_text import foreign_text
from pytest_glasshouse.wire.hardware import ITEM_NAME, ITEMS_LIMIT
from pytest_glasshouse.wire.journal import FAILED, PROGRESS
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.shapes import Fields, Flag, Items, Maybe, NamedMembers, OneOf, Row, Shape, Text, Whole, wrong
from pytest_glasshouse.wire.tokens import TOKEN_LIMIT, peek

#: What one sample of the covariates holds, in this order: times in nanoseconds of the monotonic clock, shares in thousandths.
COVARIATES = (
    "t_ns", "sm_mhz", "memory_mhz", "temperature_c", "power_mw", "energy_mj", "throttle_reasons", "other_processes",
    "load_milli", "busy_milli", "steal_milli",
)  # fmt: skip
#: More samples than this are thinned out by the sampler; a day is 86 400.
MOST_SAMPLES = 200_000
#: Events in one answer, and how much of its frame they may take. An agent that has more gives the rest when it is asked again.
EVENTS_PER_PULL = 2_000
PULL_BYTES = 1 << 20
#: The longest line of a journal: its reader takes no longer one.
MOST_LINE = MESSAGE_LIMIT
#: Turns of one round, in all: days of them.
MOST_TURNS = 100_000
#: The longest reason a guest gives, in characters: what its agent cuts them to.
DETAIL = 500
#: Kinds of batches that a leg names.
MOST_KINDS = 15
#: Different conditions that an agent notes of one leg.
MOST_CONDITIONS = 16

Members: TypeAlias = "dict[str, Shape]"

ROLES = ("protected", "raw", "raw2")
_NS = Whole()
_COUNT = Whole()
#: Steps or epochs; what many rounds did together is a number, too.
_UNITS = Whole(high=2**40)
_BYTE_S = Whole(high=2**51)
#: A place in the spool: what is behind it is a number, too.
_PLACE = Whole(high=2**40)
_PORT = Whole(low=1, high=65535)
_HEX = Text(most=64, pattern="[0-9a-f]{64}")
_NONCE = Text(most=128, pattern="[0-9a-f]{0,128}")
_KEY = Text(most=43, pattern="[A-Za-z0-9_-]{43}")
_SIGNATURE = Text(most=86, pattern="[A-Za-z0-9_-]{86}")
_NAME = Text(most=128, pattern="[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_LABEL = Text(most=128)
_REASON = Text(most=DETAIL + 20)
_VERSION = Text(most=64, pattern="[0-9][0-9A-Za-z.+~_-]{0,63}")
_CODE = Text(most=64, pattern="[A-Za-z_][A-Za-z0-9 _-]{0,63}")
_LOSS = Text(most=32, pattern=r"-?[0-9]{1,24}(\.[0-9]{1,24})?(e[+-]?[0-9]{1,3})?")
_WALL = Text(most=40, pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")
_TOKEN = Text(most=TOKEN_LIMIT, pattern=r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_DEVICE = OneOf(("cpu", "cuda"))
#: Evidence of hardware, beside the token that names it by its digest.
_ITEM_NAME = Text(most=32, pattern=ITEM_NAME.pattern)
_DEVICES = NamedMembers(name=_ITEM_NAME, of=Fields({
    "type": _NAME, "evidence": Text(most=TOKEN_LIMIT, pattern="[A-Za-z0-9_-]*"),
    "endorsements": Items(of=Text(most=TOKEN_LIMIT, pattern=r"[\x20-\x7e\r\n]*"), most=8),
}), most=ITEMS_LIMIT)  # fmt: skip
_NOTHING = Fields({})
_NAMES = Items(of=_LABEL, most=64)


class _Single:
    """A number, a flag, null, or a short text."""

    def check(self, value: Json, where: str) -> None:
        if isinstance(value, str):
            _REASON.check(value, where)
        elif isinstance(value, dict | list):
            raise wrong(where, "a single value", value)


#: An answer to an operation that is not in the table below: few members, and nothing in them.
_OTHER = NamedMembers(name=_CODE, of=_Single(), most=16)

_HELLO: Members = {"agentNonce": _NAME, "allocation": _LABEL, "device": _DEVICE, "gpuModel": _LABEL, "gpuUuid": Maybe(_NAME)}
_ABOUT: Members = {
    "ak": _KEY, "archiveSha256": _HEX, "bootId": Text(most=64, pattern="[A-Za-z0-9-]{0,64}"), "driver": Maybe(_VERSION),
    "python": _VERSION, "torch": Maybe(_VERSION),
}  # fmt: skip
_BESIDE: Members = {
    "gpuCount": Whole(high=1024), "deviceReason": _REASON, "kernel": _LABEL, "transformers": Maybe(_VERSION),
    "peft": Maybe(_VERSION),
}  # fmt: skip
#: A guest's description of itself before every leg. The answer to a first hello may leave out members that decide nothing.
GREETING = Fields({**_HELLO, **_ABOUT}, _BESIDE)

_SAMPLE = Row((_NS, *[Maybe(Whole(low=-(2**53) + 1))] * (len(COVARIATES) - 1)))
_EVENT: Members = {"seq": _PLACE, "t_ns": _NS, "leg": _NAME}

REPLIES: Mapping[str, Shape] = MappingProxyType({
    "hello": Fields(_HELLO, {**_ABOUT, **_BESIDE}),
    "enrol": Fields({"ak": _KEY, "proof": _SIGNATURE}),
    "lay": _NOTHING, "put": _NOTHING, "drop": _NOTHING, "answer": _NOTHING, "dismiss": _NOTHING,
    "shutdown": _NOTHING,
    "model": _NOTHING,
    "arrival": Fields({
        "phase": OneOf(("push", "download", "make", "verify", "ready", "failed")),
        "source": OneOf(("there", "hub", "pushed", "made")),
        "done": _COUNT, "total": _COUNT, "wants": Maybe(Fields({"name": Text(most=200), "offset": _COUNT})),
        "reason": Maybe(_CODE), "detail": Maybe(_REASON), "ms": _COUNT, "held": Maybe(OneOf(("memory", "files"))),
    }),
    "start": Fields({}, {
        "cursor": _PLACE,
        "meeting": Fields({"address": Text(most=15, pattern="[0-9]{1,3}(\\.[0-9]{1,3}){3}"), "port": _PORT, "link_port": _PORT}),
    }),
    "kill": Fields({}, {"stopped": Items(of=Whole(high=evidence.MOST_RANKS), most=evidence.MOST_RANKS)}),
    "conduct": Fields({}, {"cursor": _PLACE}),
    "get": Fields({"total": _COUNT}),
    "covariates": Fields({
        "fields": Row([OneOf((name,)) for name in COVARIATES]),
        "samples": Items(of=_SAMPLE, most=MOST_SAMPLES),
        "reasons": NamedMembers(name=OneOf(COVARIATES), of=_REASON, most=len(COVARIATES)),
    }),
})  # fmt: skip
#: The answer of an agent that cannot do what it was asked.
REFUSAL = Fields({"error": _CODE, "detail": Text(most=DETAIL + 20, pattern=r"(?s).*")})

_PHASES = ("load_ns", "prologue_ns", "export_ns")
#: What ran. Every workload names its device; an idle one of the tamper suite has few other facts.
_FACTS = Fields({"device": _LABEL}, {
    "deviceUuid": Maybe(_NAME), "dtype": _NAME, "pythonVersion": _VERSION, "torchVersion": _VERSION, "threads": _COUNT,
    "trainableParameters": _COUNT, "totalParameters": _COUNT, "peakMemoryBytes": Maybe(_COUNT), "peakMemorySource": _LABEL,
    "batchesPerUnit": NamedMembers(name=Text(most=32, pattern="[0-9]+x[0-9]+"), of=_COUNT, most=16),
    "adapterDtype": _NAME, "transformersVersion": _VERSION, "peftVersion": _VERSION,
})  # fmt: skip
_CONTEXT: Members = {
    "environment": _HEX, "environment_names": Items(of=_LABEL, most=512), "libraries": _HEX, "library_count": _COUNT,
    "modules": _HEX, "module_count": _COUNT, "nice": Whole(low=-20, high=19),
    "affinity": Items(of=Whole(high=2**16), most=2**13),
    "limits": NamedMembers(
        name=Text(most=32, pattern="RLIMIT_[A-Z]+"), of=Items(of=Text(most=20, pattern="-?[0-9]+"), least=2, most=2), most=32
    ),
}  # fmt: skip
_STARTED: Members = {"initial": _HEX, "order_seed": _COUNT, "device": _DEVICE}
#: `[turn, units, elapsed_ns, cpu_ns, wash_units, wash_ns, wash_cpu_ns]`.
_SEGMENT = Row([_COUNT, _UNITS, _NS, _NS, _UNITS, _NS, _NS])
_TRAINED: Members = {
    "units": _UNITS, "elapsed_ns": _NS, "warmup_units": _UNITS, "warmup_ns": _NS, "cpu_ns": _NS,
    "stop_reason": OneOf(("time", "steps")), "final_loss": _LOSS, "prologue": Items(of=_LOSS, most=1024),
    "epilogue": Items(of=_LOSS, most=1024),
    "phases": Fields(dict.fromkeys(_PHASES, _NS)), "facts": _FACTS, "context": Fields(_CONTEXT),
}  # fmt: skip
#: `[steps, loss, digest]`.
_CHECKPOINT = Row([_UNITS, _LOSS, Text(most=32, pattern="[0-9a-f]{32}")])
#: Batches used, by shape and dtypes.
_BATCHES = NamedMembers(
    name=Text(most=96, pattern=r"others|[0-9]+(x[0-9]+)*( [a-z][a-z0-9_]{1,15}){3}"), of=_UNITS, most=MOST_KINDS + 1
)
#: What only some legs report: those that take turns, those of several ranks, those on a GPU.
_IN_TURNS: Members = {
    "steady": Flag(), "segments": Items(of=_SEGMENT, most=MOST_TURNS), "checkpoints": Items(of=_CHECKPOINT, most=64),
    "collective_ns": _NS, "batches": Fields(dict.fromkeys(("prologue", "training"), _BATCHES)),
    "gpu_ns": Maybe(Items(of=Row([_NS, _NS, _NS]), most=MOST_TURNS)),
}  # fmt: skip
_PROGRESS = Fields({"units": _UNITS, "elapsed_ns": _NS, "loss": _LOSS})
_STAGES = ("loaded", "trained", "wiped")

#: The body of each event.
EVENTS: Mapping[str, Shape] = MappingProxyType({
    "spawned": Fields({
        "kind": OneOf(("protected", "raw")),
        "cache": Fields({"state": OneOf(("pre-read",)), "files": _COUNT, "bytes": _COUNT}),
    }),
    "challenge-wanted": _NOTHING,
    "evidence": Fields({"evidence": _TOKEN, "log": Items(of=Text(most=MOST_LINE), least=1, most=2)}, {"devices": _DEVICES}),
    "journal": Fields({"line": Text(most=MOST_LINE)}),
    "head": Fields({"head": _TOKEN}),
    "more": Fields({"arrived": _COUNT}),
    "started": Fields(_STARTED),
    "progress": _PROGRESS,
    "callback": Fields(
        {"nonce": _NONCE, "status": OneOf(("completed",)), "adapter": _HEX, "opened_at_ns": _NS, **_STARTED, **_TRAINED},
        _IN_TURNS,
    ),
    "images": Fields(dict.fromkeys(("images", "system", "hooks", "foreign", "bytecode"), _HEX)),
    "resident": Fields({"warmup_units": _UNITS, "warmup_ns": _NS, "steady": Flag()}),
    **{f"{word}-{stage}": _NOTHING for word in ("scan", "scanned") for stage in _STAGES},
    "failed": Fields({"reason": _CODE, "detail": _REASON}),
    "exit": Fields({"exit": _TOKEN, "exit_status": Whole(low=-1024, high=1024)}),
    "borders": Fields({"borders": _TOKEN}),
    "stretches": Fields({"stretches": _TOKEN}),
    "mark-wanted": Fields({"nonce": Text(most=32, pattern="[0-9a-f]{32}")}),
    "marks": Fields({"marks": _TOKEN}),
    "turn": Fields({"turn": Whole(low=1), "turns": Whole(low=1, high=MOST_TURNS), "leg": OneOf(ROLES)}),
})  # fmt: skip
#: The events a leg may send, by its kind. A round's turns come from the agent, from no leg.
_EITHER = ("spawned", "images", "resident", "failed", "mark-wanted", "marks", "stretches", "exit")
EVENTS_OF: Mapping[str, frozenset[str]] = MappingProxyType({
    "protected": frozenset({
        *_EITHER, "challenge-wanted", "evidence", "more", "journal", "head",
        *(name for name in EVENTS if name.startswith("scan")),
    }),
    "raw": frozenset({*_EITHER, "started", "progress", "callback"}),
})  # fmt: skip
#: All others are sent once by a leg. `failed` may come twice: from the leg, and from its agent when it has ended.
REPEATABLE_EVENTS = frozenset({"journal", "progress", "more", "failed", "mark-wanted"})

_OBSERVED: Members = {
    name: _NAMES if isinstance(required, list) else Whole(low=-(2**53) + 1)
    for name, required in evidence.ANTIDEBUG_STRICT.items()
}
#: The body of each line of a journal.
JOURNAL: Mapping[str, Shape] = MappingProxyType({
    "anti_debug_ready": Fields({"wall": _WALL, "observed": Fields(_OBSERVED)}),
    "measured": Fields({"composite": _HEX}),
    "key_received": Fields({"result": _HEX}),
    "package_verified": Fields(
        {"manifest": _HEX, "open_ns": _NS, "locked": Whole(high=1)}, {"ring_bytes": _COUNT, "pinned": Whole(high=1)}
    ),
    "package_shared": Fields({"manifest": _HEX, "bytes": _COUNT}),
    "train_started": Fields(_STARTED),
    PROGRESS: _PROGRESS,
    "train_completed": Fields(_TRAINED, _IN_TURNS),
    FAILED: Fields({"reason": _CODE}),
    "adapter_exported": Fields({"sha256": _HEX, "sealed_sha256": _HEX, "bytes": _COUNT}),
    "zeroized": Fields({
        "wiped_bytes": _COUNT, "zeroize_ns": _NS, "exposure_byte_s": _BYTE_S, "exposure_peak_bytes": _COUNT,
    }, {"heads": Items(of=_HEX, least=1, most=evidence.MOST_RANKS)}),
})  # fmt: skip
_BORDERS = Items(of=Items(of=_COUNT, least=3, most=7), least=2, most=2)
#: A repetition of the prologue's first steps: timed stretches before it, losses.
_REPEAT = Fields({"after": _COUNT, "losses": Items(of=_LOSS, least=1, most=64)})
_CONDITIONS = Fields({}, {
    "nice": Whole(low=-20, high=19), "policy": Whole(high=16), "processors": Text(most=64), "hugePages": Text(most=8),
})  # fmt: skip
_LINE: Members = {"seq": _COUNT, "prev": _HEX, "t_us": _COUNT, "type": OneOf(tuple(JOURNAL))}

_SCANNED = (*evidence.SCAN_KINDS, evidence.SCAN_WEIGHTS)
_COUNTS = NamedMembers(name=OneOf(_SCANNED), of=_COUNT, most=len(_SCANNED))
_SCAN_STATUS = OneOf(("clean", "dirty", "unseen"))
_LOOKS = (*_STAGES, "launcher")
_LOOK = Fields({"bytes": _COUNT, "unreadable": _COUNT, "ns": _NS})
_GPU: Members = {
    "before": Maybe(_COUNT),
    "after": Maybe(_COUNT),
    "of": OneOf(("nothing", "process", "device")),
    "reason": _REASON,
}
_SEEN: Members = {
    "patterns": _COUNTS, "control": _COUNTS, "left": _COUNTS, "copies": _COUNT,
    "looks": NamedMembers(name=OneOf(_LOOKS), of=_LOOK, most=len(_LOOKS)),
}  # fmt: skip
_ANTIDEBUG = Fields({"enabled": Flag(), "profile": _NAME, "version": _COUNT, "observed": Fields(_OBSERVED)})
_CLAIM: dict[type, Shape] = {str: Text(most=512), int: _COUNT}
#: The claims of each token that agent or leg sign.
CLAIMS: Mapping[str, Shape] = MappingProxyType({
    "evidence": Fields({
        **{name: _CLAIM[kind] for name, kind in evidence.EVIDENCE_SHAPE.items() if kind in _CLAIM},
        "cnf": Fields(dict.fromkeys(evidence.CNF_SHAPE, _KEY)),
        "components": NamedMembers(name=Text(most=64, pattern="[a-z][a-z0-9-]*"), of=_HEX, most=64),
        "antidebug": _ANTIDEBUG,
        "memory": Fields({"locked": Flag(), "bytes": _COUNT}),
        "state": Fields({"name": _NAME, "head": _HEX}),
    }, {"submods": NamedMembers(name=_ITEM_NAME, of=Fields({"type": _NAME, "sha256": _HEX}), most=ITEMS_LIMIT),
        "ranks": Items(of=Fields({
            "rank": Whole(low=1, high=evidence.MOST_RANKS), "sig": _KEY,
            "components": NamedMembers(name=Text(most=64, pattern="[a-z][a-z0-9-]*"), of=_HEX, most=64),
            "antidebug": _ANTIDEBUG,
        }), least=1, most=evidence.MOST_RANKS),
    }),
    "head": Fields({
        "nonce": _NONCE, "head": _HEX, "count": _COUNT, "adapter": Text(most=64, pattern="([0-9a-f]{64})?"),
        "status": OneOf(("completed", "failed")),
    }),
    "exit": Fields({
        "nonce": _NONCE, "head": Text(most=64, pattern="([0-9a-f]{64})?"), "process_gone": Flag(),
        "exit_status": Whole(low=-1024, high=1024), "workspace_entries": _COUNT, "gpu": Fields(_GPU),
        "scan": Fields({"status": _SCAN_STATUS, "reason": _REASON}, _SEEN),
        "images": Fields(
            {"status": OneOf(("unchanged", "changed", "unseen"))},
            {"reason": _REASON, "late": _COUNT, "changed": Items(of=Text(most=320), most=512)},
        ),
    }),
    "stretches": Fields({
        "nonce": _NONCE, "stretches": Items(of=Row([_NS, _NS, _NS, _NS, _UNITS, _NS]), most=MOST_TURNS),
        "conditions": Items(of=_CONDITIONS, most=MOST_CONDITIONS),
    }, {
        "cpuNs": Items(of=Row([_NS, _NS]), most=MOST_TURNS), "waitsNs": Items(of=Row([_NS, _NS]), most=MOST_TURNS),
        "repeats": Items(of=_REPEAT, most=MOST_TURNS),
    }),
    "marks": Fields({"nonce": _NONCE, "marks": Items(of=Row([_NONCE, _NS, _NS]), most=MOST_TURNS + 1)}),
    "borders": Fields({
        "nonce": _NONCE, "roles": Items(of=OneOf(ROLES), least=1, most=3), "turns": Items(of=OneOf(ROLES), most=MOST_TURNS),
        "borders": Items(of=_BORDERS, most=MOST_TURNS),
    }, {"repeats": Items(of=Fields({"turn": Whole(low=1, high=MOST_TURNS), "borders": _BORDERS}), most=MOST_TURNS)}),
})  # fmt: skip


#: The reason of a leg that found no room on its device.
OUT_OF_MEMORY = "OutOfMemoryError"


def failure(error: BaseException, detail: object = None) -> dict[str, Json]:
    """The body of `failed`: why a leg ended, in a form that is passed on and may be published."""
    reason = getattr(error, "reason", None)
    try:
        _CODE.check(reason, "reason")
    except ProtocolError:
        reason = type(error).__name__[:64]
    return {"reason": reason, "detail": foreign_text(error if detail is None else detail, limit=DETAIL)}


def check_event(kind: str, body: Json) -> None:
    """Refuse an event that no leg sends: the agent checks each before it passes it on."""
    EVENTS[kind].check(body, kind)
    _check_inside(kind, body, kind)


def check_reply(op: str, reply: dict[str, Json], *, payload: int = 0) -> None:
    """Refuse an answer to `op`, with so many bytes beside it, that no agent gives. Events are `check_events`' to refuse."""
    if "error" in reply:
        REFUSAL.check(reply, op)
    elif op != "pull":
        REPLIES.get(op, _OTHER).check(reply, op)
    if payload and op != "get":
        raise ProtocolError(f"{op}: expected no bytes beside the answer, saw {payload}")


def check_events(reply: dict[str, Json], cursor: int) -> list[dict[str, Json]]:
    """The events of an answer to `pull`, from `cursor` on and without a gap."""
    events = reply.get("events")
    if reply.keys() != {"events"} or not isinstance(events, list) or len(events) > EVENTS_PER_PULL:
        raise ProtocolError(f"pull: expected a list of at most {EVENTS_PER_PULL} events")
    checked = []
    for number, event in enumerate(events):
        where = f"event {cursor + number}"
        if not isinstance(event, dict) or event.get("seq") != cursor + number or type(event["seq"]) is not int:
            raise ProtocolError(f"{where}: expected it in its place, saw another")
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in EVENTS:
            raise ProtocolError(f"{where}: expected a known type of event, saw {printable(kind, limit=40)}")
        Fields({**_EVENT, "type": OneOf((kind,)), "body": EVENTS[kind]}).check(event, f"{where} ({kind})")
        _check_inside(kind, event["body"], where)
        checked.append(event)
    return checked


def check_line(line: str, where: str) -> dict[str, Json]:
    """One line of a journal, read. Whether it follows from the one before is for its reader to check."""
    try:
        parsed = parse_object(line)
        exact = canonical(parsed).decode() == line
    except IntegrityError as error:
        raise ProtocolError(f"{where}: not a line of a journal ({error.reason})") from None
    kind = parsed.get("type")
    body = JOURNAL.get(kind) if isinstance(kind, str) else None
    if body is None or not exact:
        raise ProtocolError(f"{where}: expected a journal line of a known kind, saw {printable(kind, limit=40)}")
    Fields({**_LINE, "body": body}).check(parsed, f"{where} ({kind})")
    return parsed


def _check_inside(kind: str, body: Json, where: str) -> None:
    """Lines and tokens are texts with a message inside, which is published with them."""
    assert isinstance(body, dict)  # noqa: S101  (checked by its shape)
    if kind == "journal":
        check_line(str(body["line"]), where)
    for number, line in enumerate(body["log"] if kind == "evidence" and isinstance(body["log"], list) else ()):
        check_line(str(line), f"{where}.log[{number}]")
    if kind in CLAIMS:
        try:
            claims = peek(str(body[kind]))
        except IntegrityError as error:
            raise ProtocolError(f"{where}: not a token ({error.reason})") from None
        CLAIMS[kind].check(claims, f"{where} ({kind})")
