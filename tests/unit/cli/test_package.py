"""`glasshouse keygen`, `seal`, `inspect` and `policy`: files in, files and lines out, no secret shown."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path

import pytest

import pytest_glasshouse
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.guest.opener import open_package
from pytest_glasshouse.owner.keyfiles import read_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.policy import Policy, Required
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.owner.sealing import read_manifest
from pytest_glasshouse.wire.canonical import sha256_hex


def run(*arguments: str | Path) -> int:
    try:
        return main([str(each) for each in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(name="folder")
def a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """An owner's key, two files and a package of them."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_bytes(b"every good boy does fine " * 40)
    (data / "config.json").write_bytes(b'{"layers":2}')
    assert run("keygen", tmp_path / "owner.key") == 0
    assert run("seal", data, "--owner", tmp_path / "owner.key", "--out", tmp_path / "package") == 0
    capsys.readouterr()
    return tmp_path


def test_what_was_sealed_opens_with_the_owners_key(folder: Path) -> None:
    owner = read_owner(folder / "owner.key", what="x")
    manifest = (folder / "package.manifest").read_text().strip()
    key = owner.open_data_key((folder / "package.key").read_bytes(), manifest_sha256=sha256_hex(manifest.encode()))
    claims = read_manifest(manifest, owner=owner.public)
    secret = LockedSecret.take(key.reveal())
    opened = open_package((folder / "package").read_bytes(), secret, claims)
    assert bytes(opened.parts["train.txt"]) == (folder / "data" / "train.txt").read_bytes()
    assert bytes(opened.parts["config.json"]) == b'{"layers":2}'
    opened.close()


