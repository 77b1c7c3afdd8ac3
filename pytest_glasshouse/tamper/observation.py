"""Finished rounds with one thing changed and validly signed: the invariant it concerns must not hold.

The reason is the name of the first finding that breaks, or `unseen: <name>` where the evidence left is not enough to judge.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.rows.leg_order import LegName
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.signed_round import (
    CONTEXT,
    INITIAL,
    PHASES,
    RoundEdit,
    SignedRound,
    clean_scan,
    rounds_of_a_row,
    untouched,
)
from pytest_glasshouse.tamper.testbed import CONTAINER, Editable, TamperTestbed
from pytest_glasshouse.wire import journal, tokens
from pytest_glasshouse.wire.canonical import canonical, parse_object, sha256_hex, unb64u

_OTHER = sha256_hex(b"another")
#: The edit of each case of this module.
EDITS: dict[str, RoundEdit] = {}

_ATTESTED, _KEY, _WEIGHTS = "attestation verified", "key released only after attestation", "weights loaded from the package"
_ZEROIZED, _SIGNED, _CALLBACK = "runtime zeroized", "journal countersigned", "raw callback completed"
_TIME = "time accounted for"
_ORDER, _DISTINCT, _TRAINED = "legs in order, not overlapping", "adapter digests distinct", "both adapters trained"
_SCANNED = "memory scanned clean"
_FINITE, _PLACE, _WORK = "losses finite", "same allocation", "same work"


def judge_changed_round(
    testbed: TamperTestbed, edit: RoundEdit, *, turns: Sequence[LegName] = (), of: RoundEdit = untouched, rounds: int = 1
) -> None:
    """Judge `rounds` edited rounds of one row as a check does; raise `RefusedError` with the finding that does not hold.

    `of` makes the rounds of another kind, in which everything holds.
    """
    unchanged = {each.invariant: each.finding for each in judge(SignedRound(testbed, of, turns=turns).observation)}
    changed = judge(rounds_of_a_row(testbed, edit, turns=turns, rounds=rounds))
    findings = [each for each in changed if each.finding != unchanged[each.invariant]]
    for state, reason in (("broken", "{}"), ("unseen", "unseen: {}")):
        for each in findings:
            if each.finding == state:
                raise RefusedError(reason.format(each.invariant), each.reason)


def _case(name: str, reason: str, edit: RoundEdit) -> Case:
    EDITS[f"audit-{name}"] = edit
    return Case(
        name=f"audit-{name}",
        play=lambda testbed: judge_changed_round(testbed, edit),
        expected_reason=reason,
        caught_by=reason.removeprefix("unseen: "),
        asset="journal",
    )


def sealed_base(about: str, content: Any) -> None:
    """Makes a round that of a row whose base is sealed: a confidential package with weights, and one leg."""
    if about == "manifest":
        content |= {"confidential": True, "parts": [{"name": "config", "size": 2}, {"name": "weights.0", "size": 64}]}
    elif about == "observation":
        content["plan"] = {"base": "sealed"}
        notes = content["rounds"][0]
        notes |= {"order": ["protected"], "raw": None, "guest": [met for met in notes["guest"] if met["leg"] == "protected"]}


def _sealed(name: str, reason: str, change: RoundEdit) -> Case:
    """A change in the round of a row whose base is sealed."""

    def edit(about: str, content: Any) -> None:
        sealed_base(about, content)
        change(about, content)

    EDITS[f"audit-sealed-{name}"] = edit
    return Case(
        name=f"audit-sealed-{name}",
        play=lambda testbed: judge_changed_round(testbed, edit, of=sealed_base),
        expected_reason=reason,
        caught_by=reason,
        asset="journal",
    )


def _of_manifest(**changes: Any) -> RoundEdit:
    return lambda about, content: content.update(changes) if about == "manifest" else None


def _raw_leg_ran(about: str, content: Any) -> None:
    if about == "observation":
        content["rounds"][0]["raw"] = {}


def _claims(name: str, reason: str, what: str, **changes: Any) -> Case:
    """Changed claims of one token, or fields of the callback."""

    def edit(about: str, content: Any) -> None:
        if about == what:
            content.update(copy.deepcopy(changes))

    return _case(f"{what.replace(' ', '-')}-{name}", reason, edit)


def _scan(name: str, expected: str, **changes: Any) -> Case:
    """Changed claims about the memory scan, in the agent's exit."""
    return _claims(f"scan-{name}", expected, "exit", scan={**clean_scan(), **changes})


