"""Every check of `glasshouse check` is load-bearing: take one away, and some case must notice. See `tests/tamper/removal.py`."""

from __future__ import annotations

import copy
import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.analysis.record import finding_json
from pytest_glasshouse.check import authenticity, check, recompute
from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.report import attempts, bundle, seal
from pytest_glasshouse.report import intoto as attest
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.wire.tokens import sign
from tests.report.envelopes import CHANGED_ENVELOPES, changed, rezipped
from tests.tamper.removal import Ask, unnoticed_in
from tests.unit.analysis import sampled_turns
from tests.unit.check import changed_reports, sealed_reports
from tests.unit.report import example, tried_rows
from tests.unit.report.archives import archive

_KEYS = Trust(keys=changed_reports.ALL_KEYS, witnesses=changed_reports.text_of("server"))
Edit = Callable[[dict[str, Any]], object]


def _checked(data: bytes) -> object:
    try:
        found = check_bytes(data, trust=_KEYS, derivation=example.EXAMPLE)
    except ReportError as error:
        return str(error)
    return [str(fault) for fault in found.faults], found.level, found.missing


def _of_document(edit: Edit) -> bytes:
    """The example with an edit, sealed again."""
    document = copy.deepcopy(changed_reports.DOCUMENT)
    edit(document)
    return report_bytes(document)


def _of_round(edit: Edit) -> bytes:
    """An example whose one round was another before anything was computed from it."""
    observation = example.observation()
    edit(observation["rounds"][0]["protected"])
    return report_bytes(example.document(example.measured(observation=observation)))


def _token(name: str) -> bytes:
    unknown = example.Keys()
    return _of_round(lambda protected: protected.update({name: sign({"a": 1}, key=unknown.server, typ="x")}))


def _of_other_round(name: str) -> bytes:
    return _of_round(lambda protected: protected.update({name: example.observed_round(2)["protected"][name]}))


def _raw_exit() -> bytes:
    observation = example.observation()
    observation["rounds"][0]["raw"]["exit"] = example.observed_round(2, keys=example.Keys())["raw"]["exit"]
    return report_bytes(example.document(example.measured(observation=observation)))


def _other_keys() -> bytes:
    observation = example.observation()
    del observation["keys"]
    return report_bytes(example.document(example.measured(observation=observation)))


def _publishable(**changes: Any) -> bytes:
    document = example.document(
        example.publishable(observation={**example.observation(unseen=()), **changes.pop("observation", {})})
    )
    document["rows"][0] |= {"publishable": True, "unpublishableBecause": [], **changes}
    return report_bytes(resealed(document, key=example.KEYS.report))


def _attempts(times: int, *, numbers: tuple[int, int]) -> list[dict[str, Any]]:
    finished = [{"rowId": changed_reports.DOCUMENT["rows"][0]["rowId"], "outcome": "measured"}]
    return [
        {
            "attempt": number,
            "startedAt": "2026-11-20T17:00:00Z",
            "kept": [],
            "begun": [],
            "finished": finished if place < times else [],
        }
        for place, number in enumerate(numbers)
    ]


def _tried(edit: Edit) -> bytes:
    """A row of two attempts with an edit, sealed again."""
    document = example.document(tried_rows.tried(tried_rows.slow(), example.publishable()))
    edit(document["rows"][0])
    return report_bytes(resealed(document, key=example.KEYS.report))


def _begun_thrice() -> bytes:
    document = copy.deepcopy(changed_reports.DOCUMENT)
    row = tried_rows.tried(example.measured(rounds=2), example.measured(rounds=2))["record"]
    document["rows"] = [row]
    attempts_listed = _attempts(1, numbers=(1, 2))
    attempts_listed[0]["begun"] = [row["rowId"]] * 3
    return report_bytes(resealed({**document, "attempts": attempts_listed}, key=example.KEYS.report))


def _counted_by_the_server() -> bytes:
    seen = example.observation()
    seen["keys"]["attestationServer"] = "embedded"
    seen["rounds"][0]["protected"]["result"] = sign({"attempt": 2}, key=example.KEYS.server, typ="x")
    return report_bytes(example.document(example.measured(observation=seen)))


def _publishable_on_a_leak() -> bytes:
    document = example.document(example.publishable())
    document["cleanup"]["allocations"][0]["status"] = document["cleanup"]["status"] = "leak"
    return report_bytes(resealed(document, key=example.KEYS.report))


def _of_null(edit: Edit) -> bytes:
    """A null row with an edit, sealed again."""
    document = example.document(example.null_row())
    edit(document["nullRows"][0])
    return report_bytes(resealed(document, key=example.KEYS.report))


def _null_unseen(null: dict[str, Any]) -> None:
    null["observation"]["allocation"]["unseen"] = ["same work"]
    place = [each["invariant"] for each in null["findings"]].index("same work")
    null["findings"][place] = finding_json(example.finding("same work", "unseen"))


