"""Whatever is changed in a report, checking it again finds the place."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.check.check import Checked, Level, check_bytes, check_file, load_document, read_document
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.report.bundle import bundle_bytes, members, report_bytes
from pytest_glasshouse.run.engine import Engine
from pytest_glasshouse.run.plan import derivation_of
from pytest_glasshouse.wire.evidence import TYP_RECEIPT
from pytest_glasshouse.wire.tokens import sign
from tests.unit.check.changed_reports import ALL_KEYS, CHANGES, DOCUMENT, GOLDEN, changed, malformed, text_of
from tests.unit.report import example


def checked(document: Any, *, keys: frozenset[str] = frozenset(), witnesses: frozenset[str] = frozenset()) -> Checked:
    return check_bytes(report_bytes(document), trust=Trust(keys=keys, witnesses=witnesses), derivation=example.EXAMPLE)


def test_report_follows_from_its_own_data() -> None:
    found = checked(DOCUMENT)

    assert found.faults == ()
    assert (found.level, found.rows, found.excluded) == (Level.CONSISTENT, 1, 2)


@pytest.mark.parametrize(("path", "value", "where"), CHANGES, ids=[path for path, _, _ in CHANGES])
def test_changed_value_is_found_even_when_sealed_anew(path: str, value: Any, where: str) -> None:
    """The publisher holds the report key: a seal proves who wrote a number, never that it is right."""
    found = checked(changed(path, value))

    assert any(fault.path.startswith(where) for fault in found.faults), [str(fault) for fault in found.faults]
    assert found.level is Level.NOTHING


@pytest.mark.parametrize("field", ["reason", "expected", "seen", "todo"])
def test_old_report_stays_sound_when_a_sentence_changes(field: str) -> None:
    """What a finding is about, how it came out and what it was computed from do not depend on the text, which the seal covers."""
    document = changed(f"rows.0.findings.0.{field}", "as an earlier version said it")

    assert checked(document).faults == ()


@pytest.mark.parametrize("field", ["interpretation", "verdictReason", "method"])
def test_sentence_about_a_figure_is_compared_where_this_version_wrote_it(field: str) -> None:
    document = changed(f"rows.0.{field}", "as an earlier version said it")
    older = example.sealed_again({**document, "generatedBy": {**document["generatedBy"], "version": "0.0.1"}})

    assert [fault.path for fault in checked(document).faults] == [f"$.rows[0].{field}"]
    assert checked(older).faults == ()


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("rows.0.findings.0.reason", "$.rows[0].seal"),
        ("rows.0.name", "$.rows[0].seal"),
        ("excludedResults.0.decision", "$.excludedResults[0].seal"),
        ("runId", "$.seal"),
    ],
)
def test_value_changed_after_sealing_breaks_the_seal(path: str, where: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    holder: Any = document
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        holder = holder[step]
    holder[last] = "another"

    assert where in {fault.path for fault in checked(document).faults}


def test_unpublishable_row_called_publishable_is_found() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["rows"][0] |= {"publishable": True, "unpublishableBecause": [], "dryRun": False}

    faults = [str(fault) for fault in checked(resealed(document, key=example.KEYS.report)).faults]

    assert any("did not run on the GPU it names" in fault for fault in faults)
    assert any("memory scanned clean is unseen" in fault for fault in faults)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"a": NaN}', b'{"schemaVersion": "1.0", "schemaVersion": "1.0"}', b'{"schemaVersion": "9.9"}']
)
def test_document_that_is_no_report_reaches_no_level(data: bytes) -> None:
    found = check_bytes(data)

    assert found.faults
    assert found.level is Level.NOTHING


def test_report_of_another_version_is_refused_naming_the_field() -> None:
    assert "schemaVersion" in str(check_bytes(b'{"schemaVersion": "9.9"}').faults[0])


def test_keys_found_inside_never_count() -> None:
    """A forger signs everything with keys of their own and puts them in."""
    found = checked(DOCUMENT)

    assert found.level is Level.CONSISTENT
    assert "the report key is not one given with --trust" in found.missing


@pytest.mark.parametrize("missing", ["report", "server", "owner"])
def test_every_partys_key_is_needed_for_authentic(missing: str) -> None:
    keys = text_of(*({"report", "server", "owner"} - {missing}))

    assert checked(DOCUMENT, keys=keys).level is Level.CONSISTENT


def test_report_is_authentic_when_every_signature_leads_to_a_given_key() -> None:
    found = checked(DOCUMENT, keys=ALL_KEYS)

    assert found.level is Level.AUTHENTIC
    assert "no receipt is by a server that --trust names as a witness" in found.missing


def test_report_is_witnessed_when_the_reader_trusts_the_server_as_witness() -> None:
    assert checked(DOCUMENT, keys=ALL_KEYS, witnesses=text_of("server")).level is Level.WITNESSED


def test_publishers_own_key_is_no_witness() -> None:
    document = example.document(keys=example.keys_of_one_party())
    own = frozenset({document["keys"]["report"]})

    assert checked(document, keys=own, witnesses=own).level is Level.AUTHENTIC


@pytest.mark.parametrize("token", ["evidence", "result", "receipt", "head", "exit", "manifest", "grant"])
def test_token_of_another_key_is_not_authentic(token: str) -> None:
    """The example's findings read no tokens, so only the check of signatures can find this."""
    observation = example.observation()
    protected = observation["rounds"][0]["protected"]
    unknown = example.Keys()
    protected[token] = sign({"a": 1}, key=unknown.server, typ=TYP_RECEIPT)
    document = example.document(example.measured(observation=observation))

    found = checked(document, keys=ALL_KEYS)

    assert found.faults == ()
    assert found.level is Level.CONSISTENT
    assert any("$.rows[0].observation.rounds[0]" in each for each in found.missing)


