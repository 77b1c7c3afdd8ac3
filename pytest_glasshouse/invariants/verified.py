"""Verification of signed evidence: every token and journal that an invariant reads is verified here first.

Keys come from the observation; whether those keys deserve trust is not known here (`glasshouse check --trust`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.invariants.finding import JudgedInvariant, broken, unseen
from pytest_glasshouse.observation.claims import (
    BordersClaims,
    ConfidentialClaims,
    EvidenceClaims,
    ExitClaims,
    HeadClaims,
    ManifestClaims,
    RankClaims,
    ReceiptClaims,
    ResultClaims,
    StretchesClaims,
)
from pytest_glasshouse.observation.reading import ROLES
from pytest_glasshouse.observation.trained import Callback, Trained
from pytest_glasshouse.wire import evidence, journal, tokens
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from pytest_glasshouse.invariants.finding import EvidenceReader
    from pytest_glasshouse.observation.document import GuestSeen
    from pytest_glasshouse.rows.leg_order import Role
    from pytest_glasshouse.wire.journal import JournalEntry

T = TypeVar("T")


def claims(token: str, kind: type[T], *, key: Ed25519PublicKey, typ: str, name: str) -> T:
    """The claims of a token: `broken` when `key` did not sign it. Raises `ProtocolError` when they are no `kind`."""
    try:
        signed = tokens.verify(token, key=key, typ=typ)
    except IntegrityError as error:
        raise broken(
            f"the {name} does not verify: {error.reason}",
            expected=f"a {name} signed by its key",
            seen=error.reason,
            todo="do not use this row; find out who changed it",
        ) from None
    return check_typed(signed, kind, name)


def key(reader: EvidenceReader, *path: str, row: bool = False) -> Ed25519PublicKey:
    """A public key of the observation."""
    text = reader.of_row(*path) if row else reader.of(*path)
    try:
        return tokens.public_key(text)
    except IntegrityError:
        raise unseen(f"{'.'.join(path)} is not a public key") from None


def evidence_claims(reader: EvidenceReader) -> EvidenceClaims:
    """The evidence, verified with the key the guest enrolled."""
    token = reader.of("protected", "evidence")
    return claims(token, EvidenceClaims, key=key(reader, "protected", "ak"), typ=evidence.TYP_EVIDENCE, name="evidence")


def rank_claims(reader: EvidenceReader) -> RankClaims:
    """What the evidence says of this rank, which is not the first; `unseen` when it says nothing."""
    for rank in evidence_claims(reader).get("ranks", []):
        if rank["rank"] == reader.rank:
            return rank
    raise unseen("the evidence does not speak of it", expected=f"measurements of rank {reader.rank}", seen="none")


def result_claims(reader: EvidenceReader) -> ResultClaims:
    """The attestation result, verified with the server's key."""
    token = reader.of("protected", "result")
    server = key(reader, "keys", "server", row=True)
    return claims(token, ResultClaims, key=server, typ=evidence.TYP_RESULT, name="attestation result")


def manifest_claims(reader: EvidenceReader) -> ManifestClaims:
    """The manifest, verified with the owner's key."""
    token = reader.of("protected", "manifest")
    owner = key(reader, "keys", "owner", row=True)
    return claims(token, ManifestClaims, key=owner, typ=evidence.TYP_MANIFEST, name="manifest")


def confidential_claims(reader: EvidenceReader) -> ConfidentialClaims:
    """The same manifest's claims about its parts, and whether it is confidential."""
    token = reader.of("protected", "manifest")
    owner = key(reader, "keys", "owner", row=True)
    return claims(token, ConfidentialClaims, key=owner, typ=evidence.TYP_MANIFEST, name="manifest")


def head_claims(reader: EvidenceReader) -> HeadClaims:
    """The journal's head, verified with the ephemeral key the evidence vouched for."""
    token = reader.of("protected", "head")
    cnf = evidence_claims(reader)["cnf"]
    evidence.hpke_key(cnf["hpke"])
    sig = rank_claims(reader)["sig"] if reader.rank else cnf["sig"]
    return claims(token, HeadClaims, key=tokens.public_key(sig), typ=evidence.TYP_HEAD, name="journal head")


