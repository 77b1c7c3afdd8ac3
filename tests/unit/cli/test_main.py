"""The `glasshouse` command: its answers are exit codes, its refusals one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pytest_glasshouse.check import recompute
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.errors import RedactionError
from pytest_glasshouse.publish.writer import publish
from tests.limits import HANG_S
from tests.unit.report import example


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published example report; the project's derivation is the example's."""
    monkeypatch.setattr(recompute.Derivation, "rounds", lambda _, seen: example.results(seen))
    monkeypatch.setattr(recompute.Derivation, "findings", lambda _, seen: example.judge(seen))
    monkeypatch.setattr(recompute.Derivation, "malformed", lambda _, document: iter(()))
    monkeypatch.setattr(recompute.Derivation, "binding_faults", lambda _, document: iter(()))
    document = example.document()
    return publish(
        document,
        report=tmp_path / "reports" / "run.json",
        run_directory=tmp_path / "run",
        key=example.KEYS.report,
        derivation=example.EXAMPLE,
    ).report


@pytest.fixture
def trusted(tmp_path: Path) -> list[str]:
    """`--trust` for every party of the example run."""
    path = tmp_path / "keys.pub"
    document = example.document()
    keys = [document["keys"]["report"], *document["keys"]["servers"], *document["keys"]["owners"]]
    path.write_text("# the example's keys\n" + "\n".join(keys) + "\n", encoding="utf-8")
    return ["--trust", str(path)]


def exit_code_of(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_sound_report_passes_and_is_not_called_verified(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its keys came with it: it could be anybody's."""
    assert exit_code_of("check", str(report)) == 0

    output = capsys.readouterr().out
    assert "consistent: no fault found" in output
    assert "verified" not in output
    assert "not shown: memory scanned clean" in output


def test_report_with_trusted_keys_is_verified(report: Path, trusted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("check", str(report), *trusted, "--require", "authentic") == 0
    assert "authentic: verified" in capsys.readouterr().out


def test_level_that_is_not_reached_is_exit_1(report: Path, trusted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("check", str(report), *trusted, "--require", "witnessed") == 1
    assert "REFUSED: witnessed was required" in capsys.readouterr().out


def test_witness_is_named_in_the_key_file(report: Path, trusted: list[str], tmp_path: Path) -> None:
    witness = tmp_path / "witness.pub"
    witness.write_text(f"witness {example.document()['keys']['servers'][0]}\n", encoding="utf-8")

    assert exit_code_of("check", str(report), *trusted, "--trust", str(witness), "--require", "witnessed") == 0


def test_faulty_report_is_exit_1_with_the_path_of_every_fault(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(report.read_bytes())
    document["rows"][0]["overheadPct"] = 0.1
    report.write_text(json.dumps(document), encoding="utf-8")

    assert exit_code_of("check", str(report)) == 1

    output = capsys.readouterr().out
    assert "$.rows[0].overheadPct" in output
    assert "$.rows[0].seal" in output
    assert "verified" not in output


def test_bundle_is_checked_too(report: Path) -> None:
    assert exit_code_of("check", str(report.with_name("run.glasshouse.zip"))) == 0


def test_one_faulty_report_among_several_is_exit_1(report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}", encoding="utf-8")

    assert exit_code_of("check", str(report), str(other)) == 1


def test_report_renders_as_markdown(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("render", str(report), "--markdown") == 0
    assert capsys.readouterr().out.startswith("# Glasshouse report 20261120-170000-9f3c")


def test_stopped_run_is_republished(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "key.pem"
    pem.write_bytes(example.KEYS.report.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pem.chmod(0o600)
    monkeypatch.setenv("GLASSHOUSE_SIGNING_KEY", str(pem))
    record = example.lost()
    record["record"]["reason"] = "no answer from 203.0.113.7:22117"
    with pytest.raises(RedactionError):
        publish(
            example.document(record),
            report=tmp_path / "r.json",
            run_directory=tmp_path / "run",
            key=example.KEYS.report,
            derivation=example.EXAMPLE,
        )

    assert exit_code_of("redact", str(tmp_path / "run")) == 0

    assert f"report {tmp_path / 'r.json'}" in capsys.readouterr().out
    assert "203.0.113.7" not in (tmp_path / "r.json").read_text("utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("check",),
        ("check", "none.json"),
        ("check", "none.json", "--require", "certain"),
        ("check", "none.json", "--trust", "none.pub"),
        ("render", "none.json"),
        ("render", "none.json", "--markdown"),
        ("render", "none.json", "--html"),
        ("redact", "none"),
    ],
)
def test_wrong_command_line_is_one_line_and_exit_4(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(*arguments) == 4

    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.strip().splitlines()) == 1


def test_file_that_is_no_report_cannot_be_rendered(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("{}", encoding="utf-8")

    assert exit_code_of("render", str(path), "--markdown") == 4


def test_pem_of_another_kind_of_key_is_exit_4(report: Path, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    assert exit_code_of("check", str(report), "--trust", str(path)) == 4


@pytest.mark.parametrize("content", ["", "# nothing\n", "not a key\n", "a b c\n", "-----BEGIN PUBLIC KEY-----\nx\n"])
def test_key_file_without_a_key_is_exit_4(report: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.pub"
    path.write_text(content, encoding="utf-8")

    assert exit_code_of("check", str(report), "--trust", str(path)) == 4


def test_key_file_may_be_pem(report: Path, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    public = Ed25519PrivateKey.generate().public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    assert exit_code_of("check", str(report), "--trust", str(path)) == 0
    assert exit_code_of("check", str(report), "--trust", str(path), "--require", "authentic") == 1


@pytest.mark.parametrize(
    "arguments", [("--help",), ("check", "--help"), ("render", "--help"), ("redact", "--help"), ("--version",)]
)
def test_help_is_exit_0(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(*arguments) == 0
    assert capsys.readouterr().out


def test_help_lists_the_exit_codes_and_the_levels(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of("--help")
    exit_code_of("check", "--help")

    output = capsys.readouterr().out
    assert "exit codes: 0 yes; 1 no; 4" in output
    assert all(level in output for level in ("consistent", "authentic", "witnessed"))


def test_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "pytest_glasshouse", "--version"], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("glasshouse ")


def test_command_loads_nothing_heavy() -> None:
    """It has to start where only the core is installed, and at once."""
    code = "import sys; import pytest_glasshouse.cli.main; print([m for m in ('torch','scipy','numpy','pytest') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`$G` is the command."""
    given = {**os.environ, "G": f"{sys.executable} -m pytest_glasshouse", **environment}
    return subprocess.run(["sh", "-c", command], env=given, capture_output=True, check=False, timeout=HANG_S)


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
def test_characters_a_terminal_cannot_show_are_escaped(tmp_path: Path, environment: dict[str, str]) -> None:
    output = shell(f"$G check '{tmp_path}/none-\u00fc\u2603.json'", **environment)
    assert b"Traceback" not in output.stderr
    assert output.stderr.count(b"\n") == 1
    assert output.returncode in (1, 4)


def test_closed_streams_and_a_full_disk_are_no_traceback() -> None:
    assert shell("$G check /nonexistent <&- >&- 2>&-").returncode in (1, 4)
    assert shell("$G completion bash >&-").returncode == 0
    full = shell("$G completion bash >/dev/full")
    assert (full.returncode, full.stderr) == (4, b"glasshouse completion: No space left on device\n")
    assert shell("$G completion bash | true").stderr == b""