def _disturbed() -> bytes:
    """A measured row whose machine throttled, raw against raw too."""
    observation = {**example.observation(), **sampled_turns.throttled()}
    observation["rounds"] = [{**example.observed_round(1), **observation["rounds"][0]}]
    document = example.document(example.measured())
    document["rows"][0]["observation"] = observation
    return report_bytes(resealed(document, key=example.KEYS.report))


def _cases(bundle_bytes: bytes) -> dict[str, Ask]:
    data: dict[str, bytes] = {
        "as it is": report_bytes(changed_reports.DOCUMENT),
        **{f"{path} changed": report_bytes(changed_reports.changed(path, value)) for path, value, _ in changed_reports.CHANGES},
        **{
            f"{name} of an unknown key": _token(name)
            for name in ("manifest", "grant", "evidence", "result", "receipt", "head", "exit")
        },
        **{f"{name} of another round": _of_other_round(name) for name in ("evidence", "head", "exit", "result")},
        "raw exit of an unknown key": _raw_exit(),
        "row of no party": _other_keys(),
        "grant missing": _of_round(lambda protected: protected.pop("grant")),
        "sealed and then changed": _of_document(lambda document: document.update(runId="other")),
        "row sealed and then changed": _of_document(lambda document: document["rows"][0].update(name="other")),
        "row changed against the schema": _of_document(lambda document: document["rows"][0].update(more=1)),
        "seal of an unknown key": report_bytes(seal.sealed(changed_reports.DOCUMENT, key=example.Keys().report)),
        "bundle": bundle.bundle_bytes(changed_reports.DOCUMENT, key=example.KEYS.report),
        "bundle without a member": _rezipped({"keys/report.pub": None}),
        "bundle with one more": _rezipped({"more": b""}),
        "bundle with another journal": _rezipped(
            {next(name for name in bundle.members(changed_reports.DOCUMENT) if "journal" in name): b"{}"}
        ),
        "bundle with a statement about nothing": _rezipped({f"rows/x/{attest.MEMBER}": b"{}"}),
        "bundle with a broken statement": _rezipped({_statement(): b"{}"}),
        "bundle with the statement of another": _rezipped({_statement(): _foreign_statement()}),
        "bundle that is none": b"PK nonsense",
        "bundle without a report": archive(("other", b"")),
        "bundle cut": bundle_bytes[:-40],
        "bundle by another compression": _lzma(),
        "publishable on another GPU": _publishable(gpuModel="NVIDIA RTX A4000"),
        "publishable stand-in": _publishable(observation={"material": {"workload": "lora", "standIn": True}}),
        "publishable dry run": _publishable(dryRun=True),
        "publishable simulation": _publishable(simulated=True),
        "publishable and says why not": _publishable(unpublishableBecause=["for a reason"]),
        "publishable with a finding unseen": _publishable(observation=example.observation()),
        "publishable on a leak": _publishable_on_a_leak(),
        "null row": _of_null(lambda _: None),
        "null row with another difference": _of_null(lambda null: null.update(differencePct=0.0)),
        "null row that qualifies": _of_null(lambda null: null.update(qualifies=not null["qualifies"])),
        "null row cut by nothing": _of_null(
            lambda null: null.update(cut={"roundCostSec": 1.0, "pairSec": 1.0, "rounds": 2, "pairs": 4})
        ),
        "null row without a finding": _of_null(lambda null: null["findings"].pop()),
        "null row with a finding unseen": _of_null(_null_unseen),
        "null row without its second leg": _of_null(lambda null: null["observation"]["rounds"][0].update(raw2=None)),
        "row on a machine that throttled": _disturbed(),
        "row that was extended though nobody planned it": _of_document(
            lambda document: document["rows"][0].update(
                extension={
                    "halfWidthPct": 1.0,
                    "firstRounds": 2,
                    "firstCi95Pct": None,
                    "spreadPct": 1.0,
                    "wanted": 2,
                    "rounds": 2,
                }
            )
        ),
        "row that tells of means nobody sampled": _of_document(lambda document: document["rows"][0].update(covariates=[])),
        "judged by a later revision": _of_document(lambda document: document["methodology"].update(invariantsRevision=99)),
        "more held than begun": _of_document(lambda document: document["rows"][0]["lifecycle"].update(held=9)),
        "measured in two attempts": _of_document(lambda document: document.update(attempts=_attempts(2, numbers=(1, 2)))),
        **{f"attempts: {name}": _tried(edit) for name, (edit, _) in tried_rows.EDITS.items()},
        "attempts: as they are": _tried(lambda _: None),
        "begun more often than it was tried": _begun_thrice(),
        "counted more often by the server": _counted_by_the_server(),
        "an attempt missing": _of_document(lambda document: document.update(attempts=_attempts(1, numbers=(1, 3)))),
        "no JSON": b"{",
        "no object": b"[]",
        "no schema": b'{"schemaVersion": "1.0"}',
    }
    asks: dict[str, Ask] = {name: partial(_checked, each) for name, each in data.items()}
    asks |= {
        f"envelope {number}": partial(attest.open_envelope, changed(change), key=example.KEYS.report.public_key())
        for number, (change, _) in enumerate(CHANGED_ENVELOPES)
    }
    # Of a row whose base is sealed there is a real report, which the project's own functions judge.
    asks |= {
        f"sealed row: {name}": partial(_faults, sealed_reports.of_row(edit)) for name, (edit, _) in sealed_reports.LIES.items()
    }
    unknown, name = example.Keys(), _statement()
    asks |= {
        "a file that is not there": lambda: check.check_file(Path("none.json")),
        "a file that is not there to be read": lambda: check.read_document(Path("none.json")),
        "a file that is a folder": lambda: check.check_file(Path(__file__).parent),
        "a file that begins like a bundle": lambda: _checked_file(b"PK"),
        "a file that is no report": lambda: check.read_document(Path(__file__)),
        "an observation of other types": lambda: check_bytes(report_bytes(changed_reports.malformed())).faults,
        "a file with an observation of other types": lambda: _read_file(report_bytes(changed_reports.malformed())),
        "a document that is no JSON": lambda: check.load_document(b"{"),
        "a document of another shape": lambda: check.load_document(b"{}"),
        "nothing trusted": lambda: check_bytes(data["as it is"], derivation=example.EXAMPLE).missing,
        "no server trusted": lambda: _trusting("report", "owner"),
        "no report key trusted": lambda: _trusting("server", "owner"),
        "bound to nothing": lambda: check_bytes(data["as it is"], derivation=replace(example.EXAMPLE, binding=_unbound)).faults,
        "devices that do not bear the result out": lambda: (
            check_bytes(
                data["as it is"], derivation=replace(example.EXAMPLE, devices=lambda _: iter([("$.rows[0]", "refused")]))
            ).faults
        ),
        "without a seal": lambda: seal.verify_seal({}, key=unknown.report.public_key()),
        "exported though it states something else": lambda: attest.exported(
            changed_reports.DOCUMENT, {name: _foreign_statement()}, changed_reports.DOCUMENT["rows"][0]["rowId"]
        ),
        "a member twice": lambda: bundle.bundle_members(_twice()),
        "attempts without a record": lambda: tried_rows.tried(None, None),
        "a member that would be a gigabyte": lambda: bundle.bundle_members(_giant()),
    }
    return asks