def _entries(name: str, reason: str, change: Callable[[list[Any]], None]) -> Case:
    """Changed journal entries, written by the leg itself: chain and head match them."""

    def edit(about: str, content: Any) -> None:
        if about == "entries":
            change(content)

    return _case(f"journal-{name}", reason, edit)


def _body(step: str, **changes: Any) -> Callable[[list[Any]], None]:
    return lambda entries: entries[journal.STEPS.index(step)][1].update(changes)


def _observation(name: str, reason: str, change: Callable[[Editable, Editable], None]) -> Case:
    """A change to the host's observation after the round: `change(observation, its round)`."""

    def edit(about: str, content: Any) -> None:
        if about == "observation":
            change(content, content["rounds"][0])

    return _case(name, reason, edit)


def _lines(name: str, change: Callable[[list[str]], object], reason: str = _SIGNED) -> Case:
    def change_kept(_: Editable, notes: Editable) -> None:
        change(notes["protected"]["journal"])

    return _observation(f"line-{name}", reason, change_kept)


def _signed_by_another(signed: str, reason: str) -> Case:
    """The same claims, signed by an unknown key."""

    def change(_: Editable, notes: Editable) -> None:
        leg = "raw" if signed == "raw exit" else "protected"
        name = signed.rpartition(" ")[2]
        typ = _header(notes[leg][name])
        notes[leg][name] = tokens.sign(tokens.peek(notes[leg][name]), key=Ed25519PrivateKey.generate(), typ=typ)

    return _observation(f"{signed.replace(' ', '-')}-by-another-key", reason, change)


def _header(token: str) -> str:
    return str(parse_object(unb64u(token.split(".", maxsplit=1)[0]))["typ"])


def _missing(leg: str, name: str, reason: str) -> Case:
    return _observation(f"{leg}-{name}-missing", reason, lambda _, notes: notes[leg].pop(name))


def _round(name: str, reason: str, **changes: Any) -> Case:
    """Changed notes of the round."""
    return _observation(name, reason, lambda _, notes: notes.update(copy.deepcopy(changes)))


def _leg(name: str, reason: str, leg: str, **changes: Any) -> Case:
    """Changed notes of one leg."""
    return _observation(f"{leg}-{name}", reason, lambda _, notes: notes[leg].update(copy.deepcopy(changes)))


def _guest(field: str, value: Any) -> Case:
    """Another guest before the raw leg."""
    return _observation(f"guest-{field}-other", _PLACE, lambda _, notes: notes["guest"][1].update({field: value}))


def _replaced_token(token: str, name: str) -> Callable[[Editable, Editable], None]:
    def change(_: Editable, notes: Editable) -> None:
        notes["protected"][token] = name

    return change


def _memory(after: int, of: str) -> dict[str, Any]:
    """What an exit says of a leg's GPU memory."""
    return {"before": 1 << 30, "after": after, "of": of, "reason": ""}


def _on_gpu(*, trained_on: str | None = "GPU-0", gpu: dict[str, Any] | None = None) -> RoundEdit:
    """A round on a GPU whose legs say that they trained on `trained_on`; `gpu` is what its exit says of that GPU's memory."""
    facts = {"device": "H100", "deviceUuid": trained_on, "peakMemoryBytes": None}

    def edit(about: str, content: Any) -> None:
        if about == "observation":
            for named in (content["allocation"], *content["rounds"][0]["guest"]):
                named["gpuUuid"] = "GPU-0"
        elif about == "callback":
            content["facts"] = facts
        elif about == "entries":
            _body("train_completed", facts=facts)(content)
        elif about == "exit" and gpu is not None:
            content["gpu"] = gpu

    return edit


def _other_agent(notes: Editable) -> None:
    """The raw leg's agent signs validly, with a key that was not enrolled."""
    key = Ed25519PrivateKey.generate()
    notes["guest"][1]["ak"] = tokens.public_text(key.public_key())
    notes["raw"]["exit"] = tokens.sign(tokens.peek(notes["raw"]["exit"]), key=key, typ=_header(notes["raw"]["exit"]))


def _late(about: str, content: Any) -> None:
    """The last line an hour after the others, by the leg's clock. Chain and head match it."""
    if about == "lines":
        line: Any = parse_object(content[-1])
        content[-1] = canonical({**line, "t_us": 3_600_000_000}).decode()


def _whole_seconds(about: str, content: Any) -> None:
    """A receipt without milliseconds, as older servers wrote it, in the second of the release."""
    if about == "receipt":
        del content["held_ms"]
        content["iat"] = 1_800_000_000


