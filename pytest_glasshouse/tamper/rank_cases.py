"""Legs of two ranks: evidence that says something wrong of one rank, and finished rounds in which one rank did something else.

What one rank alone shows counts for no other: each case changes one thing of rank 1, validly signed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.observation.document import Observation
from pytest_glasshouse.rows.leg_order import LegName
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.signed_round import CONTEXT, INITIAL, RoundEdit, SignedRound, clean_scan, loaded_code, untouched
from pytest_glasshouse.tamper.testbed import COMPONENTS, Attempt, Editable, TamperTestbed
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire import journal, tokens
from pytest_glasshouse.wire.canonical import canonical, sha256_hex

_OTHER = sha256_hex(b"another")
_ADAPTERS: dict[LegName, str] = {"protected": sha256_hex(b"adapter"), "raw": sha256_hex(b"another adapter")}
_ATTESTED, _KEY, _WEIGHTS = "attestation verified", "key released only after attestation", "weights loaded from the package"
_ZEROIZED, _SCANNED, _SIGNED, _CALLBACK = (
    "runtime zeroized", "memory scanned clean", "journal countersigned", "raw callback completed",
)  # fmt: skip
_ORDER, _TRAINED, _FINITE, _PLACE = "legs in order, not overlapping", "both adapters trained", "losses finite", "same allocation"
_WORK, _WITNESSED = "same work", "work witnessed"
_TIMES: dict[LegName, dict[str, int]] = {"protected": {"spawned": 11, "exit": 29}, "raw": {"spawned": 41, "exit": 49}}
#: The edit of each case of a finished round.
EDITS: dict[str, RoundEdit] = {}


class RoundOfRanks(SignedRound):
    """A round whose legs have two ranks. An edit gets what rank 1 left under the names `rank ...`."""

    def __init__(self, testbed: TamperTestbed, edit: RoundEdit = untouched) -> None:
        self._rank_key = Ed25519PrivateKey.generate()
        self._rank_lines: list[str] = []
        super().__init__(testbed, edit)

    def _in_evidence(self, manifest: str) -> Editable:
        self._rank_lines = self._journal_of_rank(manifest)
        return {"ranks": [rank_claim(self._rank_key)]}

    def _in_last_line(self) -> Editable:
        return {"heads": [journal.link(self._rank_lines[-1])]}

    def _observation(self) -> Observation:
        observation: Any = super()._observation()
        observation["plan"] = {"gpus": 2}
        notes = observation["rounds"][0]
        for leg in _ADAPTERS:
            notes[leg]["ranks"] = [self._rank(leg)]
        found: Observation = observation
        return found

    def _rank(self, leg: LegName) -> Editable:
        nonce = self._nonce if leg == "protected" else self._round_nonce
        found: Editable = {}
        scan: Editable = {}
        if leg == "protected":
            head: Editable = ev.head_claims(
                nonce=nonce, head=journal.link(self._rank_lines[-1]), count=len(self._rank_lines), adapter=_ADAPTERS[leg]
            )
            self._edit("rank head", head)
            found = {"journal": self._rank_lines, "head": tokens.sign(head, key=self._rank_key, typ=ev.TYP_HEAD)}
            left, scan = str(found["head"]), clean_scan(ev.SCAN_RANK_KINDS)
        else:
            callback: Editable = {
                "nonce": nonce, "status": "completed", "adapter": _ADAPTERS[leg], "opened_at_ns": 45, "initial": INITIAL,
                "order_seed": 2, "device": "cpu", **self._trained(leg),
            }  # fmt: skip
            self._edit("rank callback", callback)
            found, left = {"callback": callback}, canonical(callback).decode()
        claims: Editable = ev.exit_claims(
            nonce=nonce, head_token=left, process_gone=True, exit_status=0, workspace_entries=0,
            gpu={"before": None, "after": None, "reason": "no GPU"}, scan=scan,
            images={"status": "unchanged", "late": 0, "changed": []},
        )  # fmt: skip
        self._edit(f"rank {leg} exit", claims)
        notes = {
            "rank": 1,
            "timeline": {**_TIMES[leg], "zeroized": 20},
            "images": loaded_code(),
            "failed": None,
            "exit": tokens.sign(claims, key=self.keys["agent"], typ=ev.TYP_EXIT),
            "stretches": self._stretches(leg, nonce, of="rank "),
            **found,
        }
        self._edit(f"rank {leg}", notes)
        return notes

    def _journal_of_rank(self, manifest: str) -> list[str]:
        bodies: dict[str, Any] = {
            "anti_debug_ready": {"wall": "2027-01-15T08:00:00Z"},
            "measured": {"composite": ev.composite(COMPONENTS)},
            "package_shared": {"manifest": manifest, "bytes": 1},
            "train_started": {"initial": INITIAL, "order_seed": 1},
            "train_completed": self._trained("protected"),
            "zeroized": {"zeroize_ns": 1_000_000},
        }
        entries: list[Any] = [[step, bodies[step]] for step in journal.RANK_STEPS]
        self._edit("rank entries", entries)
        lines: list[str] = []
        log = journal.Journal(journal.rank_session(self._nonce, 1), lines.append, lambda: 0)
        for step, body in entries:
            log.append(step, body)
        self._edit("rank lines", lines)
        return lines


def rank_claim(key: Ed25519PrivateKey, rank: int = 1) -> Editable:
    """What evidence says of a rank that is as the first."""
    return {
        "rank": rank,
        "sig": tokens.public_text(key.public_key()),
        "components": dict(COMPONENTS),
        "antidebug": ev.antidebug_claim(copy.deepcopy(ev.ANTIDEBUG_STRICT)),
    }


def judge_changed_ranks(testbed: TamperTestbed, edit: RoundEdit) -> None:
    """Judge an edited round of two ranks; raise `RefusedError` with the finding that does not hold of rank 1."""
    changed = judge(RoundOfRanks(testbed, edit).observation)
    for state, reason in (("broken", "{}"), ("unseen", "unseen: {}")):
        for each in changed:
            if each.finding == state:
                raise RefusedError(reason.format(each.invariant), each.reason)


def _evidence(name: str, reason: str, caught_by: str, change: Callable[[Attempt, Editable], None]) -> Case:
    def play(testbed: TamperTestbed) -> None:
        attempt = testbed.attempt()
        ranks = [rank_claim(Ed25519PrivateKey.generate(), rank) for rank in (1, 2)]
        attempt.claims["ranks"] = ranks
        change(attempt, ranks[1])
        attempt.release()

    return Case(name=f"rank-{name}", play=play, expected_reason=reason, caught_by=f"appraise_ranks {caught_by}", nonce="spent")


def _case(name: str, reason: str, edit: RoundEdit) -> Case:
    EDITS[f"audit-rank-{name}"] = edit
    return Case(
        name=f"audit-rank-{name}",
        play=lambda testbed: judge_changed_ranks(testbed, edit),
        expected_reason=reason,
        caught_by=reason.removeprefix("unseen: "),
        asset="journal",
    )


def _claims(name: str, reason: str, about: str, **changed: Any) -> Case:
    return _case(name, reason, lambda seen, content: content.update(changed) if seen == about else None)


def _entry(name: str, reason: str, step: str, **changed: Any) -> Case:
    def edit(about: str, content: Any) -> None:
        if about == "rank entries":
            next(body for kind, body in content if kind == step).update(changed)

    return _case(name, reason, edit)


def on(about: str, change: Callable[[Any], object]) -> RoundEdit:
    """Changes what an edit gets under one name."""

    def edit(seen: str, content: Any) -> None:
        if seen == about:
            change(content)

    return edit


def _of_rank_in_evidence(**changed: Any) -> RoundEdit:
    return on("evidence", lambda claims: claims["ranks"][0].update(changed))


def _too_many(attempt: Attempt, _rank: Editable) -> None:
    attempt.claims["ranks"] = [rank_claim(Ed25519PrivateKey.generate(), number) for number in range(1, 70)]


def _own_first_key(attempt: Attempt, rank: Editable) -> None:
    rank["sig"] = attempt.claims["cnf"]["sig"]


def _key_of_rank_1(attempt: Attempt, rank: Editable) -> None:
    rank["sig"] = attempt.claims["ranks"][0]["sig"]


def _last_line(**changed: Any) -> RoundEdit:
    return on("entries", lambda entries: entries[-1][1].update(changed))


def _key_received(about: str, content: Any) -> None:
    if about == "rank entries":
        content.insert(2, ["key_received", {"result": _OTHER}])


def own_gpus(rank_uuid: str | None) -> RoundEdit:
    """Legs on GPUs: the first rank on the one that the allocation names, the other on this one."""

    def edit(about: str, content: Any) -> None:
        facts = {"device": "cuda", "deviceUuid": rank_uuid, "peakMemoryBytes": None}
        if about == "observation":
            content["allocation"]["gpuUuid"] = "GPU-0"
            for met in content["rounds"][0]["guest"]:
                met["gpuUuid"] = "GPU-0"
        elif about in ("callback", "rank callback"):
            content["facts"] = facts if about.startswith("rank") else {**facts, "deviceUuid": "GPU-0"}
        elif about in ("entries", "rank entries"):
            body = next(body for kind, body in content if kind == "train_completed")
            body["facts"] = facts if about.startswith("rank") else {**facts, "deviceUuid": "GPU-0"}
        elif about in ("exit", "raw exit", "rank protected exit", "rank raw exit"):
            content["gpu"] = {"before": 1, "after": 0, "of": "process", "reason": ""}

    return edit


CASES: tuple[Case, ...] = (
    _evidence("not-a-list", "claims-type", "list", lambda attempt, _: attempt.claims.update(ranks={})),
    _evidence("too-many", "claims-type", "list", _too_many),
    _evidence("member-missing", "claims-type", "shape", lambda _, rank: rank.pop("antidebug")),
    _evidence("member-of-another-type", "claims-type", "shape", lambda _, rank: rank.update(rank=True)),
    _evidence("left-out-between-others", "rank-number", "a", lambda _, rank: rank.update(rank=3)),
    _evidence("other-code", "rank-composite", "b", lambda _, rank: rank["components"].update(archive=_OTHER)),
    _evidence("traced", "rank-antidebug", "c", lambda _, rank: rank["antidebug"]["observed"].update(tracer_pid=7)),
    _evidence("key-malformed", "malformed", "d", lambda _, rank: rank.update(sig="x")),
    _evidence("key-of-the-first", "rank-key", "d", _own_first_key),
    _evidence("key-of-another", "rank-key", "d", _key_of_rank_1),
    # The testbed's run was planned with legs of one rank.
    _evidence("more-than-planned", "ranks", "e", lambda _attempt, _rank: None),
    # Attestation, key, weights.
    _case("not-in-the-evidence", _ATTESTED, on("evidence", lambda claims: claims.update(ranks=[]))),
    _case("one-more-in-the-evidence", _ATTESTED, on("evidence", lambda claims: claims["ranks"].append(
        rank_claim(Ed25519PrivateKey.generate(), 2)))),
    _case("of-other-code", _ATTESTED, _of_rank_in_evidence(components={**COMPONENTS, "archive": _OTHER})),
    _case("of-another-process", _ATTESTED, _of_rank_in_evidence(antidebug={"enabled": False})),
    _entry("journal-of-another-measurement", _ATTESTED, "measured", composite=_OTHER),
    _claims("code-changed", _ATTESTED, "rank protected exit", images={"status": "changed", "changed": ["x"]}),
    _claims("code-not-seen-again", f"unseen: {_ATTESTED}", "rank protected exit", images={"status": "unseen", "reason": "x"}),
    _case("with-a-key-of-its-own", _KEY, _key_received),
    _entry("shared-another-package", _WEIGHTS, "package_shared", manifest=_OTHER),
    _entry("other-weights", _WEIGHTS, "train_started", initial=_OTHER),
    # Its end.
    _case("zeroize-missing", _ZEROIZED, on("rank entries", lambda entries: entries.pop())),
    _claims("process-left", _ZEROIZED, "rank protected exit", process_gone=False),
    _case("left-nothing", f"unseen: {_ATTESTED}", on("observation", lambda seen: seen["rounds"][0]["protected"].pop("ranks"))),
    _claims("with-copies-left", _SCANNED, "rank protected exit", scan={
        **clean_scan(ev.SCAN_RANK_KINDS), "status": "dirty", "copies": 1, "left": {ev.SCAN_BATCH: 1}}),
    _claims("scanned-without-its-batch", f"unseen: {_SCANNED}", "rank protected exit", scan=clean_scan((ev.SCAN_CANARY,))),
    _case("journal-cut", _SIGNED, on("rank protected", lambda notes: notes["journal"].pop(3))),
    _claims("head-of-other-lines", _SIGNED, "rank head", head=_OTHER),
    _claims("head-of-more-lines", _SIGNED, "rank head", count=9),
    _case("steps-in-another-order", _SIGNED, on("rank entries", lambda entries: entries.insert(3, entries.pop(2)))),
    _case("not-bound-to-the-legs-journal", _SIGNED, _last_line(heads=[_OTHER])),
    _case("bound-to-no-journal", f"unseen: {_SIGNED}", on("entries", lambda entries: entries[-1][1].pop("heads"))),
    _claims("callback-of-another-round", _CALLBACK, "rank callback", nonce=_OTHER),
    _claims("process-ended-badly", _CALLBACK, "rank raw exit", exit_status=1),
    # Order, device and work.
    _case("began-before-the-other-leg-had-ended", _ORDER, on("rank raw", lambda notes: notes["timeline"].update(spawned=29))),
    _case("outlived-its-leg", _ORDER, on("rank protected", lambda notes: notes["timeline"].update(exit=31))),
    _claims("other-adapter", _TRAINED, "rank callback", adapter=_OTHER),
    _claims("other-adapter-signed", _TRAINED, "rank head", adapter=_OTHER),
    _claims("loss-infinite", _FINITE, "rank callback", final_loss="inf"),
    _claims("another-device", _PLACE, "rank callback", facts={"device": "cuda", "peakMemoryBytes": None}),
    _case("on-the-first-ranks-gpu", _PLACE, own_gpus("GPU-0")),
    _case("on-a-gpu-without-a-name", f"unseen: {_PLACE}", own_gpus(None)),
    _claims("another-prologue", _WORK, "rank callback", prologue=["0.5", "0.26"]),
    _claims("another-environment", _WORK, "rank callback", context={**CONTEXT, "environment": _OTHER}),
    _claims("other-units", _WITNESSED, "rank callback", units=2),
    _claims("clock-slowed", _WITNESSED, "rank callback", elapsed_ns=1_000_000_000),
)  # fmt: skip
