"""Invariants of the allocation: all legs ran on the same one, and the raw leg reported completion from there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.invariants import rank_checks, verified
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, JudgedInvariant, broken, judge_rounds, unseen
from pytest_glasshouse.observation.trained import WorkloadFacts
from pytest_glasshouse.rows.spec import SIMULATED_GPU
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from pytest_glasshouse.observation.document import AllocationSeen, GuestSeen, Observation
    from pytest_glasshouse.rows.leg_order import Role


def raw_callback_completed(observation: Observation) -> Finding:
    """The raw leg reported completion itself, with this round's nonce, its process ended well, and the agent signed for both."""
    return judge_rounds("raw callback completed", observation, _callback, of_rank=_callback)


def _callback(reader: EvidenceReader) -> str:
    return " and ".join(_callback_of(reader, leg) for leg in verified.raw_legs(reader))


def _callback_of(reader: EvidenceReader, leg: Role) -> str:
    reader.ran(leg)
    callback = reader.maybe(leg, "callback")
    if callback is None:
        failed = reader.maybe(leg, "failed")
        if failed is not None:
            raise unseen(f"the {leg} leg failed: {failed['reason']}", expected="a completion callback", seen=failed["reason"])
        signed_exit = verified.exit_claims(reader, leg)
        raise broken(
            f"the {leg} callback never reported completion",
            expected="a callback with the round's nonce",
            seen=f"the leg's process ended with status {signed_exit['exit_status']} and no callback",
            todo="the row is excluded; run it again",
        )
    if (callback["nonce"], callback["status"]) != (reader.of("nonce"), "completed"):
        raise broken(
            f"the {leg} callback is of another round",
            expected=f"completed, nonce {reader.of('nonce')}",
            seen=f"{callback['status']}, nonce {callback['nonce']}",
            todo="do not use this row",
        )
    signed_exit = verified.exit_claims(reader, leg)
    if signed_exit["exit_status"] != 0 or signed_exit["nonce"] != reader.of("nonce"):
        raise broken(
            f"the {leg} leg's process did not end well",
            expected="exit status 0",
            seen=f"exit status {signed_exit['exit_status']}",
            todo="do not use this row",
        )
    if signed_exit["head"] != sha256_hex(canonical(callback)):
        raise broken(
            f"the {leg} callback is not the one the agent signed for",
            expected=f"callback {signed_exit['head']}",
            seen=f"callback {sha256_hex(canonical(callback))}",
            todo="do not use this row: its figures were changed on the way",
        )
    return f"completed with {callback['units']} units"


def same_allocation(observation: Observation) -> Finding:
    """Provider's listing, GPU, boot, agent and its key are the same before every leg of the row, which trained on that GPU."""

    def judge(reader: EvidenceReader) -> str:
        held = same_keys(reader)
        _trained_there(reader)
        return held

    def judge_node(reader: EvidenceReader) -> str:
        held = same_keys(reader)
        rank_checks.own_guest(reader)
        _trained_there(reader)
        return held

    return judge_rounds("same allocation", observation, judge, of_rank=rank_checks.own_device, of_node=judge_node)


def same_keys(reader: EvidenceReader) -> str:
    """The same guest with the same key: all that revision 3 compared."""
    held = same_guest(reader)
    _one_key(reader)
    return held


def _trained_there(reader: EvidenceReader) -> None:
    """Every leg that completed names the GPU that it trained on by its UUID; it has to be the one that the report names."""
    named = _first_met(reader)["gpuUuid"] if reader.node else reader.of_row("allocation")["gpuUuid"]
    for leg, facts in _facts(reader):
        trained_on = facts.get("deviceUuid")
        if trained_on is None and named is not None and facts["device"] != "cpu":
            raise unseen(f"the {leg} leg's torch does not tell its GPU's UUID", expected=f"GPU {named}", seen=facts["device"])
        if (trained_on or "").casefold() != (named or "").casefold():
            raise broken(
                f"the {leg} leg trained on another device than the one the report names",
                expected=f"GPU {named}" if named else "no GPU",
                seen=f"GPU {trained_on}" if trained_on else facts["device"],
                todo="do not use this row; check CUDA_VISIBLE_DEVICES on the guest",
            )


