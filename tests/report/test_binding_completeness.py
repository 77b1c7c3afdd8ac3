"""Every comparison of a report with what was signed for its run is load-bearing: take one away, and some case must notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pytest_glasshouse.check import binding
from pytest_glasshouse.check.binding import binding_faults
from pytest_glasshouse.wire.tokens import peek, sign
from tests.report.conftest import RealRun
from tests.report.lies import LIES
from tests.tamper.removal import Ask, unnoticed_in
from tests.unit.report import example

_OTHER = example.digest("another")
Edit = Callable[[dict[str, Any]], object]


def _edits() -> dict[str, Edit]:
    """What the forger's lies leave out: one thing at a time, as it would be found."""

    def row(document: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = document["rows"][0]
        return found

    def first(document: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = row(document)["observation"]["rounds"][0]
        return found

    tokens = ("manifest", "grant", "evidence", "result", "receipt")
    return {
        **{lie.name: lie.edit for lie in LIES},
        "another parameter": lambda document: row(document).update(parameters={"batch": "1"}),
        "no plan": lambda document: row(document)["observation"].pop("plan"),
        "a plan without an order": lambda document: row(document)["observation"]["plan"].pop("order"),
        "round missing": lambda document: row(document)["observation"]["rounds"].pop(),
        "rounds numbered otherwise": lambda document: first(document).update(round=2),
        "another adapter": lambda document: row(document).update(adapter={"rank": 64, "targets": ["q_proj"]}),
        "other gpus": lambda document: row(document).update(gpus=2),
        "another base": lambda document: row(document).update(base="sealed"),
        "another place": lambda document: row(document).update(providerInstanceId="other"),
        "token that is none": lambda document: first(document)["protected"].update(grant="7"),
        "session nonce twice": lambda document: document["rows"][1]["observation"]["rounds"][0]["protected"]["challenge"].update(
            nonce=first(document)["protected"]["challenge"]["nonce"]
        ),
        "another policy": lambda document: first(document)["protected"]["policy"].update(name="milder"),
        **{
            f"{name} {field} other": partial(_claim, name=name, field=field)
            for name in tokens
            for field in ("run", "round_nonce", "row", "sub", "package", "policy", "allocation", "plan", "manifest", "container")
        },
        "turns drawn otherwise": lambda document: document["rows"][2]["observation"]["rounds"][0]["turns"].reverse(),
        "a plan without its sampling": lambda document: row(document)["observation"]["plan"].pop("sampling"),
        "turns nobody planned": lambda document: first(document).update(turns=["raw"]),
        **{f"measured another {name}": partial(_component, name=name) for name in ("gpu-model", "gpu-uuid")},
    }


def _claim(document: dict[str, Any], *, name: str, field: str) -> None:
    """One claim of one token; signatures are not checked here."""
    protected = document["rows"][0]["observation"]["rounds"][0]["protected"]
    claims = peek(protected[name])
    if field in claims:
        protected[name] = sign({**claims, field: _OTHER}, key=example.KEYS.owner, typ="x")


def _component(document: dict[str, Any], *, name: str) -> None:
    protected = document["rows"][0]["observation"]["rounds"][0]["protected"]
    claims: Any = peek(protected["evidence"])
    claims["components"][name] = _OTHER
    protected["evidence"] = sign(claims, key=example.KEYS.owner, typ="x")


def test_removal_of_any_comparison_with_signed_values_is_detected(real_run: RealRun) -> None:
    asks: dict[str, Ask] = {}
    for name, edit in {"as it is": lambda _: None, **_edits()}.items():
        document = json.loads(json.dumps(real_run.document))
        edit(document)
        asks[name] = partial(_bound, document)
    unnoticed, checks = unnoticed_in(asks, binding)

    print(f"binding: {checks} checks, {len(asks)} cases")  # noqa: T201
    assert "\n".join(unnoticed) == ""


_SIGNED_FIELDS = {
    "manifest": ("run", "round_nonce"),
    "grant": ("run", "row", "sub", "package", "policy", "allocation"),
    "evidence": ("sub", "plan", "manifest", "policy", "container"),
    "result": ("sub", "plan", "manifest", "policy"),
    "receipt": ("sub", "plan", "manifest", "policy"),
}


@pytest.mark.parametrize(("token", "field"), [(token, field) for token, fields in _SIGNED_FIELDS.items() for field in fields])
def test_every_field_that_was_signed_is_compared(real_run: RealRun, token: str, field: str) -> None:
    document = json.loads(json.dumps(real_run.document))
    _claim(document, name=token, field=field)

    faults = [text for path, text in binding_faults(document) if path == f"$.rows[0].observation.rounds[0].protected.{token}"]
    assert any(text.startswith(f"its {field} ") for text in faults)


def _bound(document: Any) -> object:
    return list(binding_faults(document))


@pytest.mark.parametrize("field", sorted({*binding._PLAN_FIELDS, *binding._ALLOCATION_FIELDS}))
def test_every_field_that_was_planned_is_compared(real_run: RealRun, field: str) -> None:
    document = json.loads(json.dumps(real_run.document))
    row = document["rows"][0]
    row[field] = {bool: not row.get(field), int: 77, float: 77.5}.get(type(row.get(field)), "another")

    assert f"$.rows[0].{field}" in {path for path, _ in binding_faults(document)}
