"""`redact` signs only what this account's run made, and writes only where the user named: a directory may have any origin."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import ConfigurationError, RedactionError
from pytest_glasshouse.publish.republish import republish
from pytest_glasshouse.publish.writer import PublishedFiles, publish
from pytest_glasshouse.report.run_directory import ForeignError, TaggedLines
from pytest_glasshouse.report.run_key import SECRET, TagKey, run_key, state_directory
from tests.unit.report import example

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE = "203.0.113.7:22117"


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run directory whose report was stopped."""
    record = example.lost()
    record["record"]["reason"] = f"no answer from {SAMPLE}"
    with pytest.raises(RedactionError):
        publish(
            example.document(example.measured(), record), report=tmp_path / "r.json", run_directory=tmp_path / "run",
            key=example.KEYS.report, derivation=example.EXAMPLE,
        )  # fmt: skip
    return tmp_path / "run"


def again(run: Path, **given: Any) -> PublishedFiles:
    return republish(run, **{"key_of": lambda _: example.KEYS.report, "derivation": example.EXAMPLE, **given})


def _why(run: Path, **changes: Any) -> None:
    path = run / "quarantine" / "why.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def _better(run: Path) -> None:
    path = run / "quarantine" / "report.json"
    document = json.loads(path.read_text("utf-8"))
    document["rows"][0]["overheadPct"] = -40.0
    path.write_text(json.dumps(document), "utf-8")


def _linked(run: Path) -> None:
    path = run / "quarantine" / "report.json"
    path.replace(run.parent / "moved")
    path.symlink_to(run.parent / "moved")


def _folder_linked(run: Path) -> None:
    (run / "quarantine").replace(run.parent / "moved")
    (run / "quarantine").symlink_to(run.parent / "moved")


def _pipe(run: Path) -> None:
    (run / "quarantine" / "why.json").unlink()
    os.mkfifo(run / "quarantine" / "why.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda run: _why(run, report=str(run.parent / "victim.json")),
        lambda run: _why(run, hits=[]),
        lambda run: _why(run, runId="../../elsewhere"),
        lambda run: _why(run, tag="0" * 64),
        _better,
        _linked,
        _folder_linked,
        _pipe,
        lambda run: run.chmod(0o755),
    ],
    ids=["target", "hits", "run id", "tag", "figures", "link", "linked folder", "pipe", "open to others"],
)
def test_directory_that_was_changed_is_not_published(stopped: Path, change: Callable[[Path], None]) -> None:
    victim = stopped.parent / "victim.json"
    victim.write_text("precious", "utf-8")
    change(stopped)

    with pytest.raises(ConfigurationError) as caught:
        again(stopped)

    assert "\n" not in str(caught.value)
    assert victim.read_text("utf-8") == "precious"
    assert not (stopped.parent / "r.json").exists()


def test_directory_of_another_run_or_account_is_not_published(stopped: Path) -> None:
    with pytest.raises(ConfigurationError, match="was not written by a run of this account"):
        again(stopped, key_of=lambda _: Ed25519PrivateKey.generate())


