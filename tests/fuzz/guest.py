"""A guest that lies: a recorded honest conversation with anything in it changed, read by the code that reads guests.

What is taken has to be fit for everything that is done with it later: figures, findings, a record, the canonical form and the
strict reader. A refusal has the error that fits it. Nothing is written, and nothing blocks.

The conversations were recorded from rows of the mock provider, by writing down what `GuestChannel` was answered.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from pytest_glasshouse.analysis.figures import row_figures
from pytest_glasshouse.analysis.record import RecordSettings, build_record
from pytest_glasshouse.channel import bootstrap
from pytest_glasshouse.channel.allowance import Allowance
from pytest_glasshouse.channel.guest_channel import GuestChannel, _CountedSocket
from pytest_glasshouse.errors import FrameCutError, GuestGoneError, InfrastructureError, IntegrityError, ProtocolError
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs.leg_watch import LegDeadlineError, LegWatch, Progress
from pytest_glasshouse.legs.protected import _note_watch
from pytest_glasshouse.legs.raw import RawLeg
from pytest_glasshouse.observation.outcome import AllocationFacts, Ended, Outcome
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.canonical import b64u, canonical, parse_strict, unb64u
from pytest_glasshouse.wire.guest_messages import CLAIMS, GREETING
from tests.fuzz.mutation import Tape, changed_bytes, changed_json

_RECORDED = Path(__file__).parents[1] / "data" / "guest_conversations.json"
#: A report is not read that is nested deeper: an observation is some levels into it.
_REPORT_DEPTH_LEFT = 8
_writing = [False]


def _watch_writes(event: str, arguments: tuple[Any, ...]) -> None:
    if not _writing[0] or "/ghw-" in str(arguments[:1]):  # where wheels for a guest are fetched to
        return
    flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
    if event in {"os.mkdir", "os.rename", "os.remove", "subprocess.Popen", "os.system"} or flags & (os.O_WRONLY | os.O_RDWR):
        raise AssertionError(f"{event} {arguments[:1]} because of what a guest said")


sys.addaudithook(_watch_writes)


@contextlib.contextmanager
def _nothing_written() -> Iterator[None]:
    _writing[0] = True
    try:
        yield
    finally:
        _writing[0] = False


class _Bytes:
    """A socket's end with bytes in it, and an end."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def recv_into(self, view: memoryview, /) -> int:
        return self._data.readinto(view)

    def settimeout(self, value: float | None, /) -> None:
        pass


