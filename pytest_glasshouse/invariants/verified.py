"""Signed things read again: every token and journal an invariant looks at is verified here first.

Keys come from the observation; whether those keys deserve trust is not known here (`glasshouse check --trust`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.invariants.finding import JudgedInvariant, broken, unseen
from pytest_glasshouse.wire import evidence, journal, tokens

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from pytest_glasshouse.invariants.finding import EvidenceReader
    from pytest_glasshouse.wire.journal import JournalEntry


def claims(reader: EvidenceReader, token: str, *, key: Ed25519PublicKey, typ: str, name: str) -> dict[str, Any]:
    """The claims of a token, or `broken` when it is not what `key` signed."""
    del reader
    try:
        return cast("dict[str, Any]", tokens.verify(token, key=key, typ=typ))
    except IntegrityError as error:
        raise broken(
            f"the {name} does not verify: {error.reason}",
            expected=f"a {name} signed by its key",
            seen=error.reason,
            todo="do not use this row; find out who changed it",
        ) from None


def key(reader: EvidenceReader, *path: str, row: bool = False) -> Ed25519PublicKey:
    """A public key of the observation."""
    text = reader.of_row(*path) if row else reader.of(*path)
    try:
        return tokens.public_key(text)
    except IntegrityError:
        raise unseen(f"{'.'.join(path)} is not a public key") from None


def evidence_claims(reader: EvidenceReader) -> dict[str, Any]:
    """The evidence, verified with the key the guest enrolled."""
    token = reader.of("protected", "evidence")
    return claims(reader, token, key=key(reader, "protected", "ak"), typ=evidence.TYP_EVIDENCE, name="evidence")


def result_claims(reader: EvidenceReader) -> dict[str, Any]:
    """The attestation result, verified with the server's key."""
    token = reader.of("protected", "result")
    server = key(reader, "keys", "server", row=True)
    return claims(reader, token, key=server, typ=evidence.TYP_RESULT, name="attestation result")


def manifest_claims(reader: EvidenceReader) -> dict[str, Any]:
    """The manifest, verified with the owner's key."""
    token = reader.of("protected", "manifest")
    owner = key(reader, "keys", "owner", row=True)
    return claims(reader, token, key=owner, typ=evidence.TYP_MANIFEST, name="manifest")


def head_claims(reader: EvidenceReader) -> dict[str, Any]:
    """The journal's head, verified with the ephemeral key the evidence vouched for."""
    token = reader.of("protected", "head")
    cnf = evidence.read_cnf(evidence_claims(reader)["cnf"])
    return claims(reader, token, key=cnf.sig, typ=evidence.TYP_HEAD, name="journal head")


def receipt_claims(reader: EvidenceReader) -> dict[str, Any]:
    """The server's receipt, verified with its key."""
    token = reader.of("protected", "receipt")
    server = key(reader, "keys", "server", row=True)
    return claims(reader, token, key=server, typ=evidence.TYP_RECEIPT, name="receipt")


def exit_claims(reader: EvidenceReader, leg: str) -> dict[str, Any]:
    """The agent's signed exit of one leg, verified with the agent's key."""
    token = reader.of(leg, "exit")
    if leg == "protected":
        agent = key(reader, "protected", "ak")
    else:
        met = [seen for seen in reader.of("guest") if seen["leg"] == leg]
        if not met:
            raise unseen(f"the guest was not met before the {leg} leg")
        agent = tokens.public_key(met[-1]["ak"])
    return claims(reader, token, key=agent, typ=evidence.TYP_EXIT, name=f"exit of the {leg} leg")


def entries(reader: EvidenceReader) -> tuple[JournalEntry, ...]:
    """The journal's events; `unseen` when the journal does not replay, which is `journal countersigned`'s to break."""
    lines, nonce = reader.of("protected", "journal"), reader.of("protected", "challenge", "nonce")
    try:
        return journal.replay(lines, nonce)
    except IntegrityError as error:
        raise unseen(f"the journal does not replay: {error.reason}", expected="a whole journal", seen=error.reason) from None


def entry(reader: EvidenceReader, step: str) -> dict[str, Any]:
    """The body of the journal's first event of a kind; `unseen` when there is none."""
    for found in entries(reader):
        if found.type == step:
            return cast("dict[str, Any]", found.body)
    raise unseen(f"the journal has no {step}", expected=step, seen="none")


def legs(reader: EvidenceReader) -> tuple[str, ...]:
    """The legs of a round: a protected and a raw one, and a second raw one beside them or in the protected one's place."""
    order = reader.notes.get("order") or ("protected", "raw")
    return tuple(leg for leg in ("protected", "raw", "raw2") if leg in order)


def raw_legs(reader: EvidenceReader) -> tuple[str, ...]:
    """The legs of a round that are not protected."""
    return tuple(leg for leg in legs(reader) if leg != "protected")


def ends(reader: EvidenceReader) -> dict[str, dict[str, Any]]:
    """What each leg said when its training was over: the protected one in its journal, the others in their callbacks."""
    present = legs(reader)
    for leg in present:
        reader.ran(leg)
    found: dict[str, dict[str, Any]] = {}
    if "protected" in present:
        try:
            found["protected"] = entry(reader, "train_completed")
        except JudgedInvariant as verdict:
            raise unseen(f"the protected leg's training was not seen: {verdict.reason}") from None
    return found | {leg: reader.of(leg, "callback") for leg in raw_legs(reader)}
