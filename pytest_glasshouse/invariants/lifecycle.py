"""Invariants of a leg's end: zeroized, scanned, its journal countersigned, the legs one after the other."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.invariants import rank_checks, verified
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, broken, judge_rounds, unseen
from pytest_glasshouse.invariants.turns import in_turns
from pytest_glasshouse.observation.claims import GpuClaim, ScanClaim, ScanCounts
from pytest_glasshouse.observation.reading import protected_of
from pytest_glasshouse.wire import evidence, journal
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.rows.leg_order import Role


_NOT_WHOLE = {
    "log-head": "the journal is not the one the leg signed",
    "log-steps": "the journal does not show a whole lifecycle: steps are missing, or not in their order",
}
#: Providers whose guests run on this machine: there only the leg itself can prevent a scan.
SCANNED_PROVIDERS = ("mock", "local")


#: Where no process is listed, so much more of the whole GPU in use than before the leg is the driver's or another process's:
#: a process that uses CUDA holds hundreds of MiB for its context alone.
SMALL_REMAINDER_BYTES = 64 << 20


def runtime_zeroized(observation: Observation) -> Finding:
    """Last journal line, signed head, process gone, workspace empty, GPU memory released: all of them were seen."""
    return judge_rounds("runtime zeroized", observation, zeroized, of_rank=zeroized)


def zeroized(reader: EvidenceReader, *, small_remainder: int = SMALL_REMAINDER_BYTES) -> str:
    """Judge one round; returns what was held. Up to revision 3 a remainder on the GPU was broken, however small."""
    reader.ran("protected")
    if "terminated" in protected_of(reader.notes):
        raise broken(
            "the allocation was ended before the leg had left exit evidence",
            expected="a signed exit",
            seen=str(reader.of("protected", "terminated")),
            todo="nothing is known of what the guest held; run the row again",
        )
    head = verified.head_claims(reader)
    entries = verified.entries(reader)
    if entries[-1].type != "zeroized":
        raise broken(
            "the leg ended without zeroizing",
            expected="zeroized as the journal's last line",
            seen=entries[-1].type,
            todo="treat the guest as still holding the plaintext; end the allocation",
        )
    if head["head"] != journal.link(reader.of("protected", "journal")[-1]):
        raise unseen("the signed head is of another journal", expected="head of this journal", seen=head["head"])
    signed_exit = verified.exit_claims(reader, "protected")
    if signed_exit["head"] != sha256_hex(reader.of("protected", "head").encode()):
        raise unseen("the signed exit is of another head", expected="exit bound to this head", seen=signed_exit["head"])
    observed: dict[str, tuple[int, int]] = {
        "process gone": (signed_exit["process_gone"], True),
        "files left in the workspace": (signed_exit["workspace_entries"], 0),
    }
    gpu = check_typed(signed_exit["gpu"], GpuClaim, "gpu")
    if reader.of_row("allocation").get("gpuUuid") is not None and not (gpu.get("before") and gpu.get("after") is not None):
        # Memory that was never seen in use cannot be seen to be released.
        why = gpu.get("reason") or "none was in use while the leg trained"
        raise unseen(f"the GPU's memory was not observed: {why}", expected="GPU memory of the leg, then 0")
    after = gpu.get("after")
    if after and gpu.get("of") == "device" and after < small_remainder:
        raise unseen(
            f"{after / 2**20:.1f} MiB more of the GPU's memory are in use than before the leg, and the driver lists no process: "
            "it cannot be seen whose they are",
            expected="the GPU's memory as before the leg",
            seen=f"{after} bytes more",
        )
    if after is not None:
        observed["GPU memory in use"] = (after, 0)
    for name, (seen, expected) in observed.items():
        if seen != expected:
            raise broken(
                f"{name}: {seen}",
                expected=f"{name}: {expected}",
                seen=str(seen),
                todo="treat the guest as still holding the plaintext; end the allocation",
            )
    return "last line, signed head, process gone, workspace empty"


def memory_scanned_clean(observation: Observation) -> Finding:
    """The scan found its positive control before the wipe and no copy of any secret after it."""
    return judge_rounds("memory scanned clean", observation, scanned, of_rank=scanned)


def scanned(reader: EvidenceReader, *, of_a_sealed_model: Sequence[str] = (evidence.SCAN_WEIGHTS,)) -> str:
    """Judge one round. Up to revision 3 nobody looked for the weights of a sealed model."""
    reader.ran("protected")
    kinds = evidence.SCAN_RANK_KINDS if reader.rank else evidence.SCAN_KINDS
    needed = (*kinds, *(of_a_sealed_model if reader.sealed else ()))
    signed_exit = verified.exit_claims(reader, "protected")
    claimed = check_typed(signed_exit["scan"], ScanClaim, "scan")
    if claimed["status"] == "unseen":
        provider, reason = reader.of_row("allocation", "provider"), claimed.get("reason", "no reason was given")
        reason = reason if provider in SCANNED_PROVIDERS else f"not applicable on {provider}: {reason}"
        raise unseen(reason, expected="a scan with its positive control", seen="no scan that counts")
    scan = check_typed(signed_exit["scan"], ScanCounts, "scan")
    if scan["copies"] != 0 or scan["left"] or scan["status"] != "clean":
        raise broken(
            f"the scan found {scan['copies']} copies after the wipe ({', '.join(sorted(scan['left'])) or scan['status']})",
            expected="no copy of any secret",
            seen=f"{scan['copies']} copies",
            todo="treat the guest as still holding the plaintext; end the allocation",
        )
    # A scan that finds nothing proves something only where it found the same things before they were wiped.
    for kind in dict.fromkeys((*needed, *scan["patterns"])):
        looked_for, control = scan["patterns"].get(kind, 0), scan["control"].get(kind, 0)
        if looked_for < 1 or control != looked_for:
            raise unseen(
                f"the scan's control did not find every {kind}",
                expected=f"{max(looked_for, 1)} of {kind} before the wipe",
                seen=f"{control}",
            )
    if verified.entries(reader)[-1].type != "zeroized" or signed_exit["head"] != sha256_hex(
        reader.of("protected", "head").encode()
    ):
        raise unseen("the scan is not of this journal's end", expected="an exit bound to the head after zeroized")
    searched = scan["looks"]["wiped"]["bytes"]
    if searched < 1:
        raise unseen("nothing was searched after the wipe", expected="the leg's memory", seen="0 bytes")
    return f"0 copies of {sum(scan['patterns'].values())} patterns in {searched} bytes; all of them were found before the wipe"


def journal_countersigned(observation: Observation) -> Finding:
    """The journal is whole and shows a whole lifecycle, its head is the leg's, and the server countersigned it with the exit."""
    return judge_rounds("journal countersigned", observation, countersigned, of_rank=rank_checks.journal_bound)


