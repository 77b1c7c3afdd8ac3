"""A finished round as a report holds it, signed by every party, with one optional edit.

Knows how to make an observation in which every finding holds. An edit changes the claims of one token, the journal, the
callback or the host's notes before they are signed: the change is validly signed, and everything after it is consistent with
it. Refuses to judge: the invariants do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.observation.document import (
    GuestSeen,
    LoadedCode,
    Observation,
    ProtectedNotes,
    RawNotes,
    RoundNotes,
    TrainingPlanRecord,
)
from pytest_glasshouse.observation.trained import Callback, Context, Phases, Trained
from pytest_glasshouse.rows.leg_order import LegName
from pytest_glasshouse.tamper.testbed import COMPONENTS, CONTAINER, PLAN, Editable, TamperTestbed
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire import journal, tokens
from pytest_glasshouse.wire.canonical import Json, canonical, sha256_hex

#: Called with the name and the content of each thing before it is signed or recorded, to change it in place.
RoundEdit = Callable[[str, Any], None]

SEGMENT_NS, WASH_NS, HANDOVER_NS = 1_000_000_000, 200_000_000, 1_000_000
#: A kind of batch: shape and dtype, dtype of the weights, dtype of what came out.
BATCH = "256x32 float32 float32 float32"
#: Time between release and receipt, and of the protected leg by the host's clock.
HELD_MS = 20_000
#: Between a leg's reading of its clock and the messages before and after it.
TOLD_NS = 100_000
CONDITIONS: dict[str, Json] = {"nice": 0, "policy": 0, "processors": "0", "hugePages": "1"}
INITIAL = sha256_hex(b"initial")
_ADAPTERS: dict[LegName, str] = {"protected": sha256_hex(b"adapter"), "raw": sha256_hex(b"another adapter")}
_Token: TypeAlias = Literal["manifest", "evidence", "result", "head", "exit", "receipt"]
_TYPES: dict[_Token, str] = {
    "manifest": ev.TYP_MANIFEST,
    "evidence": ev.TYP_EVIDENCE,
    "result": ev.TYP_RESULT,
    "head": ev.TYP_HEAD,
    "exit": ev.TYP_EXIT,
    "receipt": ev.TYP_RECEIPT,
}


def untouched(_name: str, _content: Any) -> None:
    """The edit that changes nothing."""


#: What every leg of the round reports of its own times and of its process.
PHASES: Phases = {"load_ns": 1_000_000, "prologue_ns": 1_000_000, "export_ns": 1_000_000}
CONTEXT: Context = {
    "environment": sha256_hex(b"environment"),
    "environment_names": ["PATH"],
    "libraries": sha256_hex(b"libraries"),
    "library_count": 1,
    "modules": sha256_hex(b"modules"),
    "module_count": 1,
    "nice": 0,
    "affinity": [0],
    "limits": {"RLIMIT_CORE": ["0", "0"]},
}


class SignedRound:
    """One round, from release to receipt; `observation` is what a report holds of it.

    With `turns` (the leg of each) the round is interleaved. `after` is a round before it, of the same row.
    """

    def __init__(
        self,
        testbed: TamperTestbed,
        edit: RoundEdit = untouched,
        *,
        turns: Sequence[LegName] = (),
        after: SignedRound | None = None,
    ) -> None:
        self._edit = edit
        self._before: list[RoundNotes] = [] if after is None else after.observation["rounds"]
        number = len(self._before)
        self._adapters = _ADAPTERS if not number else {leg: sha256_hex(f"{leg} {number}".encode()) for leg in _ADAPTERS}
        self._turns = tuple(turns)
        self._attempt = testbed.attempt()
        self.keys: dict[str, Ed25519PrivateKey] = {
            "owner": Ed25519PrivateKey.generate(),
            "server": Ed25519PrivateKey.generate(),
            "agent": testbed.ak,
            "leg": self._attempt.sig,
        }
        if after is not None:
            self.keys |= {party: after.keys[party] for party in ("owner", "server")}
        self.keys |= self._own_keys()
        self._nonce = self._attempt.nonce
        self._round_nonce = sha256_hex(b"round" + b" again" * number)
        self._protected: ProtectedNotes = {}
        #: Of these types where no edit made it another.
        self.observation: Observation = self._observation()
        edit("observation", self.observation)

    def _observation(self) -> Observation:
        notes: RoundNotes = {
            "round": 1 + len(self._before),
            "nonce": self._round_nonce,
            "order": ["protected", "raw"],
            "guest": [self._met(leg) for leg in self._adapters],
            "protected": self._protected_leg(),
            "raw": self._raw_leg(),
        }
        if self._turns:
            notes["turns"], notes["borders"] = [*self._turns], self._borders()
        return {
            "allocation": {
                "name": CONTAINER,
                "provider": "mock",
                "providerInstanceId": "instance",
                "gpuModel": "CPU (testbed)",
                "gpuUuid": None,
                "archiveSha256": COMPONENTS["archive"],
                "referenceSource": "checkout",
            },
            "keys": {
                "server": tokens.public_text(self.keys["server"].public_key()),
                "owner": tokens.public_text(self.keys["owner"].public_key()),
                "attestationServer": "embedded",
            },
            "material": {
                "workload": "mlp",
                "standIn": False,
                "initialSha256": INITIAL,
                "modelId": None,
                "baseSha256": None,
                "facts": {"samples": 256, "batch": 256},
            },
            "rounds": [*self._before, notes],
        }

    def _own_keys(self) -> dict[str, Ed25519PrivateKey]:
        """Keys of parties in place of the testbed's."""
        return {}

    def _met(self, leg: LegName) -> GuestSeen:
        return {
            "allocation": CONTAINER, "gpuModel": "CPU (testbed)", "gpuUuid": None, "bootId": "boot", "agentNonce": "agent",
            "archiveSha256": COMPONENTS["archive"], "driver": None, "torch": None, "python": "3.11",
            "leg": leg, "ak": tokens.public_text(self.keys["agent"].public_key()), "listed": ["instance"],
        }  # fmt: skip

    def _sign(self, name: _Token, party: str, claims: Editable) -> str:
        self._edit(name, claims)
        self._protected[name] = tokens.sign(claims, key=self.keys[party], typ=_TYPES[name])
        return sha256_hex(self._protected[name].encode())

    def _protected_leg(self) -> ProtectedNotes:
        attempt, nonce = self._attempt, self._nonce
        manifest = self._sign("manifest", "owner", {"round_nonce": self._round_nonce, "workload": {"initial_sha256": INITIAL}})
        evidence_claims = {**attempt.claims, "manifest": manifest, **self._in_evidence(manifest)}
        evidence = self._sign("evidence", "agent", evidence_claims)
        policy = str(attempt.challenge["policy"])
        result = self._sign(
            "result",
            "server",
            {
                "ear_status": "affirming",
                "eat_nonce": nonce,
                "evidence_sha256": evidence,
                "manifest": manifest,
                "policy": policy,
                "plan": PLAN,
                "composite": ev.composite(COMPONENTS),
                "attempt": 1,
                "iat": 1_800_000_000,
            },
        )
        lines = self._journal(manifest, result)
        head = self._sign(
            "head",
            "leg",
            ev.head_claims(
                nonce=nonce, head=journal.head_of(lines, nonce), count=len(lines), adapter=self._adapters["protected"]
            ),
        )
        exit_claims = {
            **attempt.exit_claims(self._protected["head"]),
            "images": {"status": "unchanged", "late": 0, "changed": []},
            "scan": clean_scan(),
        }
        exit_sha256 = self._sign("exit", "agent", exit_claims)
        self._sign("receipt", "server", self._receipt_claims(head, exit_sha256))
        return {
            **self._protected,
            "ak": tokens.public_text(self.keys["agent"].public_key()),
            "challenge": {"nonce": nonce, "issued_at": 1_800_000_000},
            "plan": PLAN,
            "policySha256": policy,
            "journal": lines,
            "stretches": self._stretches("protected", nonce),
            "adapterSha256": self._adapters["protected"],
            "adapterFigures": {"distance": "0.1", "loss": "0.12"},
            "trainingPlan": self._plan(order_seed=1),
            "images": loaded_code(),
            "timeline": {"spawned": 10, "zeroized": 20, "exit": 30},
            "host": {"startNs": 0, "exitNs": HELD_MS * 1_000_000},
        }

    def _in_evidence(self, manifest: str) -> Editable:
        """What the evidence claims beside what is claimed of one rank."""
        del manifest
        return {}

    def _in_last_line(self) -> Editable:
        """What the journal's last line has beside what one rank writes."""
        return {}

    def _receipt_claims(self, head: str, exit_claims: str) -> Editable:
        times = {"iat": 1_800_000_000 + HELD_MS // 1000, "held_ms": HELD_MS}
        return {"head_sha256": head, "exit_sha256": exit_claims, "nonce": self._nonce, "attempt": 1, **times}

    def _journal(self, manifest: str, result: str) -> list[str]:
        """The leg's journal. An edit gets its entries (type and body) first, then its lines."""
        bodies: dict[str, Mapping[str, object]] = {
            "anti_debug_ready": {"wall": "2027-01-15T08:00:00Z"},
            "measured": {"composite": ev.composite(COMPONENTS)},
            "key_received": {"result": result},
            "package_verified": {"manifest": manifest, "open_ns": 1_000_000},
            "train_started": {"initial": INITIAL, "order_seed": 1},
            "train_completed": self._trained("protected"),
            "zeroized": {"zeroize_ns": 1_000_000, **self._in_last_line()},
        }
        entries: list[Any] = [[step, bodies.get(step, {})] for step in journal.STEPS]
        self._edit("entries", entries)
        lines: list[str] = []
        log = journal.Journal(self._nonce, lines.append, lambda: 0)
        for step, body in entries:
            log.append(step, body)
        self._edit("lines", lines)
        return lines

    def _raw_leg(self) -> RawNotes:
        callback: Callback = {
            "nonce": self._round_nonce,
            "status": "completed",
            "adapter": self._adapters["raw"],
            "opened_at_ns": 45,
            "initial": INITIAL,
            "order_seed": 2,
            "device": "cpu",
            **self._trained("raw"),
        }
        self._edit("callback", callback)
        exit_claims = ev.exit_claims(
            nonce=self._round_nonce,
            head_token=canonical(callback).decode(),
            process_gone=True,
            exit_status=0,
            workspace_entries=0,
            gpu={"before": None, "after": None, "reason": "no GPU"},
            scan={},
        )
        self._edit("raw exit", exit_claims)
        return {
            "callback": callback,
            "exit": tokens.sign(exit_claims, key=self.keys["agent"], typ=ev.TYP_EXIT),
            "stretches": self._stretches("raw", self._round_nonce),
            "adapterSha256": self._adapters["raw"],
            "adapterFigures": {"distance": "0.1", "loss": "0.12"},
            "trainingPlan": self._plan(order_seed=2),
            "images": loaded_code(),
            "timeline": {"spawned": 40, "exit": 50},
            "host": {"startNs": 0 if self._turns else HELD_MS * 1_000_000, "exitNs": 2 * HELD_MS * 1_000_000},
        }

    def _trained(self, leg: LegName) -> Trained:
        trained: Trained = {
            "units": 1,
            "elapsed_ns": 2 * SEGMENT_NS,
            "warmup_units": 1,
            "warmup_ns": SEGMENT_NS,
            "cpu_ns": SEGMENT_NS,
            "stop_reason": "steps",
            "phases": {**PHASES},
            "prologue": ["0.5", "0.25"],
            "batches": {"prologue": {BATCH: 2}, "training": {BATCH: 2}},
            "gpu_ns": None,
            "epilogue": ["0.5"],
            "final_loss": "0.125",
            "checkpoints": [[1, "0.25", sha256_hex(f"{leg} 1".encode())[:32]]],
            "facts": {"device": "cpu", "peakMemoryBytes": None},
            "context": {**CONTEXT},
        }
        if self._turns:
            numbers = [number for number, whose in enumerate(self._turns, 1) if whose == leg]
            trained["segments"] = [[number, 10, SEGMENT_NS, SEGMENT_NS, 2, WASH_NS, WASH_NS] for number in numbers]
            trained["units"] = 10 * len(numbers)
            trained["batches"]["training"] = {BATCH: 12 * len(numbers) + 1}
            trained["checkpoints"] += [[at, "0.15", sha256_hex(f"{leg} {at}".encode())[:32]] for at in (3, 12)]
            trained["elapsed_ns"] = trained["cpu_ns"] = SEGMENT_NS * len(numbers)
        return trained

    def _plan(self, *, order_seed: int) -> TrainingPlanRecord:
        plan: TrainingPlanRecord = {
            "workload": "mlp", "device": "cpu", "warmup_ns": SEGMENT_NS, "target_ns": None, "steps": 1, "order_seed": order_seed,
            "base_directory": False,
        }  # fmt: skip
        if self._turns:
            plan["segments"] = {
                "warmup_limit_ns": SEGMENT_NS, "washout_ns": WASH_NS, "segment_ns": SEGMENT_NS, "segment_steps": None,
            }  # fmt: skip
        return plan

    def _stretches(self, leg: LegName, nonce: str, *, of: str = "") -> str:
        """The agent's signed account of the leg's timed stretches: the leg read its clock in the middle of each pair of times."""
        timed = [(2 * SEGMENT_NS, 1)] if not self._turns else [(SEGMENT_NS, 10)] * self._turns.count(leg)
        rows: list[Any] = []
        at, units = SEGMENT_NS, 0
        for elapsed_ns, done in timed:
            end, units = at + elapsed_ns, units + done
            rows.append([at - TOLD_NS, at + TOLD_NS, end - TOLD_NS, end + TOLD_NS, units, 0])
            at = end + SEGMENT_NS
        cpu_ns: list[Json] = [[SEGMENT_NS - TOLD_NS, SEGMENT_NS + TOLD_NS] for _ in rows]
        claims: Editable = ev.stretches_claims(
            nonce=nonce, stretches=rows, conditions=[{**CONDITIONS}], cpu_ns=cpu_ns, waits=[[0, 0] for _ in rows],
            repeats=[{"after": 0, "losses": ["0.5"]}],
        )  # fmt: skip
        self._edit(f"{of}{leg} stretches", claims)
        return tokens.sign(claims, key=self.keys["agent"], typ=ev.TYP_STRETCHES)

    def _borders(self) -> str:
        """The agent's signed borders: each leg works in its own turns, and uses a tenth of a millisecond to hand over."""
        roles, t_ns, used = ("protected", "raw"), 0, {"protected": 0, "raw": 0}
        borders: list[Any] = []
        for whose in self._turns:
            before = [t_ns, used["protected"], 2, used["raw"], 2]
            t_ns += SEGMENT_NS + WASH_NS + HANDOVER_NS
            used[whose] += SEGMENT_NS + WASH_NS + HANDOVER_NS // 10
            borders.append([before, [t_ns, used["protected"], 2, used["raw"], 2]])
            t_ns += HANDOVER_NS
        claims: Editable = ev.borders_claims(nonce=self._round_nonce, roles=roles, turns=self._turns, borders=borders)
        self._edit("borders", claims)
        return tokens.sign(claims, key=self.keys["agent"], typ=ev.TYP_BORDERS)


def rounds_of_a_row(testbed: TamperTestbed, edit: RoundEdit, *, turns: Sequence[LegName], rounds: int) -> Observation:
    """What a report holds of a row of so many rounds (at least one), each with the same edit."""
    last = SignedRound(testbed, edit, turns=turns)
    for _ in range(1, rounds):
        last = SignedRound(testbed, edit, turns=turns, after=last)
    return last.observation


def clean_scan(kinds: Sequence[str] = ev.SCAN_KINDS) -> Editable:
    """The claims of a scan that found every pattern before the wipe and none after it."""
    found = dict.fromkeys(kinds, 2)
    looks = {moment: {"bytes": 4096, "unreadable": 0, "ns": 1} for moment in ("loaded", "trained", "wiped")}
    return {
        "status": "clean", "reason": "", "patterns": found, "control": {**found}, "left": {}, "copies": 0, "looks": looks,
    }  # fmt: skip


def loaded_code() -> LoadedCode:
    """The digests of the code that every leg had loaded."""
    return {
        "images": sha256_hex(b"images"),
        "system": sha256_hex(b"system"),
        "hooks": sha256_hex(b"hooks"),
        "foreign": sha256_hex(b"foreign"),
        "bytecode": sha256_hex(b"bytecode"),
    }
