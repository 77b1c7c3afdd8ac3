"""Invariants of the key: attestation verified, key released only after it, and the package's weights the ones trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.invariants import rank_checks, verified
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, broken, judge_rounds, unseen
from pytest_glasshouse.observation.claims import ImagesClaim, KeyReceived, PackageVerified, TrainStarted
from pytest_glasshouse.observation.refusal import mismatches, refusal_text
from pytest_glasshouse.wire import evidence, journal
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.package import SEALED_WEIGHTS
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from pytest_glasshouse.observation.document import Observation


def attestation_verified(observation: Observation) -> Finding:
    """The server affirmed evidence of this round, made by the enrolled agent about the archive the host expects."""
    return judge_rounds("attestation verified", observation, _attestation, of_rank=_rank_attestation, of_node=_node_attestation)


def _attestation(reader: EvidenceReader) -> str:
    reader.ran("protected")
    refusal = reader.maybe("protected", "refusal")
    if refusal is not None:
        # For the words only: the finding is about the refusal, which is what its digest covers.
        found = mismatches(reader.notes["protected"] or {}, refusal["reason"])
        raise broken(
            f"the server refused the evidence: {refusal_text(reader.notes['protected'] or {}, refusal['reason'])}",
            expected="; ".join(f"{each.component} {each.expected}" for each in found) or "an affirming attestation result",
            seen="; ".join(f"{each.component} {each.seen}" for each in found) or f"refused: {refusal['reason']}",
            todo="no key was released; compare the guest's measurements with the policy",
        )
    result, measured = verified.result_claims(reader), verified.evidence_claims(reader)
    archive = reader.of_row("allocation", "archiveSha256")
    bound = {
        "ear_status": (result["ear_status"], "affirming"),
        "nonce": (result["eat_nonce"], reader.of("protected", "challenge", "nonce")),
        "evidence": (result["evidence_sha256"], sha256_hex(reader.of("protected", "evidence").encode())),
        "manifest": (result["manifest"], sha256_hex(reader.of("protected", "manifest").encode())),
        "policy": (result["policy"], reader.of("protected", "policySha256")),
        "plan": (result["plan"], reader.of("protected", "plan")),
        "composite": (result["composite"], evidence.composite(measured["components"])),
        "archive": (measured["components"].get("archive"), archive),
    }
    for name, (seen, expected) in bound.items():
        if seen != expected:
            raise broken(
                f"the attestation result is about another {name}",
                expected=f"{name} {expected}",
                seen=f"{name} {seen}",
                todo="do not use this row; run it again",
            )
    rank_checks.all_in_evidence(reader, measured)
    _code_unchanged(reader)
    return f"affirming result for nonce {result['eat_nonce'][:16]}, attempt {result['attempt']}"


def _node_attestation(reader: EvidenceReader) -> str:
    held = _attestation(reader)
    rank_checks.own_agent(reader)
    return held


def _rank_attestation(reader: EvidenceReader) -> str:
    held = rank_checks.measured_alike(reader)
    _code_unchanged(reader)
    return held


def _code_unchanged(reader: EvidenceReader) -> None:
    """What ran until training was over is what was measured before."""
    if reader.maybe("protected", "exit") is not None:
        later = check_typed(verified.exit_claims(reader, "protected").get("images"), ImagesClaim, "images")
        if later["status"] == "changed":
            changed = ", ".join(later.get("changed", []))
            raise broken(
                f"what ran is not what was measured: {changed}",
                expected="the measured code, and nothing foreign, until training was over",
                seen=changed,
                todo="do not use this row; find out who changed the guest's code",
            )
        trained = any('"type":"train_completed"' in line for line in reader.maybe("protected", "journal") or ())
        if trained and later["status"] != "unchanged":
            raise unseen(f"the code that ran was not looked at again: {later.get('reason')}")


def key_released_after_attestation(observation: Observation) -> Finding:
    """The leg had its key from this round's affirming result, after it was measured and not before."""
    return judge_rounds("key released only after attestation", observation, _key, of_rank=rank_checks.no_key)


def _key(reader: EvidenceReader) -> str:
    reader.ran("protected")
    if reader.maybe("protected", "result") is None:
        raise unseen("no key was released", expected="a release", seen="none")
    entries = verified.entries(reader)
    types = [entry.type for entry in entries]
    if "key_received" not in types:
        raise unseen("the journal has no key_received", expected="key_received", seen=", ".join(types))
    received = check_typed(entries[types.index("key_received")].body, KeyReceived, "key_received")
    result = sha256_hex(reader.of("protected", "result").encode())
    if received["result"] != result:
        raise broken(
            "the leg's key came from somewhere else",
            expected=f"key_received from result {result}",
            seen=f"result {received['result']}",
            todo="do not use this row; find out where the key came from",
        )
    lines = reader.of("protected", "journal")
    before = types[: types.index("key_received")]
    head = verified.evidence_claims(reader)["state"]["head"]
    if tuple(before) != journal.STEPS_BEFORE_RELEASE or journal.link(lines[len(before) - 1]) != head:
        raise broken(
            "the key was received in another state than the evidence states",
            expected=", ".join(journal.STEPS_BEFORE_RELEASE) + " and nothing else before the key",
            seen=", ".join(before),
            todo="do not use this row",
        )
    return "received from this round's result, after measuring"


def weights_from_package(observation: Observation) -> Finding:
    """What training started from is what the owner sealed."""
    return judge_rounds("weights loaded from the package", observation, _weights, of_rank=rank_checks.weights_shared)


def _weights(reader: EvidenceReader) -> str:
    reader.ran("protected")
    workload = verified.manifest_claims(reader)["workload"]
    opened = verified.entry(reader, "package_verified", PackageVerified)
    manifest = sha256_hex(reader.of("protected", "manifest").encode())
    if opened["manifest"] != manifest:
        raise broken(
            "another package was opened",
            expected=f"manifest {manifest}",
            seen=f"manifest {opened['manifest']}",
            todo="do not use this row",
        )
    started = verified.entry(reader, "train_started", TrainStarted)
    if started["initial"] != workload["initial_sha256"]:
        raise broken(
            "training started from other weights than the package's",
            expected=f"initial weights {workload['initial_sha256']}",
            seen=f"initial weights {started['initial']}",
            todo="do not use this row; find out where the weights came from",
        )
    loaded = f"initial weights {workload['initial_sha256'][:16]}"
    return f"{loaded}; {_confidential(reader)}" if reader.sealed else loaded


def _confidential(reader: EvidenceReader) -> str:
    """Of a row whose base is sealed: the package has the model's weights and is confidential, and no raw leg got any of it."""
    reader.of_row("plan", "base")
    claims = verified.confidential_claims(reader)
    weights = [part["size"] for part in claims["parts"] if part["name"].startswith(SEALED_WEIGHTS)]
    if not claims["confidential"] or not weights:
        raise broken(
            "the package is not a confidential one with the model's weights",
            expected="a confidential manifest, and weights among its parts",
            seen=f"confidential: {claims['confidential']}; {len(weights)} parts of weights",
            todo="do not use this row: its base model was not sealed",
        )
    for leg in ("raw", "raw2"):
        if reader.maybe(leg) is not None:
            raise broken(
                f"a {leg} leg ran, which gets the package's content in the clear",
                expected="no raw leg, of a confidential package",
                seen=f"a {leg} leg",
                todo="treat the model as known to the guest's owner",
            )
    return f"the model's {sum(weights)} bytes from the package, which no raw leg got"
