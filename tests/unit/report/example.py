"""An example run: rows, tokens and findings with real signatures, made without a guest.

The journal, tokens and keys are real. The functions a report is derived with are small ones of this module's own
(`EXAMPLE`), so that these tests test the report and not the invariants or about what the tokens
of a real run bind (`tests/report` does).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.analysis.fields import Record
from pytest_glasshouse.analysis.lifecycle import LIFECYCLE_INVARIANTS
from pytest_glasshouse.analysis.record import RecordSettings, build_record
from pytest_glasshouse.check.recompute import Derivation
from pytest_glasshouse.invariants import Finding
from pytest_glasshouse.observation.outcome import AllocationFacts, Ended, Outcome
from pytest_glasshouse.observation.results import LegResult, RoundResult
from pytest_glasshouse.report.document import AllocationCleanup, RunFacts, assemble
from pytest_glasshouse.report.environment import generated_by
from pytest_glasshouse.report.seal import sealed
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.tamper.result import TamperResult
from pytest_glasshouse.wire import evidence
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.journal import STEPS, Journal
from pytest_glasshouse.wire.tokens import public_text, sign

NAMES = (
    *LIFECYCLE_INVARIANTS,
    "raw callback completed",
    "legs in order, not overlapping",
    "adapter digests distinct",
    "both adapters trained",
    "losses finite",
    "same allocation",
    "same work",
)
WAIVED = {"memory_scanned_clean": "not built"}


class Keys:
    """One key for each party of a run."""

    def __init__(self) -> None:
        self.report, self.server, self.owner, self.agent, self.leg = (Ed25519PrivateKey.generate() for _ in range(5))
        self.hpke = X25519PrivateKey.generate()


KEYS = Keys()


def row(**changes: Any) -> RowSpec:
    """A declared row."""
    given: dict[str, Any] = {
        "name": "mlp-h100-60s",
        "workload": "mlp",
        "gpu": "h100",
        "order": "protected-first",
        "target_s": 60.0,
        **changes,
    }
    return RowSpec(**given)


def allocation(**changes: Any) -> AllocationFacts:
    """What a mock allocation on a machine without a GPU is."""
    given: dict[str, Any] = {
        "provider": "mock",
        "provider_instance_id": "mock-1",
        "name": "glasshouse-run-1-a",
        "gpu_model": "CPU: Example Processor 9000",
        "gpu_uuid": None,
        "dry_run": True,
        "simulated": False,
        **changes,
    }
    return AllocationFacts(**given)


def observation(*, rounds: int = 1, keys: Keys = KEYS, unseen: tuple[str, ...] = ("memory scanned clean",)) -> Any:
    """What was seen. `unseen` and `broken` steer `judge`: only the example reads them."""
    return {
        "allocation": {"provider": "mock", "name": "glasshouse-run-1-a", "providerInstanceId": "mock-1", "unseen": list(unseen)},
        "keys": {"server": public_text(keys.server.public_key()), "owner": public_text(keys.owner.public_key())},
        "material": {"workload": "mlp", "standIn": False},
        "rounds": [observed_round(number, keys=keys) for number in range(1, rounds + 1)],
    }


def observed_round(number: int, *, keys: Keys = KEYS) -> Any:
    """One round with a true journal and true signatures."""
    return json.loads(_round_text(number, keys))


@functools.cache
def _round_text(number: int, keys: Keys) -> str:
    """Made once: signatures of this kind are the same each time."""
    nonce = digest(f"nonce {number}")
    lines: list[str] = []
    journal = Journal(nonce, lines.append, iter(range(0, 10_000, 7)).__next__)
    for step in STEPS:
        journal.append(step, {"wall": "2026-11-20T17:00:00Z"} if step == "anti_debug_ready" else {})
    adapter = digest(f"adapter protected {number}")
    cnf = {"hpke": evidence.hpke_text(keys.hpke.public_key()), "sig": public_text(keys.leg.public_key())}
    eat = sign({"eat_nonce": nonce, "cnf": cnf}, key=keys.agent, typ=evidence.TYP_EVIDENCE)
    result = sign({"eat_nonce": nonce, "evidence_sha256": sha256_hex(eat.encode())}, key=keys.server, typ=evidence.TYP_RESULT)
    head = sign(
        evidence.head_claims(nonce=nonce, head=journal.head, count=journal.count, adapter=adapter),
        key=keys.leg,
        typ=evidence.TYP_HEAD,
    )
    exits = {leg: _exit(nonce, head if leg == "protected" else "", keys) for leg in ("protected", "raw")}
    receipt = {
        "head_sha256": sha256_hex(head.encode()),
        "exit_sha256": sha256_hex(exits["protected"].encode()),
        "result_sha256": sha256_hex(result.encode()),
    }
    made = {
        "round": number,
        "nonce": nonce,
        "order": ["protected", "raw"] if number % 2 else ["raw", "protected"],
        "guest": [{"leg": leg, "bootId": "5c1c2e2e", "gpuUuid": None} for leg in ("protected", "raw")],
        "protected": {
            "challenge": {"nonce": nonce, "issued_at": 1},
            "policySha256": digest("policy"),
            "policy": {"name": "example", "components": {"archive": {"required": digest("archive")}}},
            "manifest": sign({"package": "example"}, key=keys.owner, typ=evidence.TYP_MANIFEST),
            "grant": sign({"run": "run-1"}, key=keys.owner, typ=evidence.TYP_GRANT),
            "ak": public_text(keys.agent.public_key()),
            "evidence": eat,
            "result": result,
            "journal": lines,
            "head": head,
            "exit": exits["protected"],
            "receipt": sign(receipt, key=keys.server, typ=evidence.TYP_RECEIPT),
            "adapterSha256": adapter,
        },
        "raw": {
            "callback": {"nonce": nonce, "status": "completed"},
            "exit": exits["raw"],
            "adapterSha256": digest(f"adapter raw {number}"),
        },
    }
    return json.dumps(made)


def results(observed: Any) -> tuple[RoundResult, ...]:
    """The figures of an example: 2 s legs, the protected one a little behind, never twice the same."""
    return tuple(_round_result(each, slower=observed.get("allocation", {}).get("slower", 0)) for each in observed["rounds"])


def judge(observed: Any) -> tuple[Finding, ...]:
    """Every invariant held, but for those the example calls unseen or broken."""
    steer = observed.get("allocation", {})
    return tuple(
        finding(name, "broken" if name in steer.get("broken", ()) else "unseen" if name in steer.get("unseen", ()) else "held")
        for name in NAMES
    )


EXAMPLE = Derivation(results=results, judge=judge, binding=lambda _: iter(()), typed_observations=False)


def finding(invariant: str, state: Any = "held") -> Finding:
    """One finding."""
    return Finding(
        invariant=invariant,
        finding=state,
        reason=f"the example says {state}",
        evidence=digest(invariant),
        expected="what must hold",
        seen="what was seen",
        todo="nothing",
    )


def settings(**changes: Any) -> RecordSettings:
    """The settings of a dry run."""
    given: dict[str, Any] = {"seed": 7, "overridden": ("target", "warmup"), "waived": WAIVED, **changes}
    return RecordSettings(**given)


def measured(*, rounds: int = 1, name: str = "mlp-h100-60s", given: RecordSettings | None = None, **changes: Any) -> Any:
    """The record of a measured row."""
    declared = row(name=name, rounds=rounds)
    outcome = Outcome(
        **{
            "row": row(name=name, rounds=rounds, target_s=2.0, warmup_s=0.5),
            "declared": declared,
            "allocation": allocation(),
            "observation": observation(rounds=rounds),
            **changes,
        }
    )
    return record_of(outcome, given)


def null_row(*, rounds: int = 2, unseen: tuple[str, ...] = ()) -> Any:
    """The record of raw against raw, its legs in turn because they do not fit beside each other."""
    spec = row(name="mlp-h100-null", order="interleaved", null=True, resident=False, rounds=rounds)
    seen = observation(rounds=rounds, unseen=unseen)
    seen["plan"] = {"null": True}
    for observed in seen["rounds"]:
        observed |= {"nonce": digest(f"null {observed['round']}"), "protected": None, "raw2": observed["raw"]}
    return record_of(Outcome(row=spec, declared=spec, allocation=allocation(), observation=seen))


def publishable(**changes: Any) -> Any:
    """A row as declared, on the GPU it names, with nothing unseen."""
    real = allocation(provider="local", gpu_model="NVIDIA H100 80GB HBM3", gpu_uuid="GPU-5e0c", dry_run=False)
    given = {"row": row(), "declared": row(), "allocation": real, "observation": observation(unseen=()), **changes}
    return measured(**{"given": settings(overridden=()), **given})


def measured_with(**changes: Any) -> Any:
    """A measured row whose raw leg is another."""
    outcome = Outcome(row=row(), declared=row(), allocation=allocation(), observation=observation())
    (one,) = results(outcome.observation)
    raw = leg_result("raw", 1, **{"units": 2000, **changes})
    return record_of(outcome, rounds=(dataclasses.replace(one, raw=raw),))


def slower_raw(*, name: str = "mlp-negative") -> Any:
    """A row whose raw leg was the slower one, as short rows often are."""
    base = row(name=name, target_s=2.0, warmup_s=0.5)
    outcome = Outcome(row=base, declared=row(name=name), allocation=allocation(), observation=observation())
    (one,) = results(outcome.observation)
    raw = leg_result("raw", 1, units=1700)
    return record_of(outcome, rounds=(dataclasses.replace(one, raw=raw),))


def excluded_by(finding: Finding) -> Any:
    """A row that ended early, with one finding as given and every other held."""
    base = row(name="mlp-ended")
    found = tuple(finding if each.invariant == finding.invariant else each for each in judge(observation(unseen=())))
    ended = Ended(outcome="failed", reason="for the sake of example", decision="Excluded from overhead calculation")
    outcome = Outcome(row=base, declared=base, allocation=allocation(), observation=observation(), ended=ended)
    return record_of(outcome, findings=found)


def excluded(*, name: str = "mlp-h100-30m", ended: Ended | None = None, keys: Keys = KEYS) -> Any:
    """The published exclusion: the raw callback never came."""
    seen = observation(keys=keys, unseen=("memory scanned clean", "legs in order, not overlapping", "same work"))
    seen["rounds"][0]["raw"]["callback"] = None
    seen["allocation"]["broken"] = ["raw callback completed"]
    ending = ended or Ended(
        outcome="excluded",
        reason="the raw callback never reported completion after the guest exited",
        decision="Excluded from overhead calculation",
    )
    return record_of(
        Outcome(row=row(name=name), declared=row(name=name), allocation=allocation(), observation=seen, ended=ending)
    )


def lost(*, name: str = "mlp-h100-lost") -> Any:
    """A row whose worker died before anything was seen."""
    ended = Ended(outcome="lost", reason="the worker running it died", decision="Not measured; run it again")
    return record_of(Outcome(row=row(name=name), declared=row(name=name), allocation=None, ended=ended), rounds=(), findings=())


def record_of(outcome: Outcome, given: RecordSettings | None = None, **changes: Any) -> Any:
    """A record by the example's own derivation."""
    seen = {
        "rounds": results(outcome.observation) if outcome.observation else (),
        "findings": judge(outcome.observation),
        **changes,
    }
    return build_record(outcome, seen["rounds"], seen["findings"], given or settings(), judge=judge)