def _faults(data: bytes) -> object:
    return check_bytes(data).faults


def _trusting(*names: str) -> object:
    trust = Trust(keys=changed_reports.text_of(*names))
    return check_bytes(report_bytes(changed_reports.DOCUMENT), trust=trust, derivation=example.EXAMPLE).missing


def _unbound(_: Any) -> Any:
    yield "$", "bound to nothing"


def _twice() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return archive(("report.json", b"{}"), ("report.json", b"{}"))


def _giant() -> bytes:
    """Its directory states that size; nothing that large is in it, nor is it ever read."""
    whole = bytearray(archive(("report.json", b"{}")))
    at = whole.index(b"PK\x01\x02") + 24
    whole[at : at + 4] = (1 << 30).to_bytes(4, "little")
    return bytes(whole)


def _rezipped(change: dict[str, bytes | None]) -> bytes:
    return rezipped(bundle.bundle_bytes(changed_reports.DOCUMENT, key=example.KEYS.report), change)


def _statement() -> str:
    return attest.member_of(changed_reports.DOCUMENT["rows"][0])


def _foreign_statement() -> bytes:
    return attest.envelope(changed_reports.DOCUMENT, changed_reports.DOCUMENT["excludedResults"][0], key=example.KEYS.report)


def _checked_file(data: bytes) -> object:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return check.check_file(Path(file.name))


def _read_file(data: bytes) -> object:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return check.read_document(Path(file.name))
        except ReportError as error:
            return str(error).partition(": ")[2]


def _lzma() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as out:
        out.writestr("report.json", b"{}")
    return buffer.getvalue()


def _remembered(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Redaction and schema are no rooms of this test: their answer about a document is the same each time."""
    answers: dict[str, list[Any]] = {}

    def answer(document: Any, **limits: int) -> list[Any]:
        name = json.dumps(document)
        if name not in answers:
            answers[name] = list(function(document, **limits))
        return answers[name]

    return answer


def test_removal_of_any_check_of_a_report_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that can be removed unnoticed protects nothing, or nothing proves that it does."""
    for name in ("hits", "schema_faults"):
        monkeypatch.setattr(check, name, _remembered(getattr(check, name)))
    asks = _cases(bundle.bundle_bytes(changed_reports.DOCUMENT))
    unnoticed, checks = unnoticed_in(asks, check, recompute, authenticity, attest, attempts, bundle, seal)

    print(f"report: {checks} checks, {len(asks)} cases")  # noqa: T201
    assert "\n".join(unnoticed) == ""
