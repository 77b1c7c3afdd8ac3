"""Nothing secret leaves its place in a whole run, and no other process ever holds the data key: looked for from outside.

A real pytest carries out one real row (on the numpy guest, and with torch in `make soak`); its guest's leg waits once, with
the data key in its hands, and its ephemeral keys are drawn from what this test knows too, so that all secrets of the run can
be searched for. They reach this test through a pipe.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pytest_glasshouse.agent.memory_scan import DescriptorMemory, scan
from pytest_glasshouse.attacks.target_guest import children
from pytest_glasshouse.guest.memory import Arena
from pytest_glasshouse.wire.canonical import unb64u
from pytest_glasshouse.wire.fingerprints import Patterns
from tests.limits import HANG_S
from tests.pytest_process import CompiledFiles
from tests.secret_spellings import halves, spellings

_ROW = """
import pytest
from pytest_glasshouse.rows import RowSpec

ROW = RowSpec(name="watched", workload="mlp", gpu="anygpu", order="protected-first", target_s=0.5, warmup_s=0.05)

@pytest.mark.parametrize("row", [ROW])
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
"""
#: The engine of a real run, but for the guest's archive; it sends this test what the owner sealed.
_CONFTEST = """
import base64, json, os
from importlib.resources import files
from pathlib import Path
from pytest_glasshouse.channel.archive import GUEST_MAIN, build_archive
from tests.numpy_guest.archive import numpy_archive_with
from tests.numpy_guest.bytecode import use_kept
from pytest_glasshouse.run.engine import Engine, RowObjects
from pytest_glasshouse.legs.protected import ProtectedRuntime
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.plugin.stash import ENGINE

GENERATE = "PrivateKey.generate()"
HELD = 'self._scan.loaded(key.view, derived, cast("memoryview", opened.parts[CANARY]), searched_weights(opened.parts))'
WAIT = HELD + '''
                from pathlib import Path
                box = Path.cwd().parents[1]
                (box / "holding").touch()
                while not (box / "go").exists():
                    time.sleep(0.005)'''
DRAWN = 'PrivateKey.from_private_bytes(__import__("hashlib").sha256(self._manifest_token.encode() + b"{}").digest())'

class ReportingRuntime(ProtectedRuntime):
    def _seal(self, current):
        sealed = super()._seal(current)
        keys = json.loads(self._host_attestation.owner.to_text().reveal())
        secrets_of_run = {
            "manifest": sealed.manifest, "key": sealed.data_key.reveal().hex(), "canary": sealed.canary.reveal()[:32].hex(),
            "server": self._host_attestation._embedded.server._signing.private_bytes_raw().hex(), **keys,
        }
        os.write(int(os.environ["SECRETS_FD"]), json.dumps(secrets_of_run).encode() + b"\\n")
        return sealed

class WatchedEngine(Engine):
    def broker(self, *given, **named):
        broker = super().broker(*given, **named)
        honest = (files("pytest_glasshouse.guest") / "protected.py").read_text()
        assert honest.count(GENERATE) == 2 and honest.count(HELD) == 1
        held = honest.replace(GENERATE, DRAWN.format("hpke"), 1).replace(GENERATE, DRAWN.format("sig"), 1).replace(HELD, WAIT)
        extra = {"__main__.py": GUEST_MAIN.encode(), "pytest_glasshouse/guest/protected.py": held.encode()}
        kind, build = ("torch", build_archive) if os.environ.get("SOAK") else ("numpy", numpy_archive_with)
        broker._fleet.providers["mock"] = provider = MockProvider(archive=build(extra))
        use_kept(provider, kind, below=Path(os.environ["GUEST_BYTECODE"]))
        return broker

    def row_objects(self, *given):
        stage = super().row_objects(*given)
        return RowObjects(
            allocation=stage.allocation, protected_runtime=ReportingRuntime(stage.protected_runtime._host_attestation), raw_runner=stage.raw_runner
        )

def pytest_configure(config):
    config.stash[ENGINE] = WatchedEngine()
