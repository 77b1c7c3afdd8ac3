"""A report that names less than the server counted, or times that did not pass there, is not witnessed. See `check/witnessed.py`.

The server is this run's own, marked as a witness: what is judged is the report. Where it would have counted something else, its
tally is signed again with its key.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.check import witnessed
from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.check.check import Level, check_bytes
from pytest_glasshouse.check.witnessed import attempts_elsewhere, unwitnessed
from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.wire import evidence, tokens
from pytest_glasshouse.wire.marks import chain_of
from pytest_glasshouse.wire.run_plan import counted_sha256
from tests.report.conftest import RealRun
from tests.tamper.removal import Ask, unnoticed_in

Json = dict[str, Any]
_STRANGER = Ed25519PrivateKey.generate()


def _server_says(run: RealRun, document: Json, edit: Callable[[Json], object], /, **claims: str) -> None:
    """The tally as the server would have signed it, had it counted this."""
    record = document["tallies"][0]
    edit(record["counted"])
    signed = {**tokens.peek(record["tally"]), "counted_sha256": counted_sha256(record["counted"]), **claims}
    record["tally"] = tokens.sign(signed, key=run.server_key, typ=evidence.TYP_TALLY)


def _counted(edit: Callable[[Json], object], **claims: str) -> Callable[[RealRun, Json], None]:
    return lambda run, document: _server_says(run, document, edit, **claims)


def _null_row_left_out(_run: RealRun, document: Json) -> None:
    document["nullRows"].clear()


def _another_attempt(counted: Json) -> None:
    """The row was tried before, and that attempt is not named."""
    first = counted["begun"][0]
    counted["begun"].insert(0, {**first, "attempt": "0" * 16, "round": "0" * 64, "chain": "0" * 64})


def _as_the_second_of_three(run: RealRun, document: Json) -> None:
    """Three attempts were made, the report names two, and the last of them stands."""
    _server_says(run, document, _another_attempt)
    _server_says(run, document, _another_attempt_too)
    row = document["rows"][0]
    row["attempts"] = [{"attempt": 1, "stands": False}, {"attempt": 2, "stands": True}]


def _another_attempt_too(counted: Json) -> None:
    first = counted["begun"][0]
    counted["begun"].insert(0, {**first, "attempt": "1" * 16, "round": "1" * 64, "chain": "1" * 64})


def _later_attempt_stands_as_the_first(run: RealRun, document: Json) -> None:
    """Both are named, and the order is not that of the server."""
    _server_says(run, document, _another_attempt)
    document["rows"][0]["attempts"] = [{"attempt": 1, "stands": True}, {"attempt": 2, "stands": False}]


def _round_left_out(counted: Json) -> None:
    first = counted["begun"][0]
    counted["begun"].insert(0, {**first, "round": "0" * 64, "chain": "0" * 64})


def _before_the_last_row(counted: Json) -> None:
    """The tally was asked for before the run was over."""
    last = counted["begun"][-1]["row"]
    counted["begun"] = [each for each in counted["begun"] if each["row"] != counted["begun"][0]["row"]]
    assert last


def _slow_guest(run: RealRun, document: Json) -> None:
    """At the server three times as long passed between marks."""
    for name in ("rows", "nullRows"):
        for row in document[name]:
            for observed in row["observation"]["rounds"]:
                times = observed["marks"]["times"]
                for each in times:
                    each[1] = times[0][1] + 3 * (each[1] - times[0][1]) if each is not times[0] else each[1]
    chains = {
        observed["nonce"]: chain_of(observed["nonce"], observed["marks"]["times"])
        for name in ("rows", "nullRows")
        for row in document[name]
        for observed in row["observation"]["rounds"]
    }
    _server_says(
        run, document, lambda counted: [each.update(chain=chains.get(each["round"], each["chain"])) for each in counted["begun"]]
    )


def _times(edit: Callable[[list[Any]], object]) -> Callable[[RealRun, Json], None]:
    return lambda _run, document: _discard(edit(document["rows"][0]["observation"]["rounds"][0]["marks"]["times"]))


def _discard(_value: object) -> None:
    pass


def _without(*names: str) -> Callable[[RealRun, Json], None]:
    def edit(_run: RealRun, document: Json) -> None:
        for name in names:
            document.pop(name, None)

    return edit


def _by_another_server(_run: RealRun, document: Json) -> None:
    record = document["tallies"][0]
    record["server"] = tokens.public_text(_STRANGER.public_key())
    claims = {**tokens.peek(record["tally"]), "iss": tokens.thumbprint(_STRANGER.public_key())}
    record["tally"] = tokens.sign(claims, key=_STRANGER, typ=evidence.TYP_TALLY)


def _edited_without_its_key(_run: RealRun, document: Json) -> None:
    """The null row is taken out of the tally too."""
    document["nullRows"].clear()
    rows = document["tallies"][0]["counted"]["rows"]
    rows[:] = [each for each in rows if not each[0].startswith("null")]


def _row_not_planned(counted: Json) -> None:
    counted["rows"] = [each for each in counted["rows"] if not each[0].startswith("two")]


def _other_rounds_planned(counted: Json) -> None:
    counted["rows"] = [[row, rounds + (row.startswith("two"))] for row, rounds in counted["rows"]]


def _more_ranks_planned(counted: Json) -> None:
    """The row ran on one GPU, of the two that were registered before the first key."""
    counted["rows"] = [[*row, 2, 1] if row[0].startswith("two") else row for row in counted["rows"]]


def _other_plan(counted: Json) -> None:
    for each in counted["begun"]:
        each["plan"] = "0" * 64


def _account_gone(_run: RealRun, document: Json) -> None:
    document["nullRows"][0]["observation"]["rounds"][0]["marks"]["agent"].clear()


#: Each lie, and the sentence that names it.
LIES: dict[str, tuple[Callable[[RealRun, Json], None], str]] = {
    "null row left out": (_null_row_left_out, "planned before the first key, and the report does not name it"),
    "null row left out of the tally too": (_edited_without_its_key, "a tally does not verify"),
    "attempt not named": (_counted(_another_attempt), "counted 2 attempts at this row, and the report names 1"),
    "second of three attempts not named": (_as_the_second_of_three, "counted 3 attempts at this row, and the report names 2"),
    "later attempt stands": (_later_attempt_stands_as_the_first, "counted 2 attempts until the one that stands"),
    "fewer ranks than planned": (_counted(_more_ranks_planned), "ranks on 1 nodes are 1 by the row's plan, and 2 on 1 nodes"),
    "round left out": (_counted(_round_left_out), "counted 3 rounds of this attempt, and the report lacks 1"),
    "tally of an earlier time": (_counted(_before_the_last_row), "its tally does not have round"),
    "tally of another run": (_counted(_discard, run="another"), "its tally is of another run"),
    "tally of another plan": (_counted(_discard, run_plan="0" * 64), "of another plan of this run"),
    "tally by another server": (_by_another_server, "no tally by its attestation server"),
    "no tally": (_without("tallies"), "no tally by its attestation server"),
    "guest's clock is slow": (_slow_guest, "it runs at another rate"),
    "mark dropped": (_times(lambda times: times.pop()), "the marks of round 1 are not those that the server signed"),
    "mark moved": (_times(lambda times: times[1].__setitem__(1, times[1][1] + 1)), "are not those that the server signed"),
    "no account of the marks": (_account_gone, "account of the server's marks cannot be read (KeyError)"),
    "row not planned": (_counted(_row_not_planned), "the row was not planned before the first key"),
    "other rounds planned": (_counted(_other_rounds_planned), "rounds were planned by the row"),
    "begun by another plan": (_counted(_other_plan), "begun by another plan"),
}


def _trust(run: RealRun) -> Trust:
    return Trust(keys=run.trust.keys, witnesses=frozenset(run.document["keys"]["servers"]))


def _lied(run: RealRun, name: str) -> Json:
    document: Json = json.loads(json.dumps(run.document))
    LIES[name][0](run, document)
    return document


def test_honest_report_is_witnessed(real_run: RealRun) -> None:
    """One with a null row, a row of two rounds, one in turns and one that was excluded."""
    checked = check_bytes(report_bytes(real_run.document), trust=_trust(real_run))
    assert (checked.level, checked.faults) == (Level.WITNESSED, ())


@pytest.mark.parametrize("name", LIES)
def test_lie_is_refused_and_named(real_run: RealRun, name: str) -> None:
    seen = [*unwitnessed(_lied(real_run, name), _trust(real_run))]  # type: ignore[arg-type]
    assert any(LIES[name][1] in each for each in seen), seen


def test_refused_report_is_authentic_still_and_says_why(real_run: RealRun) -> None:
    """Whoever has all of the publisher's keys seals it again; the check's output has the reason."""
    document = copy.deepcopy(real_run.document)
    _null_row_left_out(real_run, document)
    checked = check_bytes(report_bytes(resealed(document, key=real_run.report_key)), trust=_trust(real_run))
    assert checked.level is Level.AUTHENTIC
    assert "planned before the first key, and the report does not name it" in checked.missing[0]


def test_report_of_an_older_server_is_judged_by_its_receipts(real_run: RealRun) -> None:
    """Its results do not name a plan of the run, because the server was told none."""
    document = copy.deepcopy(real_run.document)
    del document["tallies"]
    for row in (*document["rows"], *document["excludedResults"]):
        for observed in row["observation"]["rounds"]:
            protected = observed["protected"]
            if protected and "result" in protected:
                claims = tokens.peek(protected["result"])
                del claims["run_plan"]
                protected["result"] = tokens.sign(claims, key=real_run.server_key, typ=evidence.TYP_RESULT)
    assert [*unwitnessed(document, _trust(real_run))] == []


def _tried_elsewhere(run: RealRun) -> Json:
    """The server counted three attempts in other runs."""
    document: Json = copy.deepcopy(run.document)
    protected = document["rows"][1]["observation"]["rounds"][0]["protected"]
    claims = {**tokens.peek(protected["result"]), "attempt": 4}
    protected["result"] = tokens.sign(claims, key=run.server_key, typ=evidence.TYP_RESULT)
    return document


def test_attempts_in_other_runs_are_told(real_run: RealRun) -> None:
    """Another run is no part of this report; its server counted it, and the reader is told."""
    assert [*attempts_elsewhere(real_run.document)] == []
    assert ["is attempt 4 at this row" in each for each in attempts_elsewhere(_tried_elsewhere(real_run))] == [True]  # type: ignore[arg-type]


def test_removal_of_any_check_is_noticed(real_run: RealRun) -> None:
    trust = _trust(real_run)
    documents = {"as it is": real_run.document, **{name: _lied(real_run, name) for name in LIES}}

    def asked(document: Json, by: Trust = trust) -> object:
        return [*unwitnessed(document, by)], [*attempts_elsewhere(document)]  # type: ignore[arg-type]

    asks: dict[str, Ask] = {name: partial(asked, document) for name, document in documents.items()}
    asks |= {
        "no witness": partial(asked, real_run.document, real_run.trust),
        "tried elsewhere": partial(asked, _tried_elsewhere(real_run)),
    }
    unnoticed, checks = unnoticed_in(asks, witnessed)
    print(f"witnessed: {checks} checks, {len(asks)} cases")  # noqa: T201
    assert "\n".join(unnoticed) == ""