def test_directory_that_was_moved_is_published_where_the_user_says(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = stopped.rename(tmp_path / "elsewhere" / "run")
    with pytest.raises(ConfigurationError, match="name a file with --report"):
        again(moved)
    assert again(moved, report=tmp_path / "mine.json").report.is_file()


def test_report_of_a_later_run_is_not_written_over(stopped: Path) -> None:
    """A fixed path in CI: the run after this one has published there meanwhile."""
    later = example.document(run_id="20261121-170000-aaaa")
    (stopped.parent / "r.json").write_text(json.dumps(later), "utf-8")
    with pytest.raises(ConfigurationError, match="not this run's"):
        again(stopped)
    assert json.loads((stopped.parent / "r.json").read_text("utf-8")) == later


def test_key_of_a_run_is_derived_again_only_by_its_account(tmp_path: Path) -> None:
    def public(home: str, run_id: str) -> bytes:
        return run_key({"HOME": str(tmp_path / home)}, run_id).public_key().public_bytes_raw()

    assert public("ada", "run-1") == public("ada", "run-1")
    assert len({public("ada", "run-1"), public("ada", "run-2"), public("bob", "run-1")}) == 3
    secret = tmp_path / "ada" / ".local" / "state" / "glasshouse" / SECRET
    assert (secret.stat().st_mode & 0o777, secret.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("spoil", ["mode", "directory", "short", "link"])
def test_secret_that_others_can_read_is_refused(tmp_path: Path, spoil: str) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    run_key(environ, "run")
    secret = tmp_path / "glasshouse" / SECRET
    if spoil == "mode":
        secret.chmod(0o644)
    elif spoil == "directory":
        secret.parent.chmod(0o777)
    elif spoil == "short":
        secret.write_bytes(b"short")
    else:
        secret.rename(tmp_path / "moved")
        secret.symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigurationError) as caught:
        run_key(environ, "run")
    assert str(tmp_path) in str(caught.value)


def test_account_that_cannot_store_a_secret_still_signs(tmp_path: Path) -> None:
    """Its runs cannot be resumed: they cannot be distinguished from another account's."""
    (tmp_path / "file").write_bytes(b"")
    environ = {"HOME": str(tmp_path / "file")}
    assert run_key(environ, "run").public_key() != run_key(environ, "run").public_key()
    assert state_directory({"XDG_STATE_HOME": "relative", "HOME": "/x"}) == Path("/x/.local/state/glasshouse")


def test_tag_is_of_one_file_one_place_and_one_run() -> None:
    proof, other = TagKey(example.KEYS.report, "run-1"), TagKey(example.KEYS.report, "run-2")
    tag = proof.tag("rows", b"line", after="before")
    assert proof.holds(tag, "rows", b"line", after="before")
    for held in (
        proof.holds(tag, "rows", b"line"),
        proof.holds(tag, "plan", b"line", after="before"),
        proof.holds(tag, "rows", b"lines", after="before"),
        other.holds(tag, "rows", b"line", after="before"),
        proof.holds(None, "rows", b"line", after="before"),
        proof.holds("ü" * 64, "rows", b"line", after="before"),
    ):
        assert not held


@pytest.mark.parametrize("name", ["r.json", "r.glasshouse.zip"])
def test_planted_link_beside_the_directory_is_not_followed(stopped: Path, tmp_path: Path, name: str) -> None:
    """The user did not name its target, and no run's report needs to be there: the target may not exist yet."""
    (tmp_path / "elsewhere").mkdir()
    (stopped.parent / name).symlink_to(tmp_path / "elsewhere" / "victim")

    with pytest.raises(ConfigurationError, match="name a file with --report"):
        again(stopped)

    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("bomb", [b"[" + b"{}," * 3_000_000 + b"{}]", b'{"runId":' + b"[" * 1_000_000], ids=["wide", "deep"])
def test_oversized_run_directory_is_refused_before_it_is_parsed(stopped: Path, bomb: bytes) -> None:
    (stopped / "quarantine" / "why.json").write_bytes(bomb)

    tracemalloc.start()
    try:
        with pytest.raises(ConfigurationError, match="was not written by a run of this account"):
            again(stopped)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(bomb)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("line", [b"[" + b"{}," * 2_000_000 + b"{}]", b'{"a": 1}', b'{"a": NaN}', b'{"a": 1, "a": 2}'])
def test_line_with_another_tag_is_refused_and_an_incomplete_one_skipped(tmp_path: Path, line: bytes) -> None:
    lines = TaggedLines(tmp_path / "rows.jsonl", TagKey(example.KEYS.report, "run-1"))
    lines.append({"seen": float("nan")})
    whole = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(whole + whole[:-5] + b"\n")
    assert len(lines.read()) == 1

    (tmp_path / "rows.jsonl").write_bytes(whole + line + b"\n")
    with pytest.raises(ForeignError, match="line 2"):
        lines.read()