"""
#: How often processes and files are looked at while the run lasts.
_EVERY_S = 0.2

pytestmark = pytest.mark.soak


@dataclass
class Watched:
    """What was to be seen of the run from outside, by place, and who held the data key; `unread` could not be looked into."""

    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    seen: dict[str, bytes] = field(default_factory=dict, repr=False)
    roles: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)
    cores: set[str] = field(default_factory=set)
    code: int = -1
    output: str = ""


def _tree(pid: int) -> list[int]:
    return [pid, *(each for child in children(pid) for each in _tree(child))]


def _arguments(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


#: Processes with one command line, each forked from the one before.
_AGENT = ("launcher of the agent", "agent")
_LAUNCHED = ("parent of the launcher of legs", "launcher of legs", "leader of the leg", "leg")


def _role(pid: int, root: int) -> str:
    """By the command line, which a fork keeps: how many of a process's forebears have it says which it is."""
    if pid == root:
        return "pytest: owner and server"
    for mark, roles in ((b"--control", _LAUNCHED), (b"--allocation", _AGENT)):
        depth, each = 0, pid
        while mark in _arguments(each):
            depth, each = depth + 1, _parent(each)
        if depth:
            return roles[depth - 1] if depth <= len(roles) else f"forked by the {roles[-1]}"
    return "another"


def _look_around(root: int, folder: Path, watched: Watched) -> None:
    for pid in _tree(root):
        for what in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                watched.seen[f"{what} of process {pid}"] = Path(f"/proc/{pid}/{what}").read_bytes()
    # Not `rglob`: directories vanish while this looks.
    for path in (Path(inside) / name for inside, _, names in os.walk(folder) for name in names):
        with contextlib.suppress(OSError):
            if path.is_file():
                found = path.stat()
                name = f"file {path.relative_to(folder)} of {found.st_mtime_ns}"
                if name not in watched.seen:
                    watched.seen[name] = path.read_bytes()


def _who_holds(root: int, secret: bytes, watched: Watched) -> None:
    """Every process of the run, by the scanner that is used on legs."""
    with contextlib.closing(Arena(len(secret))) as room:
        room.view[:] = secret
        patterns = Patterns(bytes(32)).of_windows("data key", room.view)
    for pid in _tree(root):
        role = _role(pid, root)
        watched.roles.add(role)
        limits = Path(f"/proc/{pid}/limits").read_text()
        watched.cores |= {
            role for line in limits.splitlines() if line.startswith("Max core file size") and line.split()[4:6] == ["0", "0"]
        }
        try:
            mem, maps = (os.open(f"/proc/{pid}/{name}", os.O_RDONLY) for name in ("mem", "maps"))
        except OSError:
            watched.unread.add(role)
            continue
        if scan(DescriptorMemory(mem, maps), patterns, bytes(32)).copies:
            watched.held.add(role)
        os.close(mem)
        os.close(maps)


@pytest.fixture(scope="module", name="watched")
def a_watched_run(tmp_path_factory: pytest.TempPathFactory, compiled: CompiledFiles, kept_bytecode: Path) -> Iterator[Watched]:
    folder = Path(tempfile.mkdtemp(prefix="gw-"))  # short: a guest's socket lies below it
    watched, report_key = Watched(), Ed25519PrivateKey.generate()
    pem = tmp_path_factory.mktemp("key") / "report.pem"
    pem.write_bytes(report_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pem.chmod(0o600)
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_rows.py").write_text(_ROW)
    (folder / "tmp").mkdir()
    reading, writing = os.pipe()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GLASSHOUSE", "PYTEST"))},
        **compiled.environment(), "GUEST_BYTECODE": str(kept_bytecode),
        "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder / "tmp"), "SECRETS_FD": str(writing),
        "GLASSHOUSE_SIGNING_KEY": str(pem),
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--glasshouse-provider",
        "mock",
        "--glasshouse-leg-seconds",
        "0.5",
        "--glasshouse-boot-timeout",
        f"{HANG_S:.0f}",
    ]
    with (folder / "output").open("wb") as output:
        run = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output, pass_fds=[writing])
    os.close(writing)
    over = threading.Timer(HANG_S, run.kill)
    over.start()
    try:
        with os.fdopen(reading) as report:
            line = report.readline()
            while line and run.poll() is None:
                _look_around(run.pid, folder, watched)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(timeout=_EVERY_S)
                for held in folder.glob("tmp/*/holding"):
                    _who_holds(run.pid, bytes.fromhex(json.loads(line)["key"]), watched)
                    (held.parent / "go").touch()
                    held.unlink(missing_ok=True)
        watched.code = run.wait()
        _look_around(os.getpid(), folder, watched)
        watched.output = (folder / "output").read_text()
        if not line:
            raise AssertionError(watched.output)
        secrets = json.loads(line)
        manifest = secrets["manifest"].encode()
        watched.secrets = {
            **{name: bytes.fromhex(secrets[name]) for name in ("key", "canary", "server")},
            **{f"owner's {name}": unb64u(secrets[name]) for name in ("signing", "sealing")},
            **{f"leg's {name}": hashlib.sha256(manifest + name.encode()).digest() for name in ("hpke", "sig")},
            "report key": report_key.private_bytes_raw(),
        }
        yield watched
    finally:
        over.cancel()
        run.kill()
        run.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_row_was_carried_out(watched: Watched) -> None:
    """A run that did not happen shows nothing."""
    assert watched.code == 0, watched.output
    assert "report  reports/" in watched.output
    assert any(name.startswith("file reports/") for name in watched.seen)
    assert any("spool.jsonl" in name for name in watched.seen)


