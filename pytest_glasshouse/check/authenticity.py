"""Authenticity: whether every signature of a report leads to a key that the reader trusts.

Only keys given by the reader count. A key that is found in the report itself proves nothing, even where its signatures verify.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.check.signatures import SigningKeys, enrolled_keys, signature_gaps
from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.observation.reading import observed_rounds, parts_of_round
from pytest_glasshouse.report.fields import every_row
from pytest_glasshouse.wire.bounded_file import KEY_FILE_LIMIT, read_named
from pytest_glasshouse.wire.public_keys import OPENSSH, ed25519_of_openssh, ed25519_of_pem
from pytest_glasshouse.wire.tokens import public_key, public_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from pytest_glasshouse.analysis.fields import ListName, RowRecord
    from pytest_glasshouse.observation.document import Observation, RoundNotes
    from pytest_glasshouse.report.fields import Report

_WITNESS = "witness"
_EXPECTED = "expected a PEM public key, or lines `[witness] KEY`, a KEY of `ssh-keygen -t ed25519` too"


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The reader's trusted keys, as text. A witness is a server that, to the reader's knowledge, the publisher does not run."""

    keys: frozenset[str] = frozenset()
    witnesses: frozenset[str] = frozenset()

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Trust:
        """Read key files: PEM, or lines of a base64url or OpenSSH key, each optionally after the word `witness`.

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


def unproven_signatures(document: Report, trust: Trust) -> Iterator[str]:
    """Every reason why the report is not `authentic`; none when every signature leads to a trusted key."""
    if document["keys"]["report"] not in trust.keys:
        yield "the report key is not one given with --trust"
    named = {"servers": document["keys"]["servers"], "owners": document["keys"]["owners"]}
    untrusted = [name for name, keys in named.items() if not set(keys) <= trust.keys]
    if untrusted:
        yield from (f"a key of keys.{name} is not one given with --trust" for name in untrusted)
        return
    enrolled = enrolled_keys(document, trust.keys)
    revision = document["methodology"].get("invariantsRevision", 1)
    for where, name, record, observed in _rounds(document):
        try:
            keys = _trusted(record["observation"], trust, enrolled)
            yield from (f"{where}: {each}" for each in signature_gaps(name, record, observed, keys, revision=revision))
        except (IntegrityError, LookupError) as error:
            text = str(error) if isinstance(error, IntegrityError) else "a token is missing"
            yield f"{where}: {text}"


def _rounds(document: Report) -> list[tuple[str, ListName, RowRecord, RoundNotes]]:
    """Path, list, record and notes of every round. Rounds that did not fit on the device count as excluded."""
    found: list[tuple[str, ListName, RowRecord, RoundNotes]] = []
    for path, name, record in every_row(document):
        where, observation = f"{path}.observation", record["observation"]
        found += [
            (f"{where}.rounds[{at}]{below}", name, record, part)
            for at, each in enumerate(observed_rounds(observation))
            for below, part in parts_of_round(each)
        ]
        unfitting = observation.get("didNotFit", [])
        found += [(f"{where}.didNotFit[{at}]", "excludedResults", record, each) for at, each in enumerate(unfitting)]
    return found


def _trusted(observation: Observation, trust: Trust, enrolled: frozenset[str]) -> SigningKeys:
    server, owner = _keys_of(observation)
    if not {server, owner} <= trust.keys:
        raise IntegrityError("keys", "the server's or the owner's key is not one given with --trust")
    return SigningKeys(server=public_key(server), owner=public_key(owner), enrolled=enrolled)


def _keys_of(observation: Observation) -> tuple[str, str]:
    """The server's and the owner's key; empty where there are none."""
    keys = observation.get("keys")
    return ("", "") if keys is None else (keys["server"], keys["owner"])


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
        raise ConfigurationError(f"--trust {path}: {_EXPECTED}; saw no key")
    for words in lines:
        is_witness = len(words) > 1 and words[0] == _WITNESS
        given = words[1:] if is_witness else words
        of_ssh = given[0] == OPENSSH and len(given) > 1
        if len(given) != 1 and not of_ssh:
            raise ConfigurationError(f"--trust {path}: {_EXPECTED}")
        try:
            yield is_witness, public_text(ed25519_of_openssh(" ".join(given)) if of_ssh else public_key(given[0]))
        except IntegrityError as error:
            raise ConfigurationError(f"--trust {path}: expected an Ed25519 public key in every line ({error.detail})") from error


def _pem(path: Path, text: str) -> Ed25519PublicKey:
    try:
        return ed25519_of_pem(text)
    except IntegrityError as error:
        raise ConfigurationError(f"--trust {path}: {error.detail}") from error