class _Recorded(GuestChannel):
    """A channel whose guest answers from a table, as bytes, without delay."""

    def __init__(self, reply: Callable[[str, dict[str, Any]], bytes], allowance: Allowance) -> None:
        self._reply = reply
        super().__init__("", allocation_id="a", allowance=allowance, reconnect_s=0.0)

    def _connect(self, _deadline: float) -> Any:
        return None

    def _disconnect(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _exchange_once(self, message: Mapping[str, Any], payload: bytes | memoryview, last: float | None) -> Any:
        data = _Bytes(self._reply(message["op"], dict(message)))
        try:
            received = frames.receive(_CountedSocket(cast("Any", data), self._allowance))
        except FrameCutError as error:
            raise ConnectionError(str(error)) from None
        if received is None:
            raise ConnectionError("closed")
        return received


tempfile.gettempdir()  # tries once whether it can be written to


@cache
def _conversations() -> dict[str, dict[str, Any]]:
    conversations: dict[str, dict[str, Any]] = json.loads(_RECORDED.read_text())
    return conversations


def _frame(message: Any, tape: Tape) -> bytes:
    """As an agent would send it; where there is no canonical form, as plain JSON."""
    try:
        text = canonical(message)
    except IntegrityError:
        text = json.dumps(message).encode("utf-8", "surrogatepass")
    whole = len(text).to_bytes(4, "big") + (0).to_bytes(4, "big") + text
    return changed_bytes(whole, tape) if tape.number(32) == 1 else whole


def _changed_inside(event: Any, tape: Tape) -> Any:
    """An event whose journal line or token is changed: well-formed, with an invalid signature."""
    body = event["body"]
    if event["type"] == "journal":
        text = changed_json(json.loads(body["line"]), tape)
        with contextlib.suppress(Exception):
            body["line"] = canonical(text).decode()
    elif event["type"] in CLAIMS:
        header, claims, signature = body[event["type"]].split(".")
        with contextlib.suppress(Exception):
            changed = canonical(changed_json(json.loads(unb64u(claims)), tape))
            body[event["type"]] = f"{header}.{b64u(changed)}.{signature}"
    else:
        event["body"] = changed_json(body, tape)
    return event


def _lying(events: list[Any], tape: Tape) -> Any:
    """The spool of a lying guest."""
    events = copy.deepcopy(events)
    act = tape.number(4)
    if act == 0:
        return changed_json(events, tape)
    if act == 1 and tape:
        other, place = tape.number(len(events)), tape.number(len(events))
        events[place] = {**copy.deepcopy(events[other]), "seq": place}
    for _ in range(1 + tape.number(3)):
        place = tape.number(len(events))
        events[place] = _changed_inside(events[place], Tape(tape.take(12)))
    return events


def guest_messages(data: bytes) -> None:
    """A row read to its end, or refused; its observation can be judged, computed, recorded and read again."""
    tape = Tape(data)
    if tape.number(8) == 7:
        installer(tape)
        return
    recorded = _conversations()[sorted(_conversations())[tape.number(len(_conversations()))]]
    replies = dict(recorded["replies"])
    events: Any = recorded["events"]
    if tape.number(3):
        events = _lying(events, tape)
    else:
        op = sorted(replies)[tape.number(len(replies))]
        replies[op] = changed_json(replies[op], tape)

    def reply(op: str, message: dict[str, Any]) -> bytes:
        if op == "pull":
            from_here = events[message["cursor"] :] if isinstance(events, list) else events
            return _frame({"events": from_here}, tape)
        return _frame(replies.get(op, {}), tape)

    observation = copy.deepcopy(recorded["observation"])
    with _nothing_written():
        taken = _received(_Recorded(reply, Allowance(leg_bytes=8 << 20)), observation)
        # What is left of a refused conversation is part of an honest one: it is checked now and then.
        if taken or data[-1:] < b"\x20":
            _used(observation)


def _received(channel: GuestChannel, observation: Any) -> bool:
    """Read it as the legs do, and record what they record; returns whether all of it was accepted."""
    notes = observation["rounds"][0]

    def hello() -> None:
        greeting = channel.request("hello")
        GREETING.check(greeting, "hello")
        for met in notes["guest"]:
            met.update({name: greeting[name] for name in met if name in greeting})

    def enrol() -> None:
        proved = channel.request("enrol")
        notes["protected"].update(ak=proved["ak"], proof=proved["proof"])

    def covariates() -> None:
        if "covariates" in notes:
            notes["covariates"] = channel.request("covariates")

    legs = [partial(_receive_leg, channel, role, notes) for role in ("protected", "raw")]
    steps: list[Callable[[], None]] = [hello, enrol, covariates, *legs]
    return [_taken(each) for each in steps] == [True] * len(steps)


def _taken(step: Callable[[], None]) -> bool:
    try:
        step()
    except (ProtocolError, GuestGoneError, LegDeadlineError):
        return False
    return True


class _Current:
    """What a raw leg's end reads of its round."""

    def __init__(self, channel: GuestChannel) -> None:
        self.channel = channel
        self.adapter_limit = 1 << 20

    def host_times(self, _leg: str, _watch: LegWatch) -> dict[str, int]:
        return {}


def _as_json(progress: Progress) -> None:
    progress.to_json()


def _receive_leg(channel: GuestChannel, role: str, notes: Any) -> None:
    leg_id = f"{role}-{notes['nonce'][:12]}"
    progress = Progress(row_id="r", leg=role, phase="start", round=1, rounds=1, elapsed_s=0.0)
    watch = LegWatch(
        channel, leg_id=leg_id, leg=role, timeout_s=0.0, target_s=1.0, steps=None, emit=_as_json,
        progress=progress, allocation_id="a",
    )  # fmt: skip

    def on_event(kind: str, body: dict[str, Any]) -> None:
        if kind == "evidence":
            notes["protected"].update(evidence=body["evidence"], releaseLog=body["log"])
        elif kind == "head":
            notes["protected"]["head"] = body["head"]

    try:
        watch.until_exit(0, on_event)
    finally:
        lost = Ended(outcome="error", reason="", decision="")
        if role == "protected":
            _note_watch(notes["protected"], watch)
        else:
            RawLeg(cast("Any", _Current(channel)), role="raw", material={}, watch=watch, notes=notes["raw"]).finish(lost)


_SETTINGS = RecordSettings(margin_pct=1.0, seed=7)


def _used(observation: Any) -> None:
    """Everything that is done with an observation. No exception is expected here, and no value that no report can hold."""
    text = canonical(observation)
    if len(text) > 16 << 20:
        raise AssertionError("more was recorded than a leg may send")
    nested: Any = observation
    for _ in range(_REPORT_DEPTH_LEFT):
        nested = [nested]
    parse_strict(canonical(nested), limit=len(text) + 64)
    found, rounds = judge(observation), results(observation)
    order = observation["plan"]["order"]
    row = RowSpec(name="row", workload="mlp", gpu="anygpu", order=order, target_s=1.0)
    if all(each.protected is not None and each.raw is not None for each in rounds):
        row_figures(rounds)
    facts = AllocationFacts(
        provider="mock", provider_instance_id="i", name="a", gpu_model="CPU", gpu_uuid=None, dry_run=True, simulated=False
    )
    outcome = Outcome(row=row, declared=row, allocation=facts, observation=observation)
    record = build_record(outcome, rounds, found, _SETTINGS, judge=judge)
    canonical(record)


_INSTALLER = (
    {"need": {"running": False, "python": "3.11", "machine": "x86_64", "missing": ["rfc8785"]}}, {"phase": "copy"},
    {"phase": "install"}, {"phase": "agent"}, {"ready": {"socket": "/var/lib/glasshouse/agent/agent.sock"}},
)  # fmt: skip


def installer(tape: Tape) -> None:
    """Messages of the installer on a guest over SSH: accepted, refused, or retried."""
    messages = changed_json(list(_INSTALLER), tape)
    lines = (
        b"\n".join(json.dumps(message).encode() for message in (messages if isinstance(messages, list) else [messages])) + b"\n"
    )
    stream = io.BytesIO(changed_bytes(lines, tape) if tape.number(3) == 0 else lines)
    connection = bootstrap._InstallerConnection(cast("Any", _Client(stream)))
    with _nothing_written(), contextlib.suppress(ProtocolError, InfrastructureError, ValueError, EOFError):
        path = bootstrap._run_installer(
            connection, b"archive", "a", needed={"rfc8785": "0.1.4"}, fetch=lambda _missing, **_where: (), on_phase=_one_line
        )
        if ":" in path or not path.startswith("/") or not path.isprintable() or ".." in path.split("/"):
            raise AssertionError(f"{path!r} became a part of a command line")


def _one_line(text: str) -> None:
    if not text.isprintable():
        raise AssertionError("unescaped text of a guest was shown")


class _Client:
    def __init__(self, stream: io.BytesIO) -> None:
        self.stdin, self.stdout = io.BytesIO(), stream
