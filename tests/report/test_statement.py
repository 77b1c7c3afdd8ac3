"""A row for outside eyes: a Statement in a DSSE envelope that others' tools verify, and that check holds to the report."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.report import intoto as attest
from pytest_glasshouse.report.bundle import bundle_members
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.tokens import thumbprint
from tests.report.conftest import RealRun
from tests.report.envelopes import CHANGED_ENVELOPES, changed, rezipped
from tests.unit.report import example

KEY = example.KEYS.report


def exported(real_run: RealRun, out: Path, row: str = "one") -> dict[str, Any]:
    assert main(["export", str(real_run.bundle_path), "--row", row, "--out", str(out)]) == 0
    loaded: dict[str, Any] = json.loads(out.read_bytes())
    return loaded


def theirs(key: Ed25519PrivateKey) -> SSlibKey:
    """The key as securesystemslib wants it."""
    public = key.public_key()
    return SSlibKey(thumbprint(public), "ed25519", "ed25519", {"public": public.public_bytes_raw().hex()})


def test_exported_envelope_is_verified_by_securesystemslib(real_run: RealRun, tmp_path: Path) -> None:
    """Verified by another project's code, not ours."""
    envelope = Envelope.from_dict(exported(real_run, tmp_path / "one.json"))
    key = theirs(real_run.report_key)

    assert set(envelope.verify([key], threshold=1)) == {key.keyid}
    with pytest.raises(VerificationError):
        envelope.verify([theirs(Ed25519PrivateKey.generate())], threshold=1)
    envelope.payload = envelope.payload.replace(b"held", b"hold", 1)
    with pytest.raises(VerificationError):
        envelope.verify([key], threshold=1)


def test_statement_has_every_rounds_adapter_as_subject_and_what_signed_it_as_predicate(real_run: RealRun, tmp_path: Path) -> None:
    statement = json.loads(base64.b64decode(exported(real_run, tmp_path / "one.json")["payload"]))
    row = next(row for row in real_run.document["rows"] if row["name"] == "one")
    rounds = row["observation"]["rounds"]
    files = bundle_members(real_run.bundle)

    assert (statement["_type"], statement["predicateType"]) == ("https://in-toto.io/Statement/v1", attest.PREDICATE_TYPE)
    assert [each["digest"]["sha256"] for each in statement["subject"]] == [each["protected"]["adapterSha256"] for each in rounds]
    for place, each in enumerate(statement["predicate"]["rounds"], start=1):
        folder = f"rows/{row['rowId']}/round-{place}"
        for name in ("manifest", "evidence", "result", "head", "exit", "receipt"):
            assert each[f"{name}Sha256"] == sha256_hex(files[f"{folder}/{name}.jws"].strip())
        assert each["journalLines"] == len(files[f"{folder}/journal.jsonl"].splitlines())


def test_excluded_row_whose_protected_run_completed_is_stated_as_excluded(real_run: RealRun, tmp_path: Path) -> None:
    statement = json.loads(base64.b64decode(exported(real_run, tmp_path / "lost.json", "lost-callback")["payload"]))

    assert statement["predicate"]["outcome"] == "excluded"


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--row", "none"], "the id or the one name"), (["--row", "two"], "holds no statement")]
)
def test_export_without_a_statement_is_one_clear_line(
    real_run: RealRun, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(real_run.report), *arguments]) == 4
    assert message in capsys.readouterr().err


def test_statement_that_is_not_the_reports_is_a_fault_and_is_not_exported(
    real_run: RealRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Validly signed by the report key, about another row."""
    ours, theirs = (f"rows/{row['rowId']}/{attest.MEMBER}" for row in real_run.document["rows"][:2])
    swapped = rezipped(real_run.bundle, {ours: bundle_members(real_run.bundle)[theirs]})
    (tmp_path / "swapped.zip").write_bytes(swapped)

    assert [str(fault) for fault in check_bytes(swapped).faults] == [f"bundle/{ours}: states something else than the report"]
    assert main(["export", str(tmp_path / "swapped.zip"), "--row", "one"]) == 4
    assert "states something else" in capsys.readouterr().err


@pytest.mark.parametrize("row", ["nothing", "lost"])
def test_statement_about_a_row_that_does_not_exist_is_a_fault(row: str) -> None:
    document = example.document()
    name = f"rows/{document['excludedResults'][1]['rowId'] if row == 'lost' else row}/{attest.MEMBER}"

    assert list(attest.envelope_faults(document, name, b"{}")) == ["is about no row of the report"]


@pytest.mark.parametrize(("change", "reason"), CHANGED_ENVELOPES, ids=[f"change-{number}" for number in range(13)])
def test_changed_envelope_does_not_open(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        attest.open_envelope(changed(change), key=KEY.public_key())
    assert caught.value.reason == reason


def test_unchanged_envelope_opens_to_the_statement() -> None:
    document = example.document()
    payload = attest.open_envelope(attest.envelope(document, document["rows"][0], key=KEY), key=KEY.public_key())

    assert json.loads(payload) == attest.statement(document, document["rows"][0])