def _one_adapter(about: str, content: Any) -> None:
    adapter = sha256_hex(b"adapter")
    if about == "callback":
        content["adapter"] = adapter
    if about == "observation":
        content["rounds"][0]["raw"]["adapterSha256"] = adapter


CASES = (
    # The result, the evidence, and what they are about.
    _claims("not-affirming", _ATTESTED, "result", ear_status="contraindicated"),
    *(
        _claims(f"of-another-{claim.replace('_', '-')}", _ATTESTED, "result", **{claim: _OTHER})
        for claim in ("eat_nonce", "evidence_sha256", "manifest", "policy", "plan", "composite")
    ),
    _claims("of-another-archive", _ATTESTED, "evidence", components={"archive": _OTHER}),
    _observation("archive-the-host-did-not-build", _ATTESTED, lambda obs, _: obs["allocation"].update(archiveSha256=_OTHER)),
    _round("protected-leg-that-did-not-run", f"unseen: {_ATTESTED}", protected=None),
    _round("raw-leg-that-did-not-run", f"unseen: {_CALLBACK}", raw=None),
    _leg("refused", _ATTESTED, "protected", refusal={"reason": "composite"}),
    _signed_by_another("evidence", _ATTESTED),
    _signed_by_another("result", _ATTESTED),
    _signed_by_another("manifest", _ATTESTED),
    _signed_by_another("head", _ZEROIZED),
    _signed_by_another("exit", _ATTESTED),
    _signed_by_another("receipt", _SIGNED),
    _signed_by_another("raw exit", _CALLBACK),
    _observation("server-key-no-key", f"unseen: {_ATTESTED}", lambda obs, _: obs["keys"].update(server="key")),
    _missing("protected", "result", f"unseen: {_ATTESTED}"),
    _missing("protected", "evidence", f"unseen: {_ATTESTED}"),
    _missing("protected", "receipt", f"unseen: {_SIGNED}"),
    _missing("protected", "head", f"unseen: {_ZEROIZED}"),
    _missing("protected", "exit", f"unseen: {_ZEROIZED}"),
    _observation("evidence-no-token", _ATTESTED, _replaced_token("evidence", "a.b.c")),
    # The key and the weights, by the journal.
    _entries("key-from-another-result", _KEY, _body("key_received", result=_OTHER)),
    _entries("key-never-received", _SIGNED, lambda entries: entries.pop(2)),
    _entries("key-before-measured", _KEY, lambda entries: entries.insert(1, entries.pop(2))),
    _entries("measured-another-composite", _KEY, _body("measured", composite=_OTHER)),
    _entries("another-package-opened", _WEIGHTS, _body("package_verified", manifest=_OTHER)),
    _entries("trained-from-other-weights", _WEIGHTS, _body("train_started", initial=_OTHER)),
    # The steps of a lifecycle, in a journal that is complete and signed.
    _entries("without-the-package", _SIGNED, lambda entries: entries.pop(3)),
    _entries("without-an-export", _SIGNED, lambda entries: entries.pop(6)),
    _entries("exported-before-it-trained", _SIGNED, lambda entries: entries.insert(4, entries.pop(6))),
    _entries("trained-twice", _SIGNED, lambda entries: entries.insert(6, entries[5])),
    _entries("opened-twice", _SIGNED, lambda entries: entries.insert(4, entries[3])),
    _entries("step-nobody-knows", _SIGNED, lambda entries: entries.insert(4, ["debugger_attached", {}])),
    _entries("progress-before-training", _SIGNED, lambda entries: entries.insert(4, ["train_progress", {}])),
    _entries("progress-after-training", _SIGNED, lambda entries: entries.insert(6, ["train_progress", {}])),
    _entries("failed-and-completed", _SIGNED, lambda entries: entries.insert(5, ["train_failed", {}])),
    _claims("failed-of-a-leg-that-completed", _SIGNED, "head", status="failed"),
    # The journal's lines, changed after they were signed.
    _lines("last-removed", lambda lines: lines.pop(), _ZEROIZED),
    _lines("first-removed", lambda lines: lines.pop(0)),
    _lines("middle-removed", lambda lines: lines.pop(4)),
    _lines("swapped", lambda lines: lines.insert(3, lines.pop(4))),
    _lines("twice", lambda lines: lines.insert(3, lines[3])),
    _lines("edited", lambda lines: lines.insert(4, lines.pop(4).replace(INITIAL, _OTHER))),
    _lines("respaced", lambda lines: lines.insert(0, lines.pop(0).replace(":", ": ", 1))),
    _lines("with-a-key-twice", lambda lines: lines.insert(0, '{"seq":0,' + lines.pop(0)[1:])),
    _leg("journal-empty", _SIGNED, "protected", journal=[]),
    # The end of the protected leg.
    _entries("without-zeroized", _ZEROIZED, lambda entries: entries.pop()),
    _entries("line-after-zeroized", _ZEROIZED, lambda entries: entries.append(["train_progress", {}])),
    _claims("of-another-journal", _SIGNED, "head", head=_OTHER),
    _claims("of-fewer-lines", _SIGNED, "head", count=7),
    _claims("of-another-head", f"unseen: {_ZEROIZED}", "exit", head=_OTHER),
    _claims("process-still-there", _ZEROIZED, "exit", process_gone=False),
    _claims("files-left", _ZEROIZED, "exit", workspace_entries=3),
    _claims("gpu-memory-left", _ZEROIZED, "exit", gpu={"before": None, "after": 4096, "reason": ""}),
    _claims(
        "gpu-memory-left-by-the-process", _ZEROIZED, "exit", gpu={"before": 1 << 30, "after": 4096, "of": "process", "reason": ""}
    ),
    _claims(
        "gpu-memory-left-on-the-device",
        _ZEROIZED,
        "exit",
        gpu={"before": 1 << 30, "after": 1 << 29, "of": "device", "reason": ""},
    ),
    _claims(
        "gpu-a-little-left", f"unseen: {_ZEROIZED}", "exit", gpu={"before": 1 << 30, "after": 4096, "of": "device", "reason": ""}
    ),
    _case("gpu-memory-not-observed", f"unseen: {_ZEROIZED}", _on_gpu()),
    _case("trained-on-another-gpu", _PLACE, _on_gpu(trained_on="GPU-1")),
    _case(
        "gpu-not-told",
        f"unseen: {_PLACE}",
        _on_gpu(trained_on=None, gpu=_memory(0, "process")),
    ),
    _scan("finds-copies", _SCANNED, status="dirty", copies=2, left={"data key": 2}),
    _scan("tells-of-no-copies-it-names", _SCANNED, left={"data key": 2}),
    _scan("says-clean-and-counts-copies", _SCANNED, copies=2),
    _scan("says-neither-clean-nor-unseen", _SCANNED, status="fine"),
    _scan("did-not-look", f"unseen: {_SCANNED}", status="unseen", reason="no look"),
    _scan("looked-for-nothing", f"unseen: {_SCANNED}", patterns={}),
    _scan("without-its-control", f"unseen: {_SCANNED}", control={}),
    _scan("of-nothing", f"unseen: {_SCANNED}", looks={"wiped": {"bytes": 0}}),
    _claims(
        "code-changed-after-measuring", _ATTESTED, "exit", images={"status": "changed", "late": 1, "changed": ["planted.so"]}
    ),
    _claims("code-not-looked-at-again", f"unseen: {_ATTESTED}", "exit", images={"status": "unseen", "reason": "no look"}),
    _leg("code-of-its-own", _WORK, "raw", images={"images": _OTHER}),
    *(_claims(f"of-another-{name}", _SIGNED, "receipt", **{name: _OTHER}) for name in ("head_sha256", "exit_sha256", "nonce")),
    _leg("completion-refused", _SIGNED, "protected", completeRefusal={"reason": "receipt"}),
    # The raw leg.
    _leg("callback-lost", _CALLBACK, "raw", callback=None),
    _leg("callback-lost-and-failed", f"unseen: {_CALLBACK}", "raw", callback=None, failed={"reason": "killed", "detail": ""}),
    _claims("of-another-round", _CALLBACK, "callback", nonce=_OTHER),
    _claims("not-completed", _CALLBACK, "callback", status="running"),
    _claims("process-ended-badly", _CALLBACK, "raw exit", exit_status=1),
    _claims("of-another-round", _CALLBACK, "raw exit", nonce=_OTHER),
    _observation("raw-callback-time-scaled", _CALLBACK, lambda _, notes: notes["raw"]["callback"].update(units=2)),
    _observation("raw-exit-and-nobody-met", f"unseen: {_CALLBACK}", lambda _, notes: notes["guest"].pop()),
    # Order, place and work.
    _leg("terminated", _ZEROIZED, "protected", terminated="the budget is reached"),
    _leg("started-before-zeroized", _ORDER, "raw", timeline={"spawned": 15, "exit": 50}),
    _leg("started-before-the-process-was-gone", _ORDER, "raw", timeline={"spawned": 25, "exit": 50}),
    # Claimed times that did not pass.
    *(
        _claims(f"of-two-hours-{name.replace('_', '-')}", _TIME, "callback", **{name: 7_200_000_000_000})
        for name in ("elapsed_ns", "warmup_ns")
    ),
    _claims("of-two-hours-of-loading", _TIME, "callback", phases={**PHASES, "load_ns": 7_200_000_000_000}),
    _claims("of-less-than-no-time", _TIME, "callback", warmup_ns=-1),
    _claims("of-time-in-words", f"unseen: {_TIME}", "callback", elapsed_ns="2000000000"),
    _entries("of-two-hours", _TIME, _body("train_completed", elapsed_ns=7_200_000_000_000)),
    _entries("of-two-hours-of-opening", _TIME, _body("package_verified", open_ns=7_200_000_000_000)),
    _entries("of-two-hours-of-zeroizing", _TIME, _body("zeroized", zeroize_ns=7_200_000_000_000)),
    _case("journal-an-hour-long", _TIME, _late),
    _claims("of-no-time", _TIME, "receipt", held_ms=0),
    _case("receipt-of-the-same-second", _TIME, _whole_seconds),
    _leg("in-less-time-than-it-says", _TIME, "raw", host={"startNs": 5, "exitNs": 1_000_000_005}),
    _leg("in-less-time-than-it-says", _TIME, "protected", host={"startNs": 5, "exitNs": 1_000_000_005}),
    _leg("whose-agent-tells-of-two-hours", _TIME, "raw", timeline={"spawned": 40, "exit": 7_200_000_000_000}),
    _missing("raw", "host", f"unseen: {_TIME}"),
    _missing("protected", "host", f"unseen: {_TIME}"),
    _observation("guest-ak-other", _PLACE, lambda _, notes: _other_agent(notes)),
    _guest("bootId", "another"),
    _guest("agentNonce", "another"),
    _guest("allocation", "another"),
    _guest("gpuModel", "another"),
    _guest("gpuUuid", "another"),
    _guest("listed", []),
    _observation("guest-not-met-before-raw", f"unseen: {_CALLBACK}", lambda _, notes: notes["guest"][1].update(leg="protected")),
    _claims("from-another-container", _PLACE, "evidence", container=CONTAINER + "-2"),
    _claims("of-the-other-legs-adapter", _DISTINCT, "callback", adapter=sha256_hex(b"adapter")),
    _leg("adapter-changed-on-the-way", _DISTINCT, "raw", adapterSha256=_OTHER),
    _leg("adapter-changed-on-the-way", _DISTINCT, "protected", adapterSha256=_OTHER),
    _claims("without-an-adapter", f"unseen: {_DISTINCT}", "head", adapter=""),
    _case("both-legs-export-one-adapter", _DISTINCT, _one_adapter),
    _observation(
        "initial-adapter-exported", _TRAINED, lambda obs, _: obs["material"].update(initialSha256=sha256_hex(b"adapter"))
    ),
    _entries("loss-not-a-number", _FINITE, _body("train_completed", final_loss="nan")),
    _claims("loss-infinite", _FINITE, "callback", final_loss="inf"),
    _leg("failed-for-its-loss", _FINITE, "protected", failed={"reason": "non-finite loss", "detail": "nan"}),
    _entries("never-trained", _SIGNED, lambda entries: entries.pop(5)),
    _claims("another-prologue", _WORK, "callback", prologue=["0.5", "0.26"]),
    _claims("shorter-prologue", _WORK, "callback", prologue=["0.5"]),
    _claims("no-prologue", _WORK, "callback", prologue=[]),
    _claims("another-environment", _WORK, "callback", context={**CONTEXT, "environment": _OTHER}),
    _claims("another-device", _WORK, "callback", facts={"device": "cuda", "peakMemoryBytes": None}),
    _leg("another-plan", _WORK, "raw", trainingPlan={"steps": 2, "order_seed": 2}),
    _claims("of-another-shape", f"unseen: {_TIME}", "callback", prologue=7),
    # A row whose base is sealed.
    _sealed("and-not-confidential", _WEIGHTS, _of_manifest(confidential=False)),
    _sealed("without-weights-in-the-package", _WEIGHTS, _of_manifest(parts=[{"name": "config", "size": 2}])),
    _sealed("and-a-raw-leg-ran", _WEIGHTS, _raw_leg_ran),
)
