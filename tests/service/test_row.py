"""Rows on the mock provider that use a server outside: pytest's settings, its output, and the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import tests.native_modules  # noqa: F401  (pytest runs in this process)
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.legs.allocation_policy import base_policy
from pytest_glasshouse.owner.keyfiles import write_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.limits import HANG_S
from tests.numpy_guest.bytecode import keep_in_cache
from tests.pytest_process import NO_OTHERS
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
#: The first row's test fails after it was recorded, the first time.
FAILS_ONCE = """
@pytest.fixture(autouse=True)
def fails_once(row_report):
    yield
    import pathlib
    assert pathlib.Path("was run").exists()
"""
#: The product's engine, but for what its guests find compiled, or train with.
CONFTEST = """
import pathlib
from pytest_glasshouse.plugin.stash import ENGINE
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.run.engine import Engine
from tests.numpy_guest.archive import numpy_provider
from tests.numpy_guest.bytecode import use_kept

class TestsEngine(Engine):
    def broker(self, *given, **named):
        made = super().broker(*given, **named)
        provider = numpy_provider() if "{train_with}" == "numpy" else MockProvider()
        use_kept(provider, "{train_with}", below=pathlib.Path("{kept}"))
        made._fleet.providers["mock"] = provider
        return made

def pytest_configure(config):
    config.stash[ENGINE] = TestsEngine()
"""
#: Limits of the product are no subject here: a busy machine boots and trains as slowly as it likes.
OPTIONS = (
    "-p", "no:cacheprovider", "--glasshouse-leg-seconds", "0.2", "--glasshouse-boot-timeout", str(HANG_S),
    "--glasshouse-leg-timeout", str(HANG_S),
)  # fmt: skip


@pytest.fixture(name="server")
def a_server(tmp_path: Path) -> Iterator[Serving]:
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server") as server:
        yield server


@pytest.fixture(name="project")
def a_project(
    pytester: pytest.Pytester,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    monkeypatch.setenv("PYTEST_ADDOPTS", NO_OTHERS)  # which `pytester` takes away
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makepyfile(test_rows=ROWS)
    return Project(pytester, keep_in_cache(request.config, tmp_path_factory))


@dataclass(frozen=True)
class Project:
    """A directory with two rows in it, and pytest in this process: its workers are processes of their own."""

    pytester: pytest.Pytester
    #: Where a guest with torch may find what another one compiled.
    kept: Path

    @property
    def path(self) -> Path:
        return self.pytester.path

    def trains_with(self, what: Literal["torch", "numpy"]) -> None:
        """Write an engine whose guests train with it."""
        (self.path / "conftest.py").write_text(CONFTEST.format(train_with=what, kept=str(self.kept)))

    def run(self, environment: Mapping[str, str], *arguments: str) -> pytest.RunResult:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return self.pytester.runpytest_inprocess(*OPTIONS, *arguments)

    def reports(self) -> list[Path]:
        return sorted((self.path / "reports").glob("*.json"))


def names_the_server(project: Project, server: Serving, result: pytest.RunResult, *, rows: int) -> list[dict[str, Any]]:
    """Output, report and ledger of a run say which server released the keys, and it witnesses the report, whose rounds are returned."""
    assert result.ret == 0, f"{result.stdout}\n{result.stderr}"
    assert f"glasshouse: attestation server {server.url} (outside)" in result.outlines
    (path,) = project.reports()
    report = json.loads(path.read_text())
    assert len(report["rows"]) == rows
    for row in report["rows"]:
        assert row["observation"]["keys"] == {
            "server": server.key, "owner": server.owner.public_text, "attestationServer": "outside",
        }  # fmt: skip
    assert report["keys"]["servers"] == [server.key]
    assert report["summary"]["outstandingReleases"] == []
    assert server.url not in path.read_text()
    witness = project.path / "witness.pub"
    keys = [f"witness {server.key}", server.owner.public_text, report["keys"]["report"]]
    witness.write_text("\n".join(keys) + "\n")
    assert main(["check", str(path), "--trust", str(witness), "--require", "witnessed"]) == 0
    server.end()
    with server.ledger() as ledger:
        assert (ledger.releases(), ledger.outstanding()) == (rows, [])
    return [each for row in report["rows"] for each in row["observation"]["rounds"]]


@pytest.mark.torch
def test_worker_uses_server_and_policy_of_the_user_and_the_report_names_them(server: Serving, project: Project) -> None:
    """The guest is the product's own, which trains with torch: a captured policy is refused with any other."""
    project.trains_with("torch")
    captured = base_policy(name="lab", archive_sha256=sha256_hex(guest_archive()), container="any", completion_s=round(HANG_S))
    policy = dataclasses.replace(captured, version=3, locked=True)
    (project.path / "policy.json").write_text(json.dumps(policy.to_json()))
    result = project.run(server.environment(), "-n", "1", "-k", "one", "--glasshouse-policy", "policy.json")
    (each,) = names_the_server(project, server, result, rows=1)
    asked = each["protected"]["policy"]
    assert (asked["name"].split("/")[0], asked["version"], asked["locked"]) == ("lab", 3, True)


def test_workers_share_one_server_and_the_report_names_it(server: Serving, project: Project) -> None:
    project.trains_with("numpy")
    result = project.run(server.environment(), "-n", "2")
    names_the_server(project, server, result, rows=2)


def test_run_that_is_resumed_is_witnessed_as_one(server: Serving, project: Project) -> None:
    """Its first process ended after one row; the server took the same plan again, and its tally has the rounds of both."""
    project.trains_with("numpy")
    (project.path / "test_rows.py").write_text(ROWS + FAILS_ONCE)
    stopped = project.run(server.environment(), "-x")
    assert stopped.ret == 1
    (path,) = project.reports()
    first = json.loads(path.read_text())
    (project.path / "was run").touch()
    resumed = project.run(server.environment(), "--glasshouse-resume", first["runId"])
    (tally,) = json.loads(path.read_text())["tallies"]
    assert (len(first["rows"]), len(first["tallies"][0]["counted"]["begun"]), len(tally["counted"]["begun"])) == (1, 1, 2)
    assert first["tallies"][0]["counted"]["rows"] == tally["counted"]["rows"]
    names_the_server(project, server, resumed, rows=2)


def refused(project: Project, environment: Mapping[str, str]) -> str:
    result = project.run(environment)
    assert result.ret == 4, f"{result.stdout}\n{result.stderr}"
    assert project.reports() == []
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    return line


def test_an_unreachable_server_is_an_error_of_one_line_before_anything_starts(server: Serving, project: Project) -> None:
    server.end()
    message = refused(project, server.environment())
    assert server.url in message
    assert "glasshouse serve" in message


def test_another_servers_key_is_refused_before_anything_starts(server: Serving, project: Project) -> None:
    """Another process on the port must not receive a data key."""
    message = refused(project, {**server.environment(), "GLASSHOUSE_SERVER_KEY": Owner.generate().public_text})
    assert "another server's" in message


def test_a_server_of_another_owner_is_refused_before_anything_starts(server: Serving, project: Project, tmp_path: Path) -> None:
    write_owner(tmp_path / "other.key", Owner.generate())
    message = refused(project, {**server.environment(), "GLASSHOUSE_OWNER_KEY": str(tmp_path / "other.key")})
    assert server.owner.kid in message