def _facts(reader: EvidenceReader) -> Iterator[tuple[str, WorkloadFacts]]:
    """What each leg that completed says of its device; a leg that did not is the subject of other invariants."""
    for leg in verified.legs(reader):
        found = _facts_in_journal(reader) if leg == "protected" else reader.maybe(leg, "callback", "facts")
        if found is not None:
            yield leg, check_typed(found, WorkloadFacts, f"{leg} facts")


def _facts_in_journal(reader: EvidenceReader) -> object:
    if reader.maybe("protected", "journal") is None:
        return None
    try:
        lines = verified.entries(reader)
    except JudgedInvariant:
        return None
    return next((line.body.get("facts") for line in lines if line.type == "train_completed"), None)


def _one_key(reader: EvidenceReader) -> None:
    """Every leg's agent has the key that was enrolled; where none was, the key the row's first agent sent."""
    enrolled = reader.maybe("protected", "ak") or _first_met(reader)["ak"]
    for seen in reader.of("guest"):
        if seen["ak"] != enrolled:
            raise broken(
                f"the agent before the {seen['leg']} leg has another key",
                expected=f"key {enrolled}",
                seen=f"key {seen['ak']}",
                todo="do not use this row: the agent that signed was not enrolled",
            )


def same_guest(
    reader: EvidenceReader, *, expected_legs: Collection[str] | None = None, stand_in: Callable[..., bool] | None = None
) -> str:
    """The same guest before every leg, whatever its keys.

    Revision 1 knew two legs (`expected_legs`) and no simulated provider (`stand_in`).
    """
    met: list[GuestSeen] = reader.of("guest")
    legs = {seen["leg"] for seen in met}
    if legs != set(expected_legs or verified.legs(reader)):
        raise unseen("the guest was not met before both legs", expected="every leg", seen=", ".join(sorted(legs)) or "none")
    allocation: AllocationSeen = reader.of_row("allocation")
    first = _first_met(reader)
    for seen in met:
        if seen["listed"] != [allocation["providerInstanceId"]]:
            raise broken(
                f"the provider did not list the allocation before the {seen['leg']} leg",
                expected=str(allocation["providerInstanceId"]),
                seen=", ".join(seen["listed"]) or "nothing",
                todo="do not use this row",
            )
        stands_in = (stand_in or _stands_in)(reader, first)
        compared = {
            "allocation": (seen["allocation"], allocation["name"]),
            "gpuModel": (seen["gpuModel"], first["gpuModel"] if stands_in else allocation["gpuModel"]),
            "gpuUuid": (seen["gpuUuid"], first["gpuUuid"] if reader.node else allocation["gpuUuid"]),
            "bootId": (seen["bootId"], first["bootId"]),
            "agentNonce": (seen["agentNonce"], first["agentNonce"]),
        }
        for name, (value, expected) in compared.items():
            if value != expected:
                raise broken(
                    f"the guest before the {seen['leg']} leg has another {name}",
                    expected=f"{name} {expected}",
                    seen=f"{name} {value}",
                    todo="do not use this row: the guest was restarted or replaced between the legs",
                )
    if reader.maybe("protected", "evidence") is not None:
        container = verified.evidence_claims(reader)["container"]
        if container != allocation["name"]:
            raise broken(
                "the evidence is from another allocation",
                expected=str(allocation["name"]),
                seen=container,
                todo="do not use this row",
            )
    return f"{len(met)} meetings with one guest, listed each time"


def _first_met(reader: EvidenceReader) -> GuestSeen:
    """The guest as it was met before the first leg of the row; `unseen` when it was not."""
    met: list[GuestSeen] = reader.first_round()["guest"]
    if not met:
        raise unseen("the guest was not met before the first leg")
    return met[0]


def _stands_in(reader: EvidenceReader, guest: GuestSeen) -> bool:
    """Only a simulated provider's pod may have no GPU: there a CPU stands in, and the allocation's model says so."""
    if reader.of_row("allocation")["gpuModel"] != SIMULATED_GPU:
        return False
    return bool(reader.of_row("plan")["simulated"]) and str(guest["gpuModel"]).startswith("CPU (")
