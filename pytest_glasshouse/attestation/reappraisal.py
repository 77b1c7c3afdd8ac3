"""Appraises the device evidence of a report again, offline, as the server did: what a server affirmed has to follow from it.

Knows the notes of a round. Needs no key: evidence and result are in the report, whose signatures `check` verifies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_glasshouse.attestation.hardware import appraise_hardware
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import read_cnf
from pytest_glasshouse.wire.hardware import RUNTIME
from pytest_glasshouse.wire.tokens import peek

#: The lists of a report whose rows have protected legs.
_LISTS = ("rows", "sealedRows", "excludedResults")


def device_faults(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and text of each round whose result says something else of its devices than their evidence does."""
    for name in _LISTS:
        for place, row in enumerate(document.get(name, ())):
            for number, observed in enumerate((row.get("observation") or {}).get("rounds", ())):
                protected = observed.get("protected") or {}
                if "result" in protected:
                    text = _fault(protected)
                    if text:
                        yield f"$.{name}[{place}].observation.rounds[{number}].protected.devices", text


def _fault(protected: Mapping[str, Any]) -> str:
    devices: dict[str, Json] = protected.get("devices", {})
    affirmed = _affirmed(protected["result"])
    if not affirmed and not devices:
        return ""
    try:
        result, claims = peek(protected["result"]), peek(protected["evidence"])
        policy = Policy.from_json(protected["policy"])
        if policy.sha256 != result["policy"]:
            return "the policy is not the one that the server appraised them by"
        found = appraise_hardware(
            claims,
            devices,
            nonce=str(result["eat_nonce"]),
            cnf=read_cnf(claims["cnf"]),
            policy=policy,
            now=int(str(result["iat"])),
        )
    except RefusedError as refusal:
        return f"their evidence is refused ({refusal.reason})"
    except (IntegrityError, KeyError, ValueError) as error:
        return f"their evidence cannot be appraised ({type(error).__name__})"
    return "" if found == affirmed else "the server's result does not follow from their evidence"


def _affirmed(token: str) -> dict[str, Json]:
    """What the server's result says of devices; nothing where it is no result, which is for others to find."""
    try:
        stated = peek(token).get("submods")
    except IntegrityError:
        return {}
    return {name: each for name, each in stated.items() if name != RUNTIME} if isinstance(stated, dict) else {}