def facts(**changes: Any) -> RunFacts:
    """What the example run knows about itself."""
    proven = AllocationCleanup(
        provider="mock",
        name="glasshouse-run-1-a",
        provider_instance_id="mock-1",
        status="proven",
        reason="listed while it ran, not listed after it ended",
    )
    given: dict[str, Any] = {
        "run_id": "20261120-170000-9f3c",
        "created_at": "2026-11-20T17:00:00Z",
        "generated_by": generated_by(),
        "subject": {"name": "pytest-glasshouse", "version": "0.1.0", "wheelSha256": None, "gitCommit": "0" * 40, "dirty": False},
        "environment": {
            "python": "3.12.1",
            "implementation": "CPython",
            "system": "Linux",
            "release": "6.1.0",
            "machine": "x86_64",
            "cpuCount": 2,
            "packages": {"pytest": "9.2.0"},
        },
        "seed": 7,
        "cleanup": (proven,),
        **changes,
    }
    return RunFacts(**given)


def tamper() -> tuple[TamperResult, ...]:
    """One refusal and the control."""
    control = TamperResult(
        name="control",
        expected_reason=None,
        seen_reason=None,
        released=True,
        caught_by=None,
        control_released=True,
        expected_nonce="spent",
        seen_nonce="spent",
    )
    refused = dataclasses.replace(
        control, name="nonce-replay", expected_reason="nonce-spent", seen_reason="nonce-spent", released=False, caught_by="nonce"
    )
    return refused, control