def test_the_files_are_for_their_owner_and_hold_no_key(folder: Path) -> None:
    owner = read_owner(folder / "owner.key", what="x")
    manifest = (folder / "package.manifest").read_text().strip()
    key = owner.open_data_key((folder / "package.key").read_bytes(), manifest_sha256=sha256_hex(manifest.encode())).reveal()
    for name in ("package", "package.manifest", "package.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert key not in (folder / name).read_bytes()


def test_inspect_shows_parts_and_verifies_with_the_owners_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", folder / "package", "--owner", folder / "owner.key.pub") == 0
    output = capsys.readouterr().out
    assert "train.txt    1000 bytes" in output
    assert "signed by " in output
    assert "not verified" not in output
    assert run("inspect", folder / "package.manifest", "--owner", folder / "owner.key.pub") == 0


def test_inspect_without_a_key_verifies_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", folder / "package.manifest") == 0
    assert "not verified" in capsys.readouterr().out
    (folder / "package.manifest").unlink()
    assert run("inspect", folder / "package") == 0
    assert "nothing shows which owner sealed" in capsys.readouterr().out


def test_inspect_refuses_what_the_owner_did_not_sign_and_shows_nothing_of_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_owner = Owner.generate().public_text
    assert run("inspect", folder / "package", "--owner", other_owner) == 1
    output = capsys.readouterr()
    assert (output.out, "refused" in output.err) == ("", True)


def test_public_key_that_begins_with_a_dash_is_a_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One in 64 does. It was taken for an option, and the command for a wrong one."""
    dashed = next(key for _ in iter(int, 1) if (key := Owner.generate().public_text).startswith("-"))
    assert run("inspect", folder / "package", "--owner", dashed) == 1
    assert "refused" in capsys.readouterr().err
    assert run("inspect", folder / "package", dashed) == 4  # an argument of its own it is not


@pytest.mark.parametrize("place", [11, -1])
def test_inspect_refuses_a_package_that_is_not_the_manifests(
    folder: Path, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((folder / "package").read_bytes())
    if place > 0:  # a digit of the package's name in its header
        at = content.index(b'"package":"') + place
        content[at] = ord("0") if content[at] != ord("0") else ord("1")
    else:
        content += b"x"
    (folder / "package").write_bytes(content)
    assert run("inspect", folder / "package", "--owner", folder / "owner.key.pub") == 1
    assert capsys.readouterr().out == ""


def test_inspect_lets_no_control_character_through(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest is untrusted text on a user's terminal."""
    owner = read_owner(folder / "owner.key", what="x")
    claims = read_manifest((folder / "package.manifest").read_text().strip(), owner=owner.public)
    (folder / "evil").write_text(owner.sign_manifest({**claims, "workload": {"name": "\x1b[2J\x9b2J\u202e"}}))
    assert run("inspect", folder / "evil", "--owner", owner.public_text) == 0
    output = capsys.readouterr().out
    assert all(each.isprintable() or each == "\n" for each in output)


def test_a_policy_is_captured_shown_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "one.json", tmp_path / "two.json"
    assert run("policy", "capture", "--container", "image-1", "--out", first) == 0
    assert run("policy", "capture", "--container", "image-2", "--name", "image-1", "--version", "2", "--out", second) == 0
    policy = Policy.from_json(json.loads(first.read_text()))
    assert policy.components["archive"] == Required(sha256=sha256_hex(guest_archive()))
    assert (policy.name, policy.version, policy.container) == ("image-1", 1, "image-1")
    assert policy.sha256 in capsys.readouterr().err
    assert run("policy", "show", first) == 0
    assert f"component archive: must be {sha256_hex(guest_archive())}" in capsys.readouterr().out
    assert run("policy", "diff", first, first) == 0
    assert run("policy", "diff", first, second) == 1
    output = capsys.readouterr().out
    assert output.endswith("container: image-1 -> image-2\nversion: 1 -> 2\n")


def test_a_captured_policy_can_ask_for_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = sha256_hex(b"torch as it should be")
    (tmp_path / "hardware.json").write_text('{"required":["nvidia-gpu"]}')
    more: list[str | Path] = ["--require-locked", "--hardware", tmp_path / "hardware.json", "--require", f"torch={digest}"]
    assert run("policy", "capture", "--container", "c", "--out", tmp_path / "policy.json", *more) == 0
    policy = Policy.from_json(json.loads((tmp_path / "policy.json").read_text()))
    assert (policy.locked, policy.hardware, policy.components["torch"]) == (
        True, Hardware(required=("nvidia-gpu",)), Required(sha256=digest),
    )  # fmt: skip
    assert run("policy", "show", tmp_path / "policy.json") == 0
    output = capsys.readouterr().out
    assert "hardware required: nvidia-gpu" in output
    assert "locked: true" in output


def test_a_wheel_of_the_same_code_gives_the_same_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(pytest_glasshouse.__file__).parent
    with zipfile.ZipFile(tmp_path / "it.whl", "w") as wheel:
        for path in sorted(root.rglob("*.py")):
            wheel.write(path, f"pytest_glasshouse/{path.relative_to(root)}")
        for path in sorted(each for room in ("agent", "guest", "wire", "workloads") for each in (root / room).rglob("*")):
            if path.is_file() and path.suffix not in {".py", ".pyc"}:
                wheel.write(path, f"pytest_glasshouse/{path.relative_to(root)}")
    assert run("policy", "capture", "--container", "c") == 0
    installed = capsys.readouterr().out
    assert run("policy", "capture", "--container", "c", "--wheel", tmp_path / "it.whl") == 0
    assert capsys.readouterr().out == installed


@pytest.mark.parametrize(
    "arguments",
    [
        ("keygen",),
        ("keygen", "owner.key"),
        ("seal", "data", "--owner", "owner.key"),
        ("seal", "data", "--owner", "owner.key.pub", "--out", "new"),
        ("seal", "data", "--owner", "none.key", "--out", "new"),
        ("seal", "data", "--owner", "owner.key", "--out", "package"),
        ("seal", "empty", "--owner", "owner.key", "--out", "new"),
        ("seal", "none", "--owner", "owner.key", "--out", "new"),
        ("seal", "BAD", "--owner", "owner.key", "--out", "new"),
        ("seal", "data/train.txt", "data/train.txt", "--owner", "owner.key", "--out", "new"),
        ("inspect", "none"),
        ("inspect", "data/train.txt"),
        ("inspect", "package", "--owner", "owner.key"),
        ("inspect", "package", "--owner", "no key"),
        ("inspect", "package.manifest", "--manifest", "package.manifest"),
        ("policy",),
        ("policy", "capture"),
        ("policy", "capture", "--container", "c", "--version", "0"),
        ("policy", "capture", "--container", "c", "--wheel", "package"),
        ("policy", "capture", "--container", "c", "--require", "torch=short"),
        ("policy", "capture", "--container", "c", "--require", "archive=" + "0" * 64),
        ("policy", "capture", "--container", "c", "--require", "moon=" + "0" * 64),
        ("policy", "capture", "--container", "c", "--hardware", "none"),
        ("policy", "capture", "--container", "c", "--hardware", "package"),
        ("register", "package", "--policy", "none"),
        ("register", "package"),
        ("outstanding",),
        ("outstanding", "--state", "none"),
        ("outstanding", "--state", "none", "--server", "http://127.0.0.1:1"),
        ("policy", "show", "none"),
        ("policy", "show", "package"),
        ("policy", "diff", "none", "none"),
        ("serve",),
        ("serve", "--owner", "no key"),
        ("serve", "--owner", "owner.key"),
        ("serve", "--owner", "owner.key.pub", "--port", "-1"),
        ("serve", "--owner", "owner.key.pub", "--listen", "0.0.0.0"),  # noqa: S104
        ("serve", "--owner", "owner.key.pub", "--listen", "::"),
        ("serve", "--owner", "owner.key.pub", "--listen", "example.org"),
        ("serve", "--owner", "owner.key.pub", "--rate", "-1"),
        ("serve", "--owner", "owner.key.pub", "--connections", "0"),
        ("serve", "--owner", "owner.key.pub", "--certificate", "package"),
        ("serve", "--owner", "owner.key.pub", "--certificate", "none", "--key", "owner.key"),
        ("serve", "--owner", "owner.key.pub", "--certificate", "owner.key", "--key", "owner.key"),
    ],
    ids=" ".join,
)
def test_wrong_command_line_is_one_line_and_exit_4(
    folder: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "BAD").write_text("x")
    before = sorted(folder.rglob("*"))
    assert run(*arguments) == 4
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.strip().splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "command", [("keygen",), ("seal",), ("inspect",), ("serve",), ("policy",), ("policy", "capture")], ids=" ".join
)
def test_help_is_exit_0(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) < 140