def receipt_claims(reader: EvidenceReader) -> ReceiptClaims:
    """The server's receipt, verified with its key."""
    token = reader.of("protected", "receipt")
    server = key(reader, "keys", "server", row=True)
    return claims(token, ReceiptClaims, key=server, typ=evidence.TYP_RECEIPT, name="receipt")


def exit_claims(reader: EvidenceReader, leg: Role) -> ExitClaims:
    """The agent's signed exit of one leg, verified with the agent's key."""
    token = reader.of(leg, "exit")
    return claims(token, ExitClaims, key=_agent_of(reader, leg), typ=evidence.TYP_EXIT, name=f"exit of the {leg} leg")


def stretches_claims(reader: EvidenceReader, leg: Role) -> StretchesClaims:
    """The agent's account of one leg's timed stretches, verified with the agent's key, and of the session of the leg's exit."""
    token, session = reader.of(leg, "stretches"), exit_claims(reader, leg)["nonce"]
    name = f"account of the {leg} leg's stretches"
    found = claims(token, StretchesClaims, key=_agent_of(reader, leg), typ=evidence.TYP_STRETCHES, name=name)
    if found["nonce"] != session:
        raise broken(
            f"the {name} is of another session",
            expected=f"nonce {session}",
            seen=f"nonce {found['nonce']}",
            todo="do not use this row",
        )
    return found


def _agent_of(reader: EvidenceReader, leg: Role) -> Ed25519PublicKey:
    if leg == "protected":
        return key(reader, "protected", "ak")
    met = [seen for seen in reader.of("guest") if seen["leg"] == leg]
    if not met:
        raise unseen(f"the guest was not met before the {leg} leg")
    return tokens.public_key(met[-1]["ak"])


def borders_claims(reader: EvidenceReader) -> BordersClaims:
    """The agent's account of the turns, verified with the key of the agent met first."""
    token, agent = reader.of("borders"), tokens.public_key(first_guest(reader)["ak"])
    return claims(token, BordersClaims, key=agent, typ=evidence.TYP_BORDERS, name="account of the turns")


def first_guest(reader: EvidenceReader) -> GuestSeen:
    """The guest as it was met before the first leg of this round; `unseen` when it never was."""
    met: list[GuestSeen] = reader.of("guest")
    if not met:
        raise unseen("the guest was not met before any leg")
    return met[0]


def entries(reader: EvidenceReader) -> tuple[JournalEntry, ...]:
    """The journal's events; `unseen` when the journal does not replay, which is `journal countersigned`'s to break."""
    lines, nonce = reader.of("protected", "journal"), reader.of("protected", "challenge", "nonce")
    try:
        return journal.replay(lines, journal.rank_session(nonce, reader.rank))
    except IntegrityError as error:
        raise unseen(f"the journal does not replay: {error.reason}", expected="a whole journal", seen=error.reason) from None


def entry(reader: EvidenceReader, step: str, kind: type[T]) -> T:
    """The body of the journal's first line of a step; `unseen` when there is none."""
    for found in entries(reader):
        if found.type == step:
            return check_typed(found.body, kind, step)
    raise unseen(f"the journal has no {step}", expected=step, seen="none")


def legs(reader: EvidenceReader) -> tuple[Role, ...]:
    """The legs of a round: a protected and a raw one, and a second raw one beside them or in the protected one's place."""
    order = reader.notes["order"] or ("protected", "raw")
    return tuple(leg for leg in ROLES if leg in order)


def raw_legs(reader: EvidenceReader) -> tuple[Role, ...]:
    """The legs of a round that are not protected."""
    return tuple(leg for leg in legs(reader) if leg != "protected")


def callback(reader: EvidenceReader, leg: Role) -> Callback:
    """A raw leg's callback; `unseen` when it is missing. Raises `ProtocolError` when it is none."""
    return check_typed(reader.of(leg, "callback"), Callback, f"{leg}.callback")


def ends(reader: EvidenceReader) -> dict[Role, Trained]:
    """What each leg reported when its training was over: the protected one in its journal, the others in their callbacks."""
    present = legs(reader)
    for leg in present:
        reader.ran(leg)
    found: dict[Role, Trained] = {}
    if "protected" in present:
        try:
            found["protected"] = entry(reader, "train_completed", Trained)
        except JudgedInvariant as verdict:
            raise unseen(f"the protected leg's training was not seen: {verdict.reason}") from None
    return found | {leg: callback(reader, leg) for leg in raw_legs(reader)}