def countersigned(reader: EvidenceReader, *, read: Callable[..., object] = journal.read) -> str:
    """`read` says which journals are whole: revision 2 of the invariants knew no steps."""
    reader.ran("protected")
    head = verified.head_claims(reader)
    lines, nonce = reader.of("protected", "journal"), reader.of("protected", "challenge", "nonce")
    try:
        read(lines, nonce, head=head)
    except IntegrityError as error:
        raise broken(
            _NOT_WHOLE.get(error.reason, f"the journal does not replay: {error}"),
            expected=f"{head['count']} linked lines with head {head['head']}, every step once and in order",
            seen=f"{len(lines)} lines with head {journal.head_of(lines, nonce)}: {error}",
            todo="do not use this row; lines were lost or changed on the way, or the leg did something else",
        ) from None
    refused = reader.maybe("protected", "completeRefusal")
    if refused is not None:
        raise broken(
            f"the server did not countersign: {refused['reason']}",
            expected="a receipt",
            seen=f"refused: {refused['reason']}",
            todo="do not use this row",
        )
    receipt = verified.receipt_claims(reader)
    bound = {
        "head": (receipt["head_sha256"], sha256_hex(reader.of("protected", "head").encode())),
        "exit": (receipt["exit_sha256"], sha256_hex(reader.of("protected", "exit").encode())),
        "nonce": (receipt["nonce"], nonce),
    }
    for name, (seen, expected) in bound.items():
        if seen != expected:
            raise broken(
                f"the receipt is for another {name}",
                expected=f"{name} {expected}",
                seen=f"{name} {seen}",
                todo="do not use this row",
            )
    return f"{head['count']} lines, receipt for attempt {receipt['attempt']}"


def legs_in_order(observation: Observation) -> Finding:
    """Each leg started after the one before it was gone, and a raw one after zeroized; or they took turns."""
    return judge_rounds("legs in order, not overlapping", observation, in_order, of_rank=_rank_in_order)


def _rank_in_order(reader: EvidenceReader) -> str:
    rank_checks.in_its_leg(reader)
    return in_order(reader)


def in_order(reader: EvidenceReader, *, turns: Callable[[EvidenceReader], str] = in_turns) -> str:
    """Judge one round, its `turns` where it has them; returns what was held."""
    if "turns" in reader.notes:
        return turns(reader)
    first, second, *third = reader.of("order")
    order = (first, second, *third)
    for leg in order:
        reader.ran(leg)
    boots = {seen["bootId"] for seen in reader.of("guest")}
    if len(boots) != 1:
        raise unseen("the legs' times are from two clocks", expected="one boot of the guest", seen=f"{len(boots)} boots")
    return "; ".join([_started_after(reader, *pair) for pair in pairwise(order)])


def _started_after(reader: EvidenceReader, first: Role, second: Role) -> str:
    gone, started = reader.of(first, "timeline", "exit"), reader.of(second, "timeline", "spawned")
    if first == "protected":
        zeroized = reader.of("protected", "timeline", "zeroized")
        if started < zeroized:
            raise broken(
                "the raw leg started before the protected one had zeroized",
                expected="raw after zeroized",
                seen=f"{(zeroized - started) / 1e9:.3f} s before",
                todo="do not use this row",
            )
    if started < gone:
        raise broken(
            "the legs overlapped",
            expected=f"{second} after the {first} leg's process was gone",
            seen=f"{(gone - started) / 1e9:.3f} s of overlap",
            todo="do not use this row: the legs competed for the device",
        )
    return f"{second} started {(started - gone) / 1e9:.3f} s after {first} was gone"
