"""The signatures of every token of every round: the owner's, the server's, and through them the guest's.

The reader trusts the keys of server and owner. A guest's key counts where the server affirmed evidence signed by it, or the owner
vouched for it, and not because a report names it. In an excluded row, which has no figure, the findings judge the guest's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.observation.reading import observed_rounds, protected_of
from pytest_glasshouse.report.fields import every_row
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.evidence import (
    TYP_BORDERS,
    TYP_EVIDENCE,
    TYP_EXIT,
    TYP_GRANT,
    TYP_GUEST,
    TYP_HEAD,
    TYP_MANIFEST,
    TYP_RECEIPT,
    TYP_RESULT,
    TYP_STRETCHES,
    check_enrolment,
    read_cnf,
)
from pytest_glasshouse.wire.tokens import peek, public_key, public_text, verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from pytest_glasshouse.analysis.fields import ListName, RowRecord
    from pytest_glasshouse.observation.document import GuestSeen, ProtectedNotes, RoundNotes
    from pytest_glasshouse.report.fields import Report
    from pytest_glasshouse.wire.canonical import Json

#: Since this revision of the invariants the owner vouches for the agent of a null row.
_VOUCHED_SINCE = 3
TokenName: TypeAlias = Literal["manifest", "grant", "evidence", "result", "head", "exit", "receipt"]
_SERVER_TOKENS: dict[TokenName, str] = {"result": TYP_RESULT, "receipt": TYP_RECEIPT}
_OWNER_TOKENS: dict[TokenName, str] = {"manifest": TYP_MANIFEST, "grant": TYP_GRANT}
#: Findings that judge a guest's own tokens.
_TOKEN_FINDINGS = {"attestation verified", "runtime zeroized", "journal countersigned"}
#: Findings that judge which agent and machine a leg ran on.
_PLACE_FINDINGS = {"same allocation"}


@dataclass(frozen=True, kw_only=True)
class SigningKeys:
    """The trusted keys that one row names, and the guests' keys that a trusted server affirmed anywhere in the report."""

    server: Ed25519PublicKey
    owner: Ed25519PublicKey
    enrolled: AbstractSet[str]


def signature_gaps(name: ListName, record: RowRecord, observed: RoundNotes, keys: SigningKeys, *, revision: int) -> Iterator[str]:
    """Signatures of one round that are missing or wrong. Also raises `IntegrityError` or `LookupError` for one.

    `name` is the record's list. A measured or null row must have every token; an excluded row's tokens are checked where present.
    """
    whole = name != "excludedResults"
    not_held = set() if whole else {each["invariant"] for each in record.get("findings", ()) if each["finding"] != "held"}
    protected = protected_of(observed)
    if name == "nullRows":
        yield from _vouched(observed, keys, revision)
        agent = public_key(observed["guest"][0]["ak"])
    else:
        yield from _affirmed(protected, keys, whole=whole, excused=bool(not_held & _TOKEN_FINDINGS))
        if not whole and not protected.get("ak"):
            return  # no agent was enrolled, and nothing is claimed
        agent = public_key(protected["ak"])
    if not not_held & _PLACE_FINDINGS:
        yield from _one_agent_faults(observed, agent, whole=whole)


def enrolled_keys(document: Report, servers: AbstractSet[str]) -> frozenset[str]:
    """Keys of guests whose evidence one of `servers` affirmed, in any measured row."""
    found = set()
    for row in (*document["rows"], *document.get("sealedRows", ())):
        observation = row["observation"]
        for observed in observed_rounds(observation):
            protected = protected_of(observed)
            try:
                named = observation["keys"]["server"]
                result = verify(protected["result"], key=public_key(named), typ=TYP_RESULT)
                verify(protected["evidence"], key=public_key(protected["ak"]), typ=TYP_EVIDENCE)
                if named in servers and result["evidence_sha256"] == sha256_hex(protected["evidence"].encode()):
                    found.add(protected["ak"])
            except (IntegrityError, KeyError):
                continue
    return frozenset(found)


def vouching_faults(document: Report) -> Iterator[tuple[str, str]]:
    """Where a report differs from what the owner vouched for, or was judged by older invariants than planned."""
    for path, _, record in every_row(document):
        plan = record["observation"].get("plan")
        planned = 1 if plan is None else plan.get("invariantsRevision", 1)
        if planned > document["methodology"].get("invariantsRevision", 1):
            yield f"{path}.observation.plan", f"asks for revision {planned} of the invariants, newer than the report's"
        for number, observed in enumerate(observed_rounds(record["observation"])):
            for index, guest in enumerate(observed["guest"]):
                where = f"{path}.observation.rounds[{number}].guest[{index}].vouched"
                yield from ((where, text) for text in _differs_from_vouched(document, record, observed, guest))


