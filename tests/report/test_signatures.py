"""Every token of every list leads to a key that was given, or the report says which does not. See `check/signatures.py`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.check import signatures
from pytest_glasshouse.check.authenticity import Trust, unproven_signatures
from pytest_glasshouse.check.signatures import enrolled_keys, vouching_faults
from pytest_glasshouse.check.witnessed import unwitnessed
from pytest_glasshouse.invariants.revisions import newest
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import parse_object, unb64u
from tests.report.conftest import RealRun
from tests.report.forger import signed_guest
from tests.tamper.removal import Ask, unnoticed_in

Json = dict[str, Any]
Edit = Callable[[Json], object]
_UNKNOWN_KEY = Ed25519PrivateKey.generate()
#: Lists, and the place of a row in them.
_ROW, _TURNS, _NULL, _EXCLUDED = ("rows", 0), ("rows", 2), ("nullRows", 0), ("excludedResults", 0)


def _first(document: Json, place: tuple[str, int]) -> Json:
    found: Json = document[place[0]][place[1]]["observation"]["rounds"][0]
    return found


def _resigned(document: Json, place: tuple[str, int], *path: str) -> None:
    """The same claims, signed by an unknown key."""
    *parents, name = path
    holder: Any = _first(document, place)
    for each in parents:
        holder = holder[each]
    kind = parse_object(unb64u(holder[name].split(".")[0]))["typ"]
    holder[name] = tokens.sign(tokens.peek(holder[name]), key=_UNKNOWN_KEY, typ=str(kind))


def _revouched(document: Json) -> None:
    for guest in _first(document, _NULL)["guest"]:
        guest["vouched"] = tokens.sign(tokens.peek(guest["vouched"]), key=_UNKNOWN_KEY, typ="glasshouse-guest+jwt")


def _unvouched(document: Json, *, revision: int = newest()) -> None:
    document["methodology"]["invariantsRevision"] = revision
    for guest in _first(document, _NULL)["guest"]:
        del guest["vouched"]


def _old_and_signed_by_unknown_key(document: Json) -> None:
    _unvouched(document, revision=2)
    signed_guest(_first(document, _NULL), _UNKNOWN_KEY)


def _proof_of_another(document: Json) -> None:
    rounds = document["rows"][0]["observation"]["rounds"]
    rounds[0]["protected"]["proof"] = rounds[1]["protected"]["proof"]


def _swapped(document: Json, name: str) -> None:
    rounds = document["rows"][0]["observation"]["rounds"]
    rounds[0]["protected"][name] = rounds[1]["protected"][name]


def _another_agent(document: Json, place: tuple[str, int]) -> None:
    _first(document, place)["guest"][1]["ak"] = tokens.public_text(_UNKNOWN_KEY.public_key())


def _signed_by_unknown_key(*path: str, place: tuple[str, int]) -> Edit:
    return lambda document: _resigned(document, place, *path)


_PROTECTED = ("manifest", "grant", "result", "receipt", "evidence", "head", "exit", "stretches")
#: What is changed, and where the gap is reported.
EDITS: dict[str, tuple[Edit, str]] = {
    **{
        f"{name} of {place[0]} by an unknown key": (_signed_by_unknown_key("protected", name, place=place), f"$.{place[0]}[0]")
        for place in (_ROW, _EXCLUDED)
        for name in _PROTECTED
    },
    **{
        f"{name} of {place[0]}[{place[1]}] by an unknown key": (
            _signed_by_unknown_key(*name.split("."), place=place),
            f"$.{place[0]}[{place[1]}]",
        )
        for place, names in {
            _ROW: ("raw.exit", "raw.stretches"),
            _TURNS: ("raw.exit", "borders"),
            _NULL: ("raw.exit", "raw2.exit", "raw2.stretches", "borders"),
            _EXCLUDED: ("raw.exit",),
        }.items()
        for name in names
    },
    **{
        f"{name} of another round": (partial(_swapped, name=name), "$.rows[0]") for name in ("evidence", "head", "exit", "result")
    },
    "proof of another grant": (_proof_of_another, "$.rows[0]"),
    "key that signed nothing": (
        lambda document: _first(document, _ROW)["protected"].update(ak=tokens.public_text(_UNKNOWN_KEY.public_key())),
        "$.rows[0]",
    ),
    "null row without borders": (lambda document: _first(document, _NULL).pop("borders"), "$.nullRows[0]"),
    "null row without its second exit": (lambda document: _first(document, _NULL)["raw2"].pop("exit"), "$.nullRows[0]"),
    "row without a head": (lambda document: _first(document, _ROW)["protected"].pop("head"), "$.rows[0]"),
    **{
        f"another agent met in {place[0]}": (partial(_another_agent, place=place), f"$.{place[0]}[0]")
        for place in (_ROW, _NULL, _EXCLUDED)
    },
    "agent of a null row vouched for by an unknown key": (_revouched, "$.nullRows[0]"),
    "agent of a null row without a signature": (_unvouched, "no signature vouches"),
    "agent of an old null row that no other row had": (_old_and_signed_by_unknown_key, "no signature vouches"),
    "row of other keys": (lambda document: document["rows"][0]["observation"].update(keys={}), "$.rows[0]"),
}


@pytest.mark.parametrize("name", EDITS)
def test_token_without_a_chain_to_a_trusted_key_is_reported(real_run: RealRun, name: str) -> None:
    document = copy.deepcopy(real_run.document)
    assert [*unproven_signatures(document, real_run.trust)] == []
    edit, where = EDITS[name]
    edit(document)
    assert any(where in each for each in unproven_signatures(document, real_run.trust))


def test_null_row_from_before_owners_signed_agent_keys_is_linked_by_another_rows_agent(real_run: RealRun) -> None:
    """Reports that are out keep the level they had, where the key's genuineness can be seen."""
    document = copy.deepcopy(real_run.document)
    _unvouched(document, revision=2)
    assert [*unproven_signatures(document, real_run.trust)] == []


