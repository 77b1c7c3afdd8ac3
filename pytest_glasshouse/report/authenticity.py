"""Whose word a report is: which signatures lead to a key the reader gave, and which do not.

A key found inside a report proves nothing, however well it signs. This module knows the reader's keys and refuses to
take any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.report.evidence import observed_rounds, protected_of
from pytest_glasshouse.wire.bounded_file import KEY_FILE_LIMIT, read_named
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.evidence import (
    TYP_EVIDENCE,
    TYP_EXIT,
    TYP_GRANT,
    TYP_HEAD,
    TYP_MANIFEST,
    TYP_RECEIPT,
    TYP_RESULT,
    read_cnf,
)
from pytest_glasshouse.wire.tokens import public_key, public_text, verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_WITNESS = "witness"


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Keys the reader vouches for, as text. A witness is a server that the reader knows the publisher does not run."""

    keys: frozenset[str] = frozenset()
    witnesses: frozenset[str] = frozenset()

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Trust:
        """Read key files: PEM, or lines of a base64url key, each optionally after the word `witness`.

        Raises `ConfigurationError` naming the file.
        """
        keys: set[str] = set()
        witnesses: set[str] = set()
        for path in paths:
            for is_witness, key in _keys_in(path):
                keys.add(key)
                if is_witness:
                    witnesses.add(key)
        return cls(keys=frozenset(keys), witnesses=frozenset(witnesses))


def unproven_signatures(document: Mapping[str, Any], trust: Trust) -> Iterator[str]:
    """Everything between this report and `authentic`: nothing when every signature leads to a trusted key."""
    if document["keys"]["report"] not in trust.keys:
        yield "the report key is not one given with --trust"
    strangers = [name for name in ("servers", "owners") if not set(document["keys"][name]) <= trust.keys]
    if strangers:
        yield from (f"a key of keys.{name} is not one given with --trust" for name in strangers)
        return
    for place, row in enumerate(document["rows"]):
        for number, observed in enumerate(observed_rounds(row["observation"])):
            where = f"$.rows[{place}].observation.rounds[{number}]"
            try:
                yield from (f"{where}: {each}" for each in _round(row["observation"], observed, trust))
            except (IntegrityError, KeyError, TypeError) as error:
                told = str(error) if isinstance(error, IntegrityError) else "a token is missing"
                yield f"{where}: {told}"


def witnessed(document: Mapping[str, Any], trust: Trust) -> bool:
    """Whether every measured row's receipts are by a server the reader named as a witness, and no other party's key."""
    parties = {document["keys"]["report"], *document["keys"]["owners"]}
    servers = {_key_of(row["observation"], "server") for row in document["rows"]}
    return bool(servers) and servers <= trust.witnesses - parties


def _round(observation: Mapping[str, Any], observed: Mapping[str, Any], trust: Trust) -> Iterator[str]:
    """1. trusted keys; 2. what they signed; 3. what that vouches for in turn."""
    protected = protected_of(observed)
    # 1.
    if not {_key_of(observation, "server"), _key_of(observation, "owner")} <= trust.keys:
        yield "the server's or the owner's key is not one given with --trust"
        return
    server, owner = public_key(_key_of(observation, "server")), public_key(_key_of(observation, "owner"))
    # 2.
    verify(protected["manifest"], key=owner, typ=TYP_MANIFEST)
    verify(protected["grant"], key=owner, typ=TYP_GRANT)
    result = verify(protected["result"], key=server, typ=TYP_RESULT)
    receipt = verify(protected["receipt"], key=server, typ=TYP_RECEIPT)
    # 3.
    bound = {
        "evidence": (result["evidence_sha256"], protected["evidence"]),
        "head": (receipt["head_sha256"], protected["head"]),
        "exit": (receipt["exit_sha256"], protected["exit"]),
        "result": (receipt["result_sha256"], protected["result"]),
    }
    for name, (digest, token) in bound.items():
        if digest != sha256_hex(token.encode()):
            yield f"the {name} is not the one the server signed for"
    agent = public_key(protected["ak"])
    evidence = verify(protected["evidence"], key=agent, typ=TYP_EVIDENCE)
    verify(protected["head"], key=read_cnf(evidence["cnf"]).sig, typ=TYP_HEAD)
    verify(protected["exit"], key=agent, typ=TYP_EXIT)
    verify(observed["raw"]["exit"], key=agent, typ=TYP_EXIT)


def _key_of(observation: Mapping[str, Any], name: str) -> str:
    keys = observation.get("keys")
    value = keys.get(name) if isinstance(keys, dict) else None
    return value if isinstance(value, str) else ""


def _keys_in(path: Path) -> Iterator[tuple[bool, str]]:
    try:
        text = read_named(path, what=f"--trust {path}", limit=KEY_FILE_LIMIT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--trust {path}: cannot be read as a key file (it is not UTF-8)") from error
    if "-----BEGIN" in text:
        yield False, public_text(_pem(path, text))
        return
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise ConfigurationError(f"--trust {path}: holds no key")
    for words in lines:
        is_witness = len(words) == 2 and words[0] == _WITNESS  # noqa: PLR2004
        if len(words) != 1 and not is_witness:
            raise ConfigurationError(f"--trust {path}: expected a PEM public key or lines `[witness] KEY`")
        try:
            yield is_witness, public_text(public_key(words[-1]))
        except IntegrityError as error:
            raise ConfigurationError(f"--trust {path}: a line holds no Ed25519 public key") from error


def _pem(path: Path, text: str) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"--trust {path}: expected a PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"--trust {path}: expected an Ed25519 public key")
    return key