def document(*records: Record, keys: Keys = KEYS, **changes: Any) -> Any:
    """A sealed report of the given records; of one measured, one excluded and one lost row by default."""
    given = records or (measured(observation=observation(keys=keys)), excluded(keys=keys), lost())
    return assemble(facts(**changes), given, tamper=tamper(), key=keys.report)


def assembled(records: tuple[Record, ...], **given: Any) -> Any:
    """A sealed report of exactly these records; no tamper suite unless one is given."""
    return assemble(facts(**({} if records else {"cleanup": ()})), records, key=KEYS.report, **given)


def sealed_again(body: dict[str, Any]) -> Any:
    """The document sealed again by the report key, its rows as they are."""
    return sealed(body, key=KEYS.report)


def keys_of_one_party() -> Keys:
    """A publisher who is owner and server too."""
    keys = Keys()
    keys.server = keys.owner = keys.report
    return keys


def digest(text: str) -> str:
    """A SHA-256 of something."""
    return hashlib.sha256(text.encode()).hexdigest()


def _exit(nonce: str, head: str, keys: Keys) -> str:
    claims = evidence.exit_claims(
        nonce=nonce, head_token=head, process_gone=True, exit_status=0, workspace_entries=0, gpu={}, scan={"status": "unseen"}
    )
    return sign(claims, key=keys.agent, typ=evidence.TYP_EXIT)