def _differs_from_vouched(document: Report, record: RowRecord, observed: RoundNotes, guest: GuestSeen) -> Iterator[str]:
    if "vouched" not in guest:
        return
    try:
        claims = peek(guest["vouched"])
        expected = {
            "run": document["runId"],
            "row": record["rowId"],
            "round_nonce": observed["nonce"],
            "allocation": record["observation"]["allocation"]["name"],
            "ak": guest["ak"],
            "plan": sha256_hex(canonical(record["observation"]["plan"])),
        }
    except (IntegrityError, KeyError) as error:
        yield f"cannot be bound to the run ({type(error).__name__})"
        return
    for field, value in expected.items():
        if claims.get(field) != value:
            yield f"its {field} is not this run's, row's and round's"


def _affirmed(protected: ProtectedNotes, keys: SigningKeys, *, whole: bool, excused: bool) -> Iterator[str]:
    """1. What owner and server signed; 2. that the server signed for the guest's own tokens; 3. that those are the guest's."""
    claims: dict[str, dict[str, Json]] = {}
    for key, tokens in ((keys.owner, _OWNER_TOKENS), (keys.server, _SERVER_TOKENS)):
        claims |= {
            name: verify(protected[name], key=key, typ=typ) for name, typ in tokens.items() if whole or protected.get(name)
        }
    bound: dict[TokenName, tuple[str, str]] = {
        "evidence": ("result", "evidence_sha256"),
        "head": ("receipt", "head_sha256"),
        "exit": ("receipt", "exit_sha256"),
        "result": ("receipt", "result_sha256"),
    }
    for name, (by, claim) in bound.items():
        if by in claims and claims[by][claim] != sha256_hex(protected[name].encode()):
            yield f"the {name} is not the one the server signed for"
    try:
        _genuine(protected, whole=whole)
    except IntegrityError:
        if not excused:
            raise


def _genuine(protected: ProtectedNotes, *, whole: bool) -> None:
    if not whole and not (protected.get("ak") and protected.get("evidence")):
        return
    agent = public_key(protected["ak"])
    evidence = verify(protected["evidence"], key=agent, typ=TYP_EVIDENCE)
    if protected.get("proof"):
        check_enrolment(protected["grant"], protected["proof"], key=agent)
    if whole or protected.get("head"):
        verify(protected["head"], key=read_cnf(evidence["cnf"]).sig, typ=TYP_HEAD)
    if whole or protected.get("exit"):
        verify(protected["exit"], key=agent, typ=TYP_EXIT)
    if protected.get("stretches"):
        verify(protected["stretches"], key=agent, typ=TYP_STRETCHES)


def _vouched(observed: RoundNotes, keys: SigningKeys, revision: int) -> Iterator[str]:
    """No server enrols a null row's agent: the owner vouches for its key, or in older reports another row's evidence does."""
    for guest in observed["guest"]:
        if "vouched" in guest:
            verify(guest["vouched"], key=keys.owner, typ=TYP_GUEST)
        elif revision >= _VOUCHED_SINCE or guest["ak"] not in keys.enrolled:
            yield f"no signature vouches for the agent's key before the {guest['leg']} leg"


def _one_agent_faults(observed: RoundNotes, agent: Ed25519PublicKey, *, whole: bool) -> Iterator[str]:
    """Every raw leg's exit and the account of the turns must be signed by the one agent key, which every leg reported."""
    for guest in observed["guest"]:
        if guest.get("ak", public_text(agent)) != public_text(agent):
            yield f"the agent before the {guest['leg']} leg has another key than the one that was enrolled"
    for leg in observed["order"]:
        notes = observed.get(leg) or {}
        if leg != "protected" and (whole or notes.get("exit")):
            verify(notes["exit"], key=agent, typ=TYP_EXIT)
        if leg != "protected" and notes.get("stretches"):
            verify(notes["stretches"], key=agent, typ=TYP_STRETCHES)
    if observed.get("borders") or (whole and "turns" in observed):
        verify(observed["borders"], key=agent, typ=TYP_BORDERS)
