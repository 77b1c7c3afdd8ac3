"""Rows on the mock provider that use a server outside: pytest's settings, its output, and the report."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.legs.allocation_policy import base_policy
from pytest_glasshouse.owner.keyfiles import write_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.limits import HANG_S
from tests.service.serving import Serving, serving

ROWS = """
import pytest
from pytest_glasshouse.invariants import assert_held, attestation_verified, journal_countersigned
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name=f"mlp-{name}", workload="mlp", gpu="anygpu", order="protected-first", target_s=60) for name in ("one", "two")]

@pytest.mark.parametrize("row", ROWS)
def test_mlp(row, allocation, protected_runtime, raw_runner, row_report):
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(outcome, attestation_verified, journal_countersigned)
"""
#: Limits of the product that are no subject here: a busy machine boots and trains as slowly as it likes.
PATIENT = ("--glasshouse-boot-timeout", str(HANG_S), "--glasshouse-leg-timeout", str(HANG_S))


@pytest.fixture(name="server")
def a_server(tmp_path: Path) -> Iterator[Serving]:
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server") as server:
        yield server


@pytest.fixture(name="project")
def a_project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_rows.py").write_text(ROWS)
    return project


def run(project: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--glasshouse-leg-seconds", "0.2", *PATIENT, *arguments]
    root = str(Path(__file__).parents[2])
    environment = {**environment, "PYTHONPATH": root}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=HANG_S)


def test_workers_share_one_server_and_the_report_names_it(server: Serving, project: Path) -> None:
    captured = base_policy(name="lab", archive_sha256=sha256_hex(guest_archive()), container="any", completion_s=60)
    policy = dataclasses.replace(captured, version=3, locked=True)
    (project / "policy.json").write_text(json.dumps(policy.to_json()))
    done = run(project, server.environment(), "-n", "2", "--glasshouse-policy", "policy.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"glasshouse: attestation server {server.url} (outside)" in done.stdout
    (path,) = (project / "reports").glob("*.json")
    report = json.loads(path.read_text())
    assert len(report["rows"]) == 2
    for row in report["rows"]:
        assert row["observation"]["keys"] == {
            "server": server.key, "owner": server.owner.public_text, "attestationServer": "outside",
        }  # fmt: skip
        for each in row["observation"]["rounds"]:
            asked = each["protected"]["policy"]
            assert (asked["name"].split("/")[0], asked["version"], asked["locked"]) == ("lab", 3, True)
    assert report["keys"]["servers"] == [server.key]
    assert report["summary"]["outstandingReleases"] == []
    assert server.url not in path.read_text()
    witness = project / "witness.pub"
    keys = [f"witness {server.key}", server.owner.public_text, report["keys"]["report"]]
    witness.write_text("\n".join(keys) + "\n")
    checked = subprocess.run(
        [sys.executable, "-m", "pytest_glasshouse", "check", str(path), "--trust", str(witness), "--require", "witnessed"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=HANG_S,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    server.end()
    with server.ledger() as ledger:
        assert (ledger.releases(), ledger.outstanding()) == (2, [])


def refused(project: Path, environment: dict[str, str]) -> str:
    done = run(project, environment)
    assert done.returncode == 4, done.stdout + done.stderr
    assert not list((project / "reports").glob("*"))
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return line


def test_an_unreachable_server_is_an_error_of_one_line_before_anything_starts(server: Serving, project: Path) -> None:
    server.end()
    message = refused(project, server.environment())
    assert server.url in message
    assert "glasshouse serve" in message


def test_another_servers_key_is_refused_before_anything_starts(server: Serving, project: Path) -> None:
    """Another process on the port must not receive a data key."""
    message = refused(project, {**server.environment(), "GLASSHOUSE_SERVER_KEY": Owner.generate().public_text})
    assert "another server's" in message


def test_a_server_of_another_owner_is_refused_before_anything_starts(server: Serving, project: Path, tmp_path: Path) -> None:
    write_owner(tmp_path / "other.key", Owner.generate())
    message = refused(project, {**server.environment(), "GLASSHOUSE_OWNER_KEY": str(tmp_path / "other.key")})
    assert server.owner.kid in message