@pytest.mark.parametrize("token", ["evidence", "head", "exit"])
def test_token_the_server_did_not_sign_for_is_not_authentic(token: str) -> None:
    observation, other = example.observation(), example.observed_round(2)
    observation["rounds"][0]["protected"][token] = other["protected"][token]
    document = example.document(example.measured(observation=observation))

    found = checked(document, keys=ALL_KEYS)

    assert any(f"the {token} is not the one the server signed for" in each for each in found.missing)


def test_missing_token_is_not_authentic() -> None:
    observation = example.observation()
    del observation["rounds"][0]["protected"]["grant"]

    found = checked(example.document(example.measured(observation=observation)), keys=ALL_KEYS)

    assert found.level is Level.CONSISTENT
    assert any("a token is missing" in each for each in found.missing)


def test_row_of_other_parties_than_the_reports_is_not_authentic() -> None:
    """The document's key lists are recomputed; a row whose keys are in none of them leads nowhere."""
    observation = example.observation()
    del observation["keys"]

    found = checked(example.document(example.measured(observation=observation)), keys=ALL_KEYS)

    assert any("the server's or the owner's key is not one given" in each for each in found.missing)


def test_finding_left_out_is_found() -> None:
    document = copy.deepcopy(DOCUMENT)
    del document["rows"][0]["findings"][-1]

    faults = [str(fault) for fault in checked(resealed(document, key=example.KEYS.report)).faults]

    assert "$.rows[0].findings: same work is not among them; it is held" in faults


def test_publishable_row_on_an_allocation_that_may_still_run_is_found() -> None:
    document = example.document(example.publishable())
    document["cleanup"]["allocations"][0]["status"] = document["cleanup"]["status"] = "leak"

    faults = [str(fault) for fault in checked(resealed(document, key=example.KEYS.report)).faults]

    assert faults == ["$.rows[0].publishable: the cleanup of its allocation is not proven"]


def test_publishable_row_of_a_stand_in_is_found() -> None:
    observation = {**example.observation(unseen=()), "material": {"workload": "lora", "standIn": True}}
    document = example.document(example.publishable(observation=observation))
    document["rows"][0] |= {"publishable": True, "unpublishableBecause": []}

    faults = [str(fault) for fault in checked(resealed(document, key=example.KEYS.report)).faults]

    assert "$.rows[0].publishable: a stand-in model was trained" in faults


def test_bundle_is_checked_like_its_report(tmp_path: Path) -> None:
    path = tmp_path / "run.glasshouse.zip"
    path.write_bytes(bundle_bytes(DOCUMENT))

    assert check_file(path, derivation=example.EXAMPLE).level is Level.CONSISTENT


@pytest.mark.parametrize("act", ["change", "drop", "add"])
def test_bundle_whose_files_are_not_the_reports_is_faulty(act: str) -> None:
    files = members(DOCUMENT)
    name = next(name for name in files if name.endswith("journal.jsonl"))
    if act == "change":
        files[name] += b"{}\n"
    elif act == "drop":
        del files[name]
    else:
        files["rows/extra.txt"] = b"hello"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for each, data in files.items():
            archive.writestr(each, data)

    (fault,) = check_bytes(buffer.getvalue(), derivation=example.EXAMPLE).faults

    assert fault.path.startswith("bundle")


def test_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        check_file(tmp_path / "none.json")


def test_document_loads_from_report_and_bundle() -> None:
    assert load_document(report_bytes(DOCUMENT)) == load_document(bundle_bytes(DOCUMENT)) == DOCUMENT


def test_document_that_is_not_strict_json_does_not_load() -> None:
    with pytest.raises(ReportError, match="not strict JSON"):
        load_document(json.dumps({"a": float("nan")}).encode())


def test_observation_that_the_derivation_cannot_read_is_a_fault_and_no_crash() -> None:
    """The project's own derivation, on evidence that no guest made."""
    found = check_bytes(report_bytes(DOCUMENT))

    assert any(fault.path.startswith("$.rows[0].") for fault in found.faults)
    assert found.level is Level.NOTHING


def test_malformed_observation_is_named_with_its_path(tmp_path: Path) -> None:
    found = check_bytes(report_bytes(malformed()))
    assert found.level is Level.NOTHING
    assert str(found.faults[0]) == "$.rows[0].observation.rounds[0].raw.callback.units: expected an integer, saw a text"

    path = tmp_path / "report.json"
    path.write_bytes(report_bytes(malformed()))
    with pytest.raises(ReportError, match=r"report\.json: \$\.rows\[0\]\..*callback\.units: expected an integer, saw a text"):
        read_document(path)


@pytest.mark.parametrize("value", [7, "x", [], None])
def test_malformed_observation_is_a_fault_for_the_engine_of_a_run_too(value: Any) -> None:
    """A run that resumes from a report, or publishes one, derives it with its engine's functions."""
    document = copy.deepcopy(GOLDEN)
    document["rows"][0]["observation"]["rounds"][0]["protected"] = value
    found = check_bytes(report_bytes(document), derivation=derivation_of(Engine()))
    assert not found.sound
