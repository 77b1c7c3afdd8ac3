"""A loopback pod has a disk and processes of its own: what it shares with this machine is named, and ends with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HANG_S, until
from tests.loopback.orders import DAEMON
from tests.loopback.pod_disk import DEVICES, SHARED, Volume, disk
from tests.loopback.pod_rights import need_pods
from tests.loopback.pods import Pod
from tests.ordinary_user import ordinary_user

CHECKOUT = Path(__file__).parents[2]
MakePod = Callable[..., Pod]

#: Runs one expression after another, one JSON line each, and stays.
_ANSWERS = """
import importlib.util, json, os, sys, time
from pathlib import Path
def tried(path):
    try:
        open(path, "ab").close()
    except OSError as error:
        return type(error).__name__ + ": " + error.strerror
    return "written"
def found(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
print(json.dumps([eval(each) for each in sys.argv[1:]]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def make_pod(tmp_path: Path) -> Iterator[MakePod]:
    need_pods()
    pods: list[Pod] = []

    def make(*command: str, restarts: bool = False, **more: Any) -> Pod:
        pods.append(Pod(tmp_path / f"pod{len(pods)}", command or ("sleep", "600"), {}, restarts=restarts, **more))
        until(lambda: pods[-1].first or pods[-1].exited, "the pod's first process")
        return pods[-1]

    yield make
    for pod in pods:
        pod.end()


def _ask(make: MakePod, *expressions: str, **more: Any) -> tuple[Pod, list[Any]]:
    """A pod, and what its Python says to each expression."""
    pod = make("python3", "-I", "-c", _ANSWERS, *expressions, **more)
    until(lambda: pod.logs().endswith("\n") or pod.exited, "what the pod prints")
    answers: list[Any] = json.loads(pod.logs())
    return pod, answers


def test_pod_sees_neither_checkout_nor_home_nor_temporary_files_of_this_machine(make_pod: MakePod, tmp_path: Path) -> None:
    """A guest that is given a path of its host finds nothing there, as on a rented machine."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with tempfile.NamedTemporaryFile() as temporary:
        hidden = [
            CHECKOUT / "pyproject.toml", CHECKOUT / "pytest_glasshouse", CHECKOUT / "tests", CHECKOUT / ".git", Path(temporary.name),
            tmp_path, tmp_path / "model" / "config.json", *Path.home().glob("*"), Path("/etc/hostname"), Path("/etc/shadow"),
        ]  # fmt: skip
        interpreter = [Path(bind[0]) for bind in disk()["binds"]]
        hidden = [path for path in hidden if path.exists() and not any(one.is_relative_to(path) for one in interpreter)]
        assert len(hidden) >= 7
        _, (seen,) = _ask(make_pod, f"[path for path in {[str(path) for path in hidden]!r} if os.path.lexists(path)]")
    assert seen == []


def test_pod_has_only_the_mounts_that_are_named_and_they_are_read_only(make_pod: MakePod) -> None:
    """Whoever shares more with a pod names it in `pod_disk.py`, with the reason."""
    volume = Volume(host=CHECKOUT / "docs", inside="/mnt/docs", why="this test")
    _, (table,) = _ask(make_pod, "Path('/proc/self/mounts').read_text()", volumes=[volume])
    mounts = {line.split()[1]: (line.split()[2], line.split()[3].split(",")) for line in table.splitlines()}
    writable = {path for path, (_, options) in mounts.items() if "rw" in options}
    # A device is written to whatever its mount says. Nothing else of this machine is writable.
    assert writable == {"/", "/proc", *DEVICES}
    assert (mounts["/"][0], mounts["/proc"][0]) == ("tmpfs", "proc")
    below = {path: next((s for s in (*SHARED, volume.inside) if Path(path).is_relative_to(s)), None) for path in mounts}
    named = {bind[1] for bind in disk([volume])["binds"]}
    assert {path for path in mounts if path not in named and below[path] is None} == {"/", "/proc"}
    assert named <= set(mounts)


def test_pods_python_has_its_packages_and_not_the_product(make_pod: MakePod) -> None:
    """The installation of the checkout would find its source there. A guest gets the product as an archive, by SSH."""
    find = "found('{0}')"
    _, answers = _ask(
        make_pod, find.format("numpy"), find.format("pytest_glasshouse.agent"), find.format("tests"), "sys.executable"
    )
    assert answers == [True, False, False, str(Path(sys.executable).with_name("python3"))]


def test_pod_cannot_write_what_it_shares(make_pod: MakePod) -> None:
    shared = [bind[1] for bind in disk()["binds"] if bind[1] not in DEVICES and not bind[1].startswith("/sys/")]
    files = [path if Path(path).is_file() else f"{path}/written-by-a-pod" for path in shared]
    _, (answers,) = _ask(make_pod, f"[tried(path) for path in {files!r}]")
    # An ordinary user is refused what is another's before the disk is asked.
    assert set(answers) <= {"OSError: Read-only file system", "PermissionError: Permission denied"}
    assert "OSError: Read-only file system" in answers
    assert not [path for path in files if path.endswith("written-by-a-pod") and Path(path).exists()]


def test_what_a_pod_writes_is_seen_by_itself_alone(make_pod: MakePod, tmp_path: Path) -> None:
    places = ["/tmp/mine", "/workspace/mine", "/run/mine", "/var/tmp/mine", f"{tmp_path}/mine", str(Path.home() / "mine")]
    write = f"[Path(path).parent.mkdir(parents=True, exist_ok=True) or tried(path) for path in {places!r}]"
    look = f"[path for path in {places!r} if os.path.exists(path)]"
    writer, (written, found) = _ask(make_pod, write, look)
    assert (written, found) == (["written"] * len(places), places)
    assert [path for path in places if Path(path).exists()] == []
    assert list((writer.folder / "root").iterdir()) == []
    _, (found,) = _ask(make_pod, look)
    assert found == []
    # The tests themselves look into a pod by way of its first process.
    assert (writer.disk / "tmp" / "mine").exists()


def test_pod_sees_no_process_but_its_own(make_pod: MakePod) -> None:
    other = make_pod()
    pod, (pids, number) = _ask(make_pod, "[name for name in os.listdir('/proc') if name.isdigit()]", "os.getpid()")
    assert (pids, number) == (["1"], 1)
    assert (pod.processes(), other.processes()) == ((pod.first,), (other.first,))


def test_disk_of_a_pod_has_an_end(make_pod: MakePod) -> None:
    """It lies in the memory of this machine: a guest that writes for ever must not take all of it."""
    _, ((blocks, files),) = _ask(make_pod, "(lambda s: [s.f_blocks * s.f_frsize, s.f_files])(os.statvfs('/tmp'))")
    assert (blocks, files) == (1 << 30, 100 << 10)


def test_volume_is_seen_where_the_test_says_and_written_only_if_it_says_so(make_pod: MakePod, tmp_path: Path) -> None:
    for name in ("given", "open"):
        (tmp_path / name).mkdir()
    (tmp_path / "given" / "model").write_text("weights")
    volumes = [
        Volume(host=tmp_path / "given", inside="/mnt/given", why="to be read"),
        Volume(host=tmp_path / "given" / "model", inside="/opt/one-file", why="a file is one too"),
        Volume(host=tmp_path / "open", inside="/mnt/open", why="to be written", writable=True),
    ]
    _, answers = _ask(
        make_pod, "Path('/mnt/given/model').read_text()", "Path('/opt/one-file').read_text()", "tried('/mnt/given/more')",
        "tried('/mnt/open/more')", f"os.path.exists({str(tmp_path)!r})", volumes=volumes,
    )  # fmt: skip
    assert answers == ["weights", "weights", "OSError: Read-only file system", "written", False]
    assert [path.name for path in (tmp_path / "open").iterdir()] == ["more"]


def test_nothing_of_a_pod_is_mounted_here_while_it_runs_or_when_it_has_ended(make_pod: MakePod) -> None:
    def here() -> str:
        return Path("/proc/self/mountinfo").read_text()

    def seen_by() -> set[int]:
        """Who has the pod's mounts."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*/ns/mnt"):
            try:
                found |= {int(entry.parts[2])} if entry.stat().st_ino == namespace else set()
            except OSError:
                continue
        return found

    before = here()
    pod = make_pod("sh", "-c", "sleep 600 & sleep 600")
    namespace = Path(f"/proc/{pod.first}/ns/mnt").stat().st_ino
    assert (here(), pod.first in seen_by()) == (before, True)
    until(lambda: len(pod.processes()) == 3, "the pod's processes")
    assert seen_by() == set(pod.processes())
    pod.end()
    assert (here(), seen_by(), pod.processes()) == (before, set(), ())
    assert not pod.disk.exists()


def test_pod_ends_with_its_supervisor_daemons_included(make_pod: MakePod) -> None:
    pod = make_pod("python3", "-c", DAEMON)
    until(lambda: len(pod.processes()) >= 2, "the daemonised process")
    pod._process.kill()
    until(lambda: not pod.processes(), "the end of the pod's processes")


def test_container_that_starts_again_has_an_empty_disk_and_another_first_process(make_pod: MakePod) -> None:
    pod = make_pod("sh", "-c", "ls -A /tmp /workspace ~; touch /tmp/left ~/left left; echo started; read x", restarts=True)
    until(lambda: pod.logs().count("started") >= 2, "a second start")
    assert "left" not in pod.logs()


def test_pod_that_cannot_be_made_says_what_was_refused(make_pod: MakePod, tmp_path: Path) -> None:
    pod = make_pod(volumes=[Volume(host=tmp_path / "gone", inside="/mnt/gone", why="this test")])
    assert (pod.wait(), pod.first, pod.processes()) == (127, 0, ())
    assert "gone: No such file or directory" in (pod.folder / "failed").read_text()


def test_machine_without_namespaces_fails_in_ci_and_skips_elsewhere() -> None:
    """A suite that leaves these tests out in CI would show nothing."""
    refused = "clone: Operation not permitted"
    with pytest.raises(pytest.fail.Exception, match=r"as root CAP_SYS_ADMIN .* saw: clone: Operation not permitted"):
        need_pods(refused, ci=True)
    with pytest.raises(pytest.skip.Exception, match="apparmor_restrict_unprivileged_userns=0"):
        need_pods(refused, ci=False)
    need_pods("", ci=True)


_AS_USER = """
import sys
from pathlib import Path
from tests.loopback.pods import Pod
pod = Pod(Path("pod"), ["sh", "-c", "id -u; test -w /workspace; echo $?; cat /proc/self/uid_map; ls -A / /tmp ~"], {}, restarts=False)
code = pod.wait()
print(code, pod.logs(), (pod.folder / "failed").exists() and (pod.folder / "failed").read_text())
pod.end()
"""


def test_pod_of_an_ordinary_user_is_the_same() -> None:
    """Without any right of root: in a user namespace, where the user's ids are the only ones."""
    need_pods()
    with ordinary_user() as folder:
        for path in ("tests/loopback/pods.py", "tests/loopback/pod_disk.py", "tests/loopback/pod_init.py", "tests/limits.py"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / path, folder / path)
        # The interpreter of the tests may lie in root's home.
        python = next(each for each in (sys.executable, "/usr/bin/python3") if os.access(each, os.X_OK, effective_ids=True))
        done = subprocess.run(
            [python, "-c", _AS_USER], cwd=folder, capture_output=True, text=True, timeout=HANG_S, check=False,
            env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        user = os.geteuid()
    assert (done.returncode, done.stdout.split()[:6]) == (0, ["0", str(user), "0", str(user), str(user), "1"]), done