def test_forged_key_in_an_excluded_row_does_not_lower_the_level_of_the_others(real_run: RealRun) -> None:
    """Its findings say that the allocation was not the same: whose the raw leg's agent was is no claim of the report."""
    document = copy.deepcopy(real_run.document)
    signed_guest(_first(document, _EXCLUDED), _UNKNOWN_KEY)
    findings = document["excludedResults"][0]["findings"]
    next(each for each in findings if each["invariant"] == "same allocation")["finding"] = "broken"
    assert [*unproven_signatures(document, real_run.trust)] == []


def _revouched_about(document: Json, field: str) -> None:
    """As the owner could have signed it: signatures are not checked here."""
    for guest in _first(document, _NULL)["guest"]:
        claims = {**tokens.peek(guest["vouched"]), field: "another"}
        guest["vouched"] = tokens.sign(claims, key=_UNKNOWN_KEY, typ="glasshouse-guest+jwt")


VOUCHED: dict[str, Edit] = {
    **{
        f"another {field}": partial(_revouched_about, field=field)
        for field in ("run", "row", "round_nonce", "allocation", "ak", "plan")
    },
    "no token": lambda document: _first(document, _NULL)["guest"][0].update(vouched="none"),
    "no plan": lambda document: document["nullRows"][0]["observation"].pop("plan"),
    "older invariants": lambda document: document["methodology"].update(invariantsRevision=2),
}


@pytest.mark.parametrize("name", VOUCHED)
def test_report_that_differs_from_the_owners_statement_is_faulty(real_run: RealRun, name: str) -> None:
    document = copy.deepcopy(real_run.document)
    assert [*vouching_faults(document)] == []
    VOUCHED[name](document)
    assert [*vouching_faults(document)] != []


def test_null_row_is_witnessed_where_the_witness_enrolled_its_agent(real_run: RealRun) -> None:
    """The owner is the publisher; a server outside names the key it enrolled."""
    servers = frozenset(real_run.document["keys"]["servers"])
    trust = Trust(keys=real_run.trust.keys, witnesses=servers)
    assert [*unwitnessed(real_run.document, trust)] == []
    document = copy.deepcopy(real_run.document)
    signed_guest(_first(document, _NULL), _UNKNOWN_KEY)
    assert [*unwitnessed(document, trust)] != []


def test_removal_of_any_check_of_a_signature_is_detected(real_run: RealRun) -> None:
    servers, text = frozenset(real_run.document["keys"]["servers"]), json.dumps(real_run.document)

    def asked(edit: Edit) -> object:
        document = json.loads(text)  # in a fifth of the time that `deepcopy` takes
        edit(document)
        unproven = [*unproven_signatures(document, real_run.trust)]
        return unproven, [*vouching_faults(document)], sorted(enrolled_keys(document, servers))

    every = {"as it is": lambda _: None, **{name: edit for name, (edit, _) in EDITS.items()}, **VOUCHED}
    asks: dict[str, Ask] = {name: partial(asked, edit) for name, edit in every.items()}
    unnoticed, checks = unnoticed_in(asks, signatures)
    print(f"signatures: {checks} checks, {len(asks)} cases")  # noqa: T201
    assert "\n".join(unnoticed) == ""
