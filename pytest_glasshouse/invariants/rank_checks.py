"""What must hold of every rank of a leg that has several, beside what must hold of the first one, which is the leg.

Most of it is what must hold of a leg, judged again on what the rank left (`judge_rounds`). Here is what has no counterpart
there: that the ranks are parts of one leg, and do one work; over several nodes, that each is a machine of its own in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.invariants import verified
from pytest_glasshouse.invariants.finding import broken, unseen
from pytest_glasshouse.observation.claims import Heads, PackageShared, TrainStarted
from pytest_glasshouse.wire import evidence, journal
from pytest_glasshouse.wire.canonical import canonical, sha256_hex

if TYPE_CHECKING:
    from pytest_glasshouse.invariants.finding import EvidenceReader
    from pytest_glasshouse.observation.claims import EvidenceClaims

_DO_NOT = "do not use this row"
#: A rank has a GPU of its own; all else that is measured is the first rank's.
_OF_A_DEVICE = "gpu-uuid"


def all_in_evidence(reader: EvidenceReader, claims: EvidenceClaims) -> None:
    """The evidence, which has these claims, speaks of as many ranks as the plan."""
    named = [rank["rank"] for rank in claims.get("ranks", [])]
    if named != [*range(1, reader.ranks)]:
        raise broken(
            f"the evidence is of {len(named) + 1} ranks",
            expected=f"ranks 0 to {reader.ranks - 1}, as the row was planned",
            seen=f"rank 0 and {', '.join(map(str, named)) or 'no other'}",
            todo=_DO_NOT,
        )


def measured_alike(reader: EvidenceReader) -> str:
    """The rank's code and process were as the first rank's when the key was asked for, and its journal begins there."""
    claims, leg = verified.rank_claims(reader), verified.evidence_claims(reader)
    own, first = ({k: v for k, v in each["components"].items() if k != _OF_A_DEVICE} for each in (claims, leg))
    if own != first:
        names = ", ".join(sorted(name for name in own.keys() | first.keys() if own.get(name) != first.get(name)))
        raise broken(f"it runs other code than the first rank: {names}", expected="the first rank's", seen=names, todo=_DO_NOT)
    if canonical(claims["antidebug"]) != canonical(leg["antidebug"]):
        raise broken("its process is not as protected as the first rank's", expected="the same", seen="another", todo=_DO_NOT)
    types = {line.type: line.body for line in verified.entries(reader)}
    composite = types.get("measured", {}).get("composite")
    if composite != evidence.composite(claims["components"]):
        raise broken("its journal is of another measurement", expected="the evidence's", seen=str(composite), todo=_DO_NOT)
    return "measured as the first rank"


def no_key(reader: EvidenceReader) -> str:
    """The rank had no key: there is one release, to the first."""
    types = [line.type for line in verified.entries(reader)]
    if "key_received" in types:
        raise broken("it received a key of its own", expected="one release, to rank 0", seen="key_received", todo=_DO_NOT)
    return "no key"


def weights_shared(reader: EvidenceReader) -> str:
    """The rank trained from the weights of the package that the first one opened."""
    shared, started = (
        verified.entry(reader, "package_shared", PackageShared),
        verified.entry(reader, "train_started", TrainStarted),
    )
    manifest = sha256_hex(reader.of("protected", "manifest").encode())
    if shared["manifest"] != manifest:
        raise broken(
            "it was shared another package", expected=f"manifest {manifest}", seen=f"manifest {shared['manifest']}", todo=_DO_NOT
        )
    sealed = verified.manifest_claims(reader)["workload"]["initial_sha256"]
    if started["initial"] != sealed:
        raise broken(
            "training started from other weights than the package's",
            expected=f"initial weights {sealed}",
            seen=f"initial weights {started['initial']}",
            todo="do not use this row; find out where the weights came from",
        )
    return "the package's weights"


def journal_bound(reader: EvidenceReader) -> str:
    """The rank's journal is whole, and the first rank's journal, which the server countersigned, ends with its head."""
    head = verified.head_claims(reader)
    lines, nonce = reader.of("protected", "journal"), reader.of("protected", "challenge", "nonce")
    try:
        entries = journal.replay(lines, journal.rank_session(nonce, reader.rank))
        journal.check_head(lines, "", head=head["head"], count=head["count"])
        journal.check_steps(entries, steps=journal.RANK_STEPS)
    except IntegrityError as error:
        raise broken(
            f"its journal is not whole: {error.reason}",
            expected=f"{head['count']} linked lines, every step once and in order",
            seen=f"{len(lines)} lines: {error}",
            todo="do not use this row; lines were lost or changed on the way, or the rank did something else",
        ) from None
    assert reader.leg is not None  # noqa: S101  (a rank's reader has its leg's)
    bound = verified.entry(reader.leg, "zeroized", Heads)["heads"]
    if bound[reader.rank - 1 : reader.rank] != [journal.link(lines[-1])]:
        raise broken(
            "the leg's journal is bound to another journal of this rank",
            expected=f"head {journal.link(lines[-1])}",
            seen=", ".join(bound) or "none",
            todo=_DO_NOT,
        )
    return "its head is in the leg's journal"


def in_its_leg(reader: EvidenceReader) -> None:
    """The rank began after the leg before was gone, and was gone before its own leg was."""
    assert reader.leg is not None  # noqa: S101  (a rank's reader has its leg's)
    before = None
    for leg in reader.of("order"):
        spawned, gone = reader.of(leg, "timeline", "spawned"), reader.of(leg, "timeline", "exit")
        last = reader.leg.of(leg, "timeline", "exit")
        if gone > last or ("turns" not in reader.notes and before is not None and spawned < before):
            raise broken(
                f"it ran while another leg did, or after the {leg} leg had ended",
                expected="every rank within its leg",
                seen=f"spawned at {spawned}, gone at {gone} ns; its leg was gone at {last} ns",
                todo="do not use this row: the legs competed for the device",
            )
        before = last


def one_adapter(reader: EvidenceReader) -> str:
    """Every rank ends with the adapter that the first one exported: they averaged their gradients at every step."""
    assert reader.leg is not None  # noqa: S101  (a rank's reader has its leg's)
    for leg in verified.legs(reader):
        own = verified.head_claims(reader)["adapter"] if leg == "protected" else verified.callback(reader, leg)["adapter"]
        exported = reader.leg.of(leg, "adapterSha256")
        if own != exported:
            raise broken(
                f"in the {leg} leg it ended with another adapter than the first rank",
                expected=f"adapter {exported}",
                seen=f"adapter {own}",
                todo="do not use this row: the ranks did not train together",
            )
    return "one adapter"


def own_agent(reader: EvidenceReader) -> None:
    """A node's part was attested by an agent of its own, in a session of its own: what one node did never counts for two.

    The package is the one that the first node was sent.
    """
    first = _first(reader)
    for path in (("protected", "ak"), ("protected", "challenge", "nonce")):
        others = [first, *(first.of_node(node) for node in range(1, reader.node))]
        own, theirs = reader.of(*path), [other.of(*path) for other in others]
        if own in theirs:
            raise broken(
                f"its {path[-1]} is another node's: one node's evidence stands for two",
                expected="an agent and a session of each node's own",
                seen=str(own),
                todo=_DO_NOT,
            )
    own, manifest = reader.of("protected", "manifest"), first.of("protected", "manifest")
    if own != manifest:
        raise broken("it was sent another package than the first node", expected=manifest[:64], seen=str(own)[:64], todo=_DO_NOT)


def own_guest(reader: EvidenceReader) -> None:
    """Before every leg a node's guest was another one than the first node's, and had another GPU where they have any."""
    met = {leg["leg"]: leg for leg in _first(reader).of("guest")}
    for seen in reader.of("guest"):
        first = met.get(seen["leg"])
        same = [name for name in ("agentNonce", "ak") if first is not None and seen[name] == first[name]]
        if first is not None and seen["gpuUuid"] is not None and seen["gpuUuid"] == first["gpuUuid"]:
            same.append("gpuUuid")
        if same:
            raise broken(
                f"before the {seen['leg']} leg it was the first node's guest: the same {', '.join(same)}",
                expected="a guest of each node's own",
                seen=", ".join(str(seen[name]) for name in same),
                todo=_DO_NOT,
            )


def one_adapter_over_nodes(reader: EvidenceReader) -> str:
    """Every node exported the adapter that the first one did."""
    first = _first(reader)
    for leg in verified.legs(reader):
        own, exported = reader.of(leg, "adapterSha256"), first.of(leg, "adapterSha256")
        if own != exported:
            raise broken(
                f"in the {leg} leg it exported another adapter than the first node",
                expected=f"adapter {exported}",
                seen=f"adapter {own}",
                todo="do not use this row: the nodes did not train together",
            )
    return "one adapter"


def _first(reader: EvidenceReader) -> EvidenceReader:
    assert reader.first is not None  # noqa: S101  (another node's reader has the first's)
    return reader.first


def same_units(reader: EvidenceReader) -> None:
    """Every rank did the steps that the leg counts, stretch for stretch: they are counted once."""
    first = reader.leg or _first(reader)
    own, counted = verified.ends(reader), verified.ends(first)
    for leg, body in own.items():
        of_rank = [body["units"], *[[row[0], row[1]] for row in body.get("segments", [])]]
        of_leg = [counted[leg]["units"], *[[row[0], row[1]] for row in counted[leg].get("segments", [])]]
        if of_rank != of_leg:
            raise broken(
                f"it did {body['units']} units in the {leg} leg, which counts {counted[leg]['units']}",
                expected=f"{counted[leg]['units']} units, in the same stretches",
                seen=f"{body['units']}",
                todo="do not use this row: the ranks did not take the same steps",
            )


def own_device(reader: EvidenceReader) -> str:
    """The rank trained on a device of the first rank's kind; on GPUs, on another one."""
    assert reader.leg is not None  # noqa: S101  (a rank's reader has its leg's)
    own, first = verified.ends(reader), verified.ends(reader.leg)
    named = reader.of_row("allocation").get("gpuUuid")
    for leg, body in own.items():
        facts, of_first = body["facts"], first[leg]["facts"]
        if facts["device"] != of_first["device"]:
            raise broken(
                f"in the {leg} leg it trained on another kind of device",
                expected=of_first["device"],
                seen=facts["device"],
                todo=_DO_NOT,
            )
        uuid = facts.get("deviceUuid")
        if named is not None and uuid is None:
            raise unseen(f"in the {leg} leg its torch does not tell its GPU's UUID", expected="a GPU of its own")
        if uuid is not None and uuid == of_first.get("deviceUuid"):
            raise broken(
                f"in the {leg} leg it trained on the first rank's GPU", expected="a GPU of its own", seen=uuid, todo=_DO_NOT
            )
    return "a device of its own"
