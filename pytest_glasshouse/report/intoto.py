"""A row's protected runs as an in-toto Statement in a DSSE envelope, for other tools, signed by the report key.

The envelope is made when the report is published, because the report key may exist only then, and lies in the bundle;
`glasshouse export` takes it out. Every statement is derived from the report, and `check` derives it again.
https://github.com/in-toto/attestation (Statement v1), https://github.com/secure-systems-lab/dsse (v1).
"""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from pytest_glasshouse.errors import ConfigurationError, IntegrityError, ReportError
from pytest_glasshouse.observation.reading import journal_lines, observed_rounds, protected_of
from pytest_glasshouse.report.fields import protected_rows
from pytest_glasshouse.wire.canonical import canonical, parse_object, sha256_hex
from pytest_glasshouse.wire.journal import head_of
from pytest_glasshouse.wire.tokens import public_key, thumbprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from pytest_glasshouse.analysis.fields import ExcludedRow, MeasuredRow, SealedRow
    from pytest_glasshouse.observation.document import RoundNotes
    from pytest_glasshouse.report.fields import Report
    from pytest_glasshouse.wire.canonical import Json

    ReportedRow = MeasuredRow | SealedRow | ExcludedRow

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://pytest-glasshouse.dev/attestation/protected-run/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
#: Name of the envelope in a bundle, below the row's folder.
MEMBER = "statement.dsse.json"
LIMIT = 1 << 24
_TOKENS = ("manifest", "evidence", "result", "head", "exit", "receipt")
_HASHED = "SHA-256 over name, dtype, shape and bytes of the adapter's tensors in sorted order (wire/tensors.py), not over a file"


def attestable(record: ReportedRow) -> bool:
    """Whether a protected run of this record left an adapter and a receipt."""
    return any(_rounds(record))


def statement(document: Report, record: ReportedRow) -> dict[str, object]:
    """The Statement: the adapters as subjects, the report's data on the runs that made them as predicate."""
    rounds = list(_rounds(record))
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {
                "name": f"{record['rowId']}/round-{observed['round']}/protected-adapter",
                "digest": {"sha256": protected_of(observed)["adapterSha256"]},
                "annotations": {"digestOf": _HASHED},
            }
            for observed in rounds
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "runId": document["runId"],
            "rowId": record["rowId"],
            "createdAt": document["createdAt"],
            "generatedBy": document["generatedBy"],
            "attestationRoot": document["attestationRoot"],
            "provider": record["provider"],
            "gpuModel": record["gpuModel"],
            "dryRun": record["dryRun"],
            "publishable": record["publishable"],
            "outcome": record.get("outcome", "measured"),
            "keys": document["keys"],
            "findings": [{name: each[name] for name in ("invariant", "finding", "evidence")} for each in record["findings"]],
            "rowSealSha256": sha256_hex(record["seal"].encode()),
            "rounds": [_digests(observed) for observed in rounds],
        },
    }


def envelope(document: Report, record: ReportedRow, *, key: Ed25519PrivateKey) -> bytes:
    """The Statement in its DSSE envelope, as the bundle holds it."""
    payload = canonical(statement(document, record))
    signed = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"keyid": thumbprint(key.public_key()), "sig": base64.b64encode(key.sign(pre_authentication(payload))).decode()}
        ],
    }
    return (json.dumps(signed, indent=2) + "\n").encode()


def open_envelope(data: bytes, *, key: Ed25519PublicKey) -> bytes:
    """The payload of an envelope that has one signature, by `key`. Raises `IntegrityError` (`dsse` or `signature`)."""
    signed = parse_object(data, limit=LIMIT)
    signatures = signed.get("signatures")
    if signed.keys() != {"payload", "payloadType", "signatures"} or signed["payloadType"] != PAYLOAD_TYPE:
        raise IntegrityError("dsse", "not an envelope with an in-toto payload")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise IntegrityError("dsse", "expected one signature")
    if signatures[0].keys() != {"keyid", "sig"} or signatures[0]["keyid"] != thumbprint(key):
        raise IntegrityError("dsse", "the signature is by another key")
    payload, signature = _decoded(signed["payload"]), _decoded(signatures[0]["sig"])
    try:
        key.verify(signature, pre_authentication(payload))
    except InvalidSignature:
        raise IntegrityError("signature", "the envelope") from None
    return payload


def envelope_faults(document: Report, name: str, data: bytes) -> Iterator[str]:
    """The faults of one envelope of a bundle: its row, its signature, its statement."""
    record = next((each for each in _records(document) if member_of(each) == name), None)
    if record is None or not attestable(record):
        yield "is about no row of the report"
        return
    try:
        payload = open_envelope(data, key=public_key(document["keys"]["report"]))
    except IntegrityError as error:
        yield str(error)
        return
    if payload != canonical(statement(document, record)):
        yield "states something else than the report"


def envelopes(document: Report, *, key: Ed25519PrivateKey) -> dict[str, bytes]:
    """Every envelope of a bundle by member name."""
    return {member_of(each): envelope(document, each, key=key) for each in _records(document) if attestable(each)}


def exported(document: Report, files: Mapping[str, bytes], row: str) -> bytes:
    """The envelope of the row with this id or name, as it lies in the bundle, checked.

    Raises `ConfigurationError` where there is none, `ReportError` where it is not what the report gives.
    """
    matching = [each for each in _records(document) if row in {each["rowId"], each["name"]}]
    if len(matching) != 1:
        known = ", ".join(each["rowId"] for each in _records(document)) or "none"
        raise ConfigurationError(f"--row {row}: expected the id or the one name of a row; the report has {known}")
    data = files.get(member_of(matching[0]))
    if data is None:
        why = "nothing was signed when it was published" if attestable(matching[0]) else "no protected run of it left an adapter"
        raise ConfigurationError(f"--row {row}: holds no statement: {why}. Export from the .glasshouse.zip bundle of a run")
    faults = list(envelope_faults(document, member_of(matching[0]), data))
    if faults:
        raise ReportError(f"--row {row}: not exported: the statement {'; '.join(faults)}")
    return data


def member_of(record: ReportedRow) -> str:
    """Where a record's envelope lies in a bundle."""
    return f"rows/{record['rowId']}/{MEMBER}"


def pre_authentication(payload: bytes) -> bytes:
    """The bytes that a DSSE signature is over."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _records(document: Report) -> Sequence[ReportedRow]:
    return protected_rows(document)


def _rounds(record: ReportedRow) -> Iterator[RoundNotes]:
    for observed in observed_rounds(record["observation"]):
        protected = protected_of(observed)
        if protected.get("adapterSha256") and protected.get("receipt"):
            yield observed


def _digests(observed: RoundNotes) -> dict[str, object]:
    """Digests of the signed parts of a round; the bundle has each under its name."""
    protected, lines = protected_of(observed), journal_lines(observed)
    return {
        "round": observed["round"],
        "journalLines": len(lines),
        "journalHeadSha256": head_of(lines, ""),
        "policySha256": protected["policySha256"],
        **{f"{name}Sha256": sha256_hex(str(token).encode()) for name in _TOKENS if (token := protected.get(name))},
    }


def _decoded(text: Json) -> bytes:
    if isinstance(text, str):
        with contextlib.suppress(ValueError):
            return base64.b64decode(text.encode("ascii"), validate=True)
    raise IntegrityError("dsse", "not base64")
