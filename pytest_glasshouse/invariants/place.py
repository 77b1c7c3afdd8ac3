"""Where it happened and whether the raw leg said so: same allocation, raw callback completed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.invariants import verified as reading
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, broken, judge_rounds, unseen
from pytest_glasshouse.rows.spec import SIMULATED_GPU
from pytest_glasshouse.wire.canonical import canonical, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.invariants.finding import Observation


def raw_callback_completed(observation: Observation) -> Finding:
    """The raw leg reported completion itself, with this round's nonce, its process ended well, and the agent signed for both."""
    return judge_rounds("raw callback completed", observation, _callback)


def _callback(reader: EvidenceReader) -> str:
    return " and ".join(_callback_of(reader, leg) for leg in reading.raw_legs(reader))


def _callback_of(reader: EvidenceReader, leg: str) -> str:
    reader.ran(leg)
    callback = reader.maybe(leg, "callback")
    if callback is None:
        failed = reader.maybe(leg, "failed")
        if failed is not None:
            raise unseen(f"the {leg} leg failed: {failed['reason']}", expected="a completion callback", seen=failed["reason"])
        left = reading.exit_claims(reader, leg)
        raise broken(
            f"the {leg} callback never reported completion",
            expected="a callback with the round's nonce",
            seen=f"the leg's process ended with status {left['exit_status']} and no callback",
            todo="the row is excluded; run it again",
        )
    if (callback["nonce"], callback["status"]) != (reader.of("nonce"), "completed"):
        raise broken(
            f"the {leg} callback is of another round",
            expected=f"completed, nonce {reader.of('nonce')}",
            seen=f"{callback['status']}, nonce {callback['nonce']}",
            todo="do not use this row",
        )
    left = reading.exit_claims(reader, leg)
    if left["exit_status"] != 0 or left["nonce"] != reader.of("nonce"):
        raise broken(
            f"the {leg} leg's process did not end well",
            expected="exit status 0",
            seen=f"exit status {left['exit_status']}",
            todo="do not use this row",
        )
    if left["head"] != sha256_hex(canonical(callback)):
        raise broken(
            f"the {leg} callback is not the one the agent signed for",
            expected=f"callback {left['head']}",
            seen=f"callback {sha256_hex(canonical(callback))}",
            todo="do not use this row: its figures were changed on the way",
        )
    return f"completed with {callback['units']} units"


def same_allocation(observation: Observation) -> Finding:
    """Provider's listing, GPU, boot, agent and the agent's key are the same before every leg of the row."""

    def judge(reader: EvidenceReader) -> str:
        told = same_guest(reader)
        _one_key(reader)
        return told

    return judge_rounds("same allocation", observation, judge)


def _one_key(reader: EvidenceReader) -> None:
    """Every leg's agent has the key that was enrolled; where none was, the key of the row's first meeting."""
    enrolled = reader.maybe("protected", "ak") or reader.of_row("rounds")[0]["guest"][0]["ak"]
    for seen in reader.of("guest"):
        if seen["ak"] != enrolled:
            raise broken(
                f"the agent before the {seen['leg']} leg has another key",
                expected=f"key {enrolled}",
                seen=f"key {seen['ak']}",
                todo="do not use this row: what that agent signed is by nobody who was enrolled",
            )


def same_guest(reader: EvidenceReader) -> str:
    """As revision 2 judged it: nothing about keys."""
    met = reader.of("guest")
    legs = {seen["leg"] for seen in met}
    if legs != set(reading.legs(reader)):
        raise unseen("the guest was not met before both legs", expected="every leg", seen=", ".join(sorted(legs)) or "none")
    allocation = reader.of_row("allocation")
    first = reader.of_row("rounds")[0]["guest"][0]
    for seen in met:
        if seen["listed"] != [allocation["providerInstanceId"]]:
            raise broken(
                f"the provider did not list the allocation before the {seen['leg']} leg",
                expected=str(allocation["providerInstanceId"]),
                seen=", ".join(seen["listed"]) or "nothing",
                todo="do not use this row",
            )
        wanted = {
            "allocation": allocation["name"],
            "gpuModel": first["gpuModel"] if _stands_in(reader, first) else allocation["gpuModel"],
            "gpuUuid": allocation["gpuUuid"],
            "bootId": first["bootId"],
            "agentNonce": first["agentNonce"],
        }
        for name, expected in wanted.items():
            if seen[name] != expected:
                raise broken(
                    f"the guest before the {seen['leg']} leg has another {name}",
                    expected=f"{name} {expected}",
                    seen=f"{name} {seen[name]}",
                    todo="do not use this row: the guest was restarted or replaced between the legs",
                )
    if reader.maybe("protected", "evidence") is not None:
        container = reading.evidence_claims(reader)["container"]
        if container != allocation["name"]:
            raise broken(
                "the evidence is from another allocation",
                expected=str(allocation["name"]),
                seen=container,
                todo="do not use this row",
            )
    return f"{len(met)} meetings with one guest, listed each time"


def _stands_in(reader: EvidenceReader, guest: Mapping[str, Any]) -> bool:
    """Only a simulated provider's pod may have no GPU: there a CPU stands in, and the allocation's model says so."""
    if reader.of_row("allocation")["gpuModel"] != SIMULATED_GPU:
        return False
    return bool(reader.of_row("plan")["simulated"]) and str(guest["gpuModel"]).startswith("CPU (")
