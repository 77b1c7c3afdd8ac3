"""`glasshouse register` and `outstanding` against a real `glasshouse serve`: the package's own key comes out of it again."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.owner.policy import Policy, Recorded
from pytest_glasshouse.owner.sealing import SealedPackage
from pytest_glasshouse.tamper.testbed import COMPONENTS, CONTAINER, SUB
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.package import parse_header
from pytest_glasshouse.wire.secret import Secret
from tests.limits import until
from tests.service.serving import ServedTestbed, Serving, serving

POLICY = Policy(
    name="by hand", version=1, components={name: Recorded() for name in COMPONENTS}, container=CONTAINER, completion_s=1
)


def run(*arguments: str | Path) -> int:
    try:
        return main([str(each) for each in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(name="server")
def a_server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture(name="arguments")
def server_arguments(server: Serving) -> list[str | Path]:
    return ["--server", server.url, "--server-key", server.state / "server.pub", "--owner", server.owner_key]


@pytest.fixture(name="package")
def a_package(server: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Sealed and described by hand."""
    (tmp_path / "train.txt").write_bytes(b"every good boy does fine " * 40)
    (tmp_path / "policy.json").write_text(json.dumps(POLICY.to_json()))
    assert run("seal", tmp_path / "train.txt", "--owner", server.owner_key, "--out", tmp_path / "package") == 0
    capsys.readouterr()
    return tmp_path / "package"


def released(server: Serving, package: Path) -> tuple[bytes, bytes]:
    """The key a guest gets under a grant for the package, and the key that is kept beside it."""
    manifest = package.with_name("package.manifest").read_text().strip()
    digest = sha256_hex(manifest.encode())
    data_key = server.owner.open_data_key(package.with_name("package.key").read_bytes(), manifest_sha256=digest)
    with ServedTestbed(server) as testbed:
        content = package.read_bytes()
        testbed.sealed = SealedPackage(
            package=content, manifest=manifest, manifest_sha256=digest, header_sha256=parse_header(content).sha256,
            data_key=data_key, canary=Secret(b"not known here"),
        )  # fmt: skip
        testbed.policy = POLICY
        testbed.enrol(f"{SUB}/by-hand", grant=testbed.grant(f"{SUB}/by-hand"))
        attempt = testbed.attempt(f"{SUB}/by-hand")
        key = attempt.unseal(attempt.release())
        return bytes(key.view), data_key.reveal()


def test_a_registered_package_gives_its_key_to_a_guest_with_good_evidence(
    server: Serving, package: Path, arguments: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    register: list[Any] = ["register", package, "--policy", package.with_name("policy.json"), *arguments]
    assert run(*register) == 0
    output = capsys.readouterr().out
    assert POLICY.sha256 in output
    key, data_key = released(server, package)
    assert key == data_key
    assert run(*register) == 0  # again is as good as once
    server.end(signal.SIGKILL)
    server.start()
    assert run(*register) == 0  # and needed after a restart


def test_a_release_without_an_end_is_listed_open_then_overdue(
    server: Serving, package: Path, arguments: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("outstanding", *arguments) == 0
    assert run("register", package, "--policy", package.with_name("policy.json"), *arguments) == 0
    released(server, package)
    capsys.readouterr()

    def is_overdue() -> bool:
        code = run("outstanding", "--run-id", "run-1", *arguments)
        assert ("open " if code == 0 else "overdue  due 20") in capsys.readouterr().out
        return code != 0

    until(is_overdue, "that the release is overdue")
    assert run("outstanding", "--run-id", "run-2", *arguments) == 0
    assert capsys.readouterr().out == "0 outstanding, 0 overdue\n"
    # While the server runs the ledger is its own; when it is down the same is read from there.
    assert run("outstanding", "--state", server.state) == 4
    server.end()
    assert run("outstanding", "--state", server.state) == 1
    assert capsys.readouterr().out.endswith("1 outstanding, 1 overdue\n")
    assert run("outstanding", *arguments) == 4


def test_package_and_manifest_that_do_not_match_are_not_registered(
    server: Serving, package: Path, arguments: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong file costs an error in one line, and neither server nor terminal ever sees a key."""
    folder, policy = package.parent, package.with_name("policy.json")
    other = folder / "other"
    assert run("seal", folder / "train.txt", "--owner", server.owner_key, "--out", other) == 0
    (folder / "mixed").write_bytes(package.read_bytes())
    (folder / "mixed.manifest").write_bytes((folder / "other.manifest").read_bytes())
    (folder / "mixed.key").write_bytes((folder / "other.key").read_bytes())
    assert run("register", folder / "mixed", "--policy", policy, *arguments) == 4
    (folder / "mixed.manifest").write_bytes((folder / "package.manifest").read_bytes())
    assert run("register", folder / "mixed", "--policy", policy, *arguments) == 1  # the key of another package
    assert run("register", policy, "--policy", policy, *arguments) == 4
    assert run("register", folder / "none", "--policy", policy, *arguments) == 4
    assert run("register", package, "--policy", package, *arguments) == 4
    assert run("register", package, "--policy", policy) == 4
    newer, older = folder / "newer.json", folder / "older.json"
    newer.write_text(json.dumps({**POLICY.to_json(), "version": 3}))
    older.write_text(json.dumps({**POLICY.to_json(), "version": 2}))
    assert run("register", other, "--policy", newer, *arguments) == 0
    capsys.readouterr()
    assert run("register", package, "--policy", older, *arguments) == 1
    assert "policy-rollback" in capsys.readouterr().err
