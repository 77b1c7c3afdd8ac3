"""`check --explain` says what is proven only as far as it is, and names every signer."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.claims import CLAIMS, NOT_CLAIMED
from pytest_glasshouse.wire.tokens import public_text
from tests.unit.report import example


@pytest.fixture(name="report")
def written_report(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    path.write_bytes(report_bytes(example.document(example.measured(), example.excluded())))
    return path


def test_claims_are_proven_only_by_trusted_keys(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Anybody can write a report that does not contradict itself."""
    assert main(["check", str(report), "--explain"], derivation=example.EXAMPLE) == 0
    proves, _, rest = capsys.readouterr().out.partition("does not prove")

    assert "consistent: it follows from its own data" in proves
    assert not [claim for claim in CLAIMS if claim in proves]
    assert all(claim in rest for claim in (*CLAIMS, *NOT_CLAIMED))
    assert "failed in it\n  mlp-h100-30m: raw callback completed broken" in rest


def test_every_signer_is_trusted_or_unknown(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [public_text(each.public_key()) for each in (example.KEYS.report, example.KEYS.server)]
    (tmp_path / "lab.pub").write_text(f"{keys[0]}\nwitness {keys[1]}\n", "utf-8")
    main(["check", str(report), "--explain", "--trust", str(tmp_path / "lab.pub")], derivation=example.EXAMPLE)
    signed = capsys.readouterr().out.partition("signed by\n")[2].split()

    assert signed[:3] == ["report", keys[0], "trusted"]
    assert signed[3:8] == ["server", keys[1], "a", "witness", "of"]
    assert signed[-1] == "UNKNOWN"


def test_report_that_follows_no_schema_proves_nothing(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.write_bytes(report.read_bytes().replace(b'"schemaVersion"', b'"schemaName"', 1))
    assert main(["check", str(report), "--explain"], derivation=example.EXAMPLE) == 1
    assert "proves" not in capsys.readouterr().out
