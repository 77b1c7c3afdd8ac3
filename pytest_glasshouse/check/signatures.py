"""Every token of every round, and whose it is: what the owner and the server signed, and through that, whose key the guest's is.

Knows the keys the reader trusts for server and owner. A guest's key counts where the server affirmed evidence by it, or the
owner vouched for it, and not because a report names it. What a guest of an excluded row made of its own tokens is that row's
findings to say; such a row has no figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.observation.reading import observed_rounds, protected_of
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
    check_enrolment,
    read_cnf,
)
from pytest_glasshouse.wire.tokens import peek, public_key, public_text, verify

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LISTS = ("rows", "excludedResults", "nullRows")
#: Since this revision of the invariants the owner vouches for the agent of a null row.
_VOUCHED_SINCE = 3
_OF_THE_SERVER = {"result": TYP_RESULT, "receipt": TYP_RECEIPT}
_OF_THE_OWNER = {"manifest": TYP_MANIFEST, "grant": TYP_GRANT}
#: Findings that say what became of a guest's own tokens.
_OF_ITS_PROOFS = {"attestation verified", "runtime zeroized", "journal countersigned"}
_OF_ITS_PLACE = {"same allocation"}


@dataclass(frozen=True, kw_only=True)
class SigningKeys:
    """The trusted keys one row names, and the guests' keys that a trusted server affirmed somewhere in the report."""

    server: Ed25519PublicKey
    owner: Ed25519PublicKey
    enrolled: AbstractSet[str]


def round_gaps(
    name: str, record: Mapping[str, Any], observed: Mapping[str, Any], keys: SigningKeys, *, revision: int
) -> Iterator[str]:
    """What of one round's tokens is not signed as it must be. Raises `IntegrityError`, `KeyError` or `TypeError` for more of it.

    `name` is the list the record is in. Of a measured or a null row every token must be there; of an excluded one those that are.
    """
    whole = name != "excludedResults"
    unheld = set() if whole else {each["invariant"] for each in record["findings"] if each["finding"] != "held"}
    protected = protected_of(observed)
    if name == "nullRows":
        yield from _vouched(observed, keys, revision)
        agent = public_key(observed["guest"][0]["ak"])
    else:
        yield from _affirmed(protected, keys, whole=whole, excused=bool(unheld & _OF_ITS_PROOFS))
        if not whole and not protected.get("ak"):
            return  # nobody was enrolled, and nothing is claimed
        agent = public_key(protected["ak"])
    if not unheld & _OF_ITS_PLACE:
        yield from _by_one_agent(observed, agent, whole=whole)


def enrolled_keys(document: Mapping[str, Any], servers: AbstractSet[str]) -> frozenset[str]:
    """Guests' keys by which evidence is signed that one of `servers` affirmed, in any measured row."""
    found = set()
    for row in document["rows"]:
        observation = row["observation"]
        for observed in observed_rounds(observation):
            protected = protected_of(observed)
            try:
                named = observation["keys"]["server"]
                result = verify(protected["result"], key=public_key(named), typ=TYP_RESULT)
                verify(protected["evidence"], key=public_key(protected["ak"]), typ=TYP_EVIDENCE)
                if named in servers and result["evidence_sha256"] == sha256_hex(protected["evidence"].encode()):
                    found.add(str(protected["ak"]))
            except (IntegrityError, KeyError, TypeError, AttributeError):
                continue
    return frozenset(found)


def vouching_faults(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a report is about something else than the owner vouched for, or is judged by older invariants than were planned."""
    for name in LISTS:
        for place, record in enumerate(document[name]):
            plan = record["observation"].get("plan")
            planned = plan.get("invariantsRevision", 1) if isinstance(plan, dict) else 1
            if planned > document["methodology"].get("invariantsRevision", 1):
                yield f"$.{name}[{place}].observation.plan", f"revision {planned} of the invariants was to judge this row"
            for number, observed in enumerate(observed_rounds(record["observation"])):
                for met, guest in enumerate(observed["guest"]):
                    where = f"$.{name}[{place}].observation.rounds[{number}].guest[{met}].vouched"
                    yield from ((where, text) for text in _other_than_vouched(document, record, observed, guest))


def _other_than_vouched(
    document: Mapping[str, Any], record: Mapping[str, Any], observed: Mapping[str, Any], guest: Mapping[str, Any]
) -> Iterator[str]:
    if "vouched" not in guest:
        return
    try:
        told = peek(guest["vouched"])
        expected = {
            "run": document["runId"],
            "row": record["rowId"],
            "round_nonce": observed["nonce"],
            "allocation": record["observation"]["allocation"]["name"],
            "ak": guest["ak"],
            "plan": sha256_hex(canonical(record["observation"]["plan"])),
        }
    except (IntegrityError, KeyError, TypeError, ValueError, AttributeError) as error:
        yield f"cannot be bound to the run ({type(error).__name__})"
        return
    for field, value in expected.items():
        if told.get(field) != value:
            yield f"its {field} is not this run's, row's and round's"


def _affirmed(protected: Mapping[str, Any], keys: SigningKeys, *, whole: bool, excused: bool) -> Iterator[str]:
    """1. What owner and server signed; 2. that the server signed for the guest's own tokens; 3. that those are the guest's."""
    told: dict[str, Any] = {}
    for key, tokens in ((keys.owner, _OF_THE_OWNER), (keys.server, _OF_THE_SERVER)):
        told |= {name: verify(protected[name], key=key, typ=typ) for name, typ in tokens.items() if whole or protected.get(name)}
    bound = {
        "evidence": ("result", "evidence_sha256"),
        "head": ("receipt", "head_sha256"),
        "exit": ("receipt", "exit_sha256"),
        "result": ("receipt", "result_sha256"),
    }
    for name, (by, claim) in bound.items():
        if by in told and told[by][claim] != sha256_hex(protected[name].encode()):
            yield f"the {name} is not the one the server signed for"
    try:
        _genuine(protected, whole=whole)
    except IntegrityError:
        if not excused:
            raise


def _genuine(protected: Mapping[str, Any], *, whole: bool) -> None:
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


def _vouched(observed: Mapping[str, Any], keys: SigningKeys, revision: int) -> Iterator[str]:
    """No server enrols a null row's agent: the owner says whose key it is; before it did, another row's evidence had to."""
    for guest in observed["guest"]:
        if "vouched" in guest:
            verify(guest["vouched"], key=keys.owner, typ=TYP_GUEST)
        elif revision >= _VOUCHED_SINCE or guest["ak"] not in keys.enrolled:
            yield f"nobody vouches for the agent's key before the {guest['leg']} leg"


def _by_one_agent(observed: Mapping[str, Any], agent: Ed25519PublicKey, *, whole: bool) -> Iterator[str]:
    """Every exit of a raw leg, and the account of the turns, by the one key, and no other met."""
    for guest in observed["guest"]:
        if guest.get("ak", public_text(agent)) != public_text(agent):
            yield f"the agent before the {guest['leg']} leg has another key than the one that was enrolled"
    for leg in observed["order"]:
        told = observed.get(leg) or {}
        if leg != "protected" and (whole or told.get("exit")):
            verify(told["exit"], key=agent, typ=TYP_EXIT)
    if observed.get("borders") or (whole and "turns" in observed):
        verify(observed["borders"], key=agent, typ=TYP_BORDERS)