def _round_result(observed: Any, *, slower: int) -> RoundResult:
    number = int(observed["round"])
    raw = observed.get("raw") or {}
    return RoundResult(
        number=number,
        order=("protected", "raw") if number % 2 else ("raw", "protected"),
        protected=leg_result("protected", number, units=1980 + number - slower) if observed.get("protected") else None,
        raw=leg_result("raw", number, units=2000 + 2 * number) if raw.get("callback") else None,
        raw2=leg_result("raw2", number, units=2003 - number) if observed.get("raw2") else None,
    )


def leg_result(leg: Any, number: int, *, units: int, **changes: Any) -> LegResult:
    """One leg of two seconds and a bit."""
    given: dict[str, Any] = {
        "leg": leg,
        "unit": "epochs",
        "units": units,
        "elapsed_ns": 2_000_123_456 + number,
        "setup_ns": 812_345_678,
        "warmup_ns": 500_111_222,
        "warmup_units": 490,
        "order_seed": 10 * number + (leg == "raw"),
        "zeroize_ns": 3_456_789 if leg == "protected" else None,
        "final_loss": "0.0123",
        "adapter_sha256": digest(f"adapter {leg} {number}"),
        "stop_reason": "time",
        "phases_ns": {"load": 12_345_678, "export": 1_234_567},
        "cpu_ns": 2_400_000_000,
        "peak_memory_bytes": None if leg == "raw" else 123_456_789,
        "facts": {"device": "cpu", "threads": 1},
        **changes,
    }
    return LegResult(**given)