@pytest.mark.parametrize("kind", ["cmdline", "environ", "file"])
def test_no_secret_of_the_run_is_found_in_processes_files_and_output(kind: str, watched: Watched) -> None:
    """Process list, environments, and everything the run wrote: spool, logs, output, report, bundle, byte code."""
    places = {name: content for name, content in watched.seen.items() if name.startswith(kind)}
    assert places
    for name, secret in watched.secrets.items():
        wanted = [spelling for part in (secret, *halves(secret)) for spelling in spellings(part)]
        # Compiled code is most of what is written, by far: as bytes and in hex, each half.
        plain = [each for half in halves(secret) for each in (half, half.hex().encode())]
        found = [
            place
            for place, content in places.items()
            if any(each in content for each in (plain if ".pyc of" in place else wanted))
        ]
        assert found == [], f"{name} is in {found}"


def test_the_search_finds_each_secret_where_it_is(watched: Watched) -> None:
    """The positive control."""
    for secret in watched.secrets.values():
        shown = b"x" + base64.b64encode(b"y" + secret)
        assert any(spelling in shown for spelling in spellings(secret))


def test_data_key_is_held_by_the_owner_with_its_server_and_by_the_leg_alone(watched: Watched) -> None:
    """The list of every process of the run, while the leg holds the key."""
    fenced = {*_AGENT, *_LAUNCHED}
    print(f"processes: {sorted(watched.roles)}; held the data key: {sorted(watched.held)}; unread: {sorted(watched.unread)}")  # noqa: T201
    assert watched.roles == {"pytest: owner and server", *fenced}
    # Who may not look (an ordinary user may not) was kept out by the fences, and by nothing else.
    assert watched.unread in (set(), fenced)
    assert watched.held == {"pytest: owner and server", "leg"} - watched.unread
    assert watched.cores >= fenced


_CRASHES = "import os, sys; sys.path.insert(0, sys.argv[1]); from pytest_glasshouse.guest import launcher; {fences}; os.kill(os.getpid(), 11)"


@pytest.mark.parametrize(("fences", "cores"), [("pass", True), ("launcher.harden_process()", False)], ids=["open", "fenced"])
def test_crash_behind_the_fences_leaves_no_core(fences: str, cores: bool, tmp_path: Path) -> None:
    """Whatever is behind a limit of 0 and is non-dumpable; beside it the control, where this machine writes cores at all."""
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|") and cores:
        pytest.skip("this machine hands cores to a program of its own; the fenced process is tried all the same")
    unlimited = resource.getrlimit(resource.RLIMIT_CORE)[1]

    def allow() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (unlimited, unlimited))

    command = [sys.executable, "-c", _CRASHES.format(fences=fences), str(Path(__file__).parents[2])]
    crashed = subprocess.Popen(command, cwd=tmp_path, preexec_fn=allow)  # noqa: PLW1509
    _, status = os.waitpid(crashed.pid, 0)
    crashed.returncode = status
    if cores and not unlimited:
        pytest.skip("this user may leave no core here")
    assert (os.WTERMSIG(status), os.WCOREDUMP(status), any(tmp_path.iterdir())) == (signal.SIGSEGV, cores, cores)
