"""What the host's side of `--provider ssh` is asked over a connection: what there is, create, list, look, end, log.

Sent to the host as text with `host_keeper` and what that imports, and run by the host's own Python: one order as a JSON line on
standard input, one answer on standard output. It keeps nothing: what there is, it reads from directories and from the process
table each time, so that it also shows what a run left behind that is gone.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from pytest_glasshouse.channel.host_keeper import LEASE, LOG, SOCKET
from pytest_glasshouse.channel.host_lock import GpuLock, directory, user_name

#: A directory of an allocation: its end is the allocation's id on this host.
PREFIX = "ghk-"
#: `sun_path` holds 108 bytes; the longest name below is `agent/agent.sock.new`.
_LONGEST = 108 - len("/ghk-12345678/agent/agent.sock.new") - 1
_START_S = 20.0
_END_S = 15.0
_LOG_BYTES = 2000
_CPU = "cpu"


def bases() -> list[str]:
    """Directories where allocations may be, the one for new ones first: TMPDIR of this machine's sessions, where that is set."""
    found = [os.environ["TMPDIR"]] if os.environ.get("TMPDIR") else ["/tmp", "/var/tmp"]  # noqa: S108
    if len(found[0]) > _LONGEST:
        raise ValueError("TMPDIR is too long a path for a unix socket below it")
    return found


def probe() -> dict[str, Any]:
    """This machine: interpreter, GPUs, what runs on them, and who holds their locks."""
    gpus: list[list[str]] = _smi("--query-gpu=index,uuid,name")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    running = [row for row in _smi("--query-compute-apps=gpu_uuid,pid,used_memory") if len(row) == 3]  # noqa: PLR2004
    shown: list[dict[str, Any]] = []
    for row in gpus:
        if len(row) == 3 and _is_visible(row[0], row[1], visible):  # noqa: PLR2004
            others = [{"pid": _whole(each[1]), "mib": _whole(each[2])} for each in running if each[0] == row[1]]
            shown.append({"index": _whole(row[0]), "uuid": row[1], "model": row[2], "others": others})
    locks = {gpu["uuid"]: GpuLock(gpu["uuid"]).holder() for gpu in shown} or {_CPU: GpuLock(_CPU).holder()}
    base = bases()[0]
    return {
        "user": user_name(),
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "torch": _version("torch"),
        "gpus": shown,
        "held": {name: holder for name, holder in locks.items() if holder is not None},
        "free_mb": shutil.disk_usage(base).free >> 20,
        "locks": os.access(directory(), os.W_OK),
        "at": int(time.time()),
    }


def create(order: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    """Start the keeper of one allocation; whether it is ready, or who holds the GPU."""
    root = tempfile.mkdtemp(prefix=PREFIX, dir=bases()[0])
    try:
        with open(os.path.join(root, LEASE), "w", encoding="utf-8") as file:
            json.dump(order, file)
        program = os.path.join(root, "keeper.py")
        with open(program, "w", encoding="utf-8") as file:
            file.write(_PROGRAM.format(sources=sources))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", program, order["name"], root],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None  # noqa: S101
        line = process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process that holds the GPU did not start"}
    except (OSError, ValueError):
        shutil.rmtree(root, ignore_errors=True)
        raise
    if "ready" not in answer:
        shutil.rmtree(root, ignore_errors=True)
        return dict(answer)
    state = look(root)
    if state is not None:
        state["others"] = [use for gpu in probe()["gpus"] if gpu["uuid"] == order["gpu"] for use in gpu["others"]]
    return {"created": os.path.basename(root)[len(PREFIX) :], "state": state}


def allocations() -> list[dict[str, Any]]:
    """Every allocation of this user on this machine, also of what is left of one."""
    found = {root: look(root) for base in bases() for root in glob.glob(os.path.join(glob.escape(base), PREFIX + "*"))}
    for root in {root for root, _ in _processes()} - found.keys():
        found[root] = look(root)
    return [each for each in found.values() if each is not None]


def look(root: str) -> dict[str, Any] | None:
    """The allocation in one directory; None where there is none, and no process of it."""
    try:
        if os.stat(root).st_uid != os.getuid():
            return None
        with open(os.path.join(root, LEASE), encoding="utf-8") as file:
            lease = json.load(file)
    except (OSError, ValueError):
        lease = {}
    there = os.path.isdir(root)
    names = [name for where, name in _processes() if where == root]
    if not there and not names:
        return None
    shown = {"id": os.path.basename(root)[len(PREFIX) :], "name": lease.get("name") or (names or [""])[0], "directory": root}
    shown |= {"model": lease.get("model", ""), "state": "left", "holder": None, "others": []}
    with contextlib.suppress(OSError, ValueError):
        answer = _ask(root, {"op": "state"})
        shown |= {"state": "queued" if answer["queued"] else "running", "holder": answer["holder"]}
    return shown


def end(root: str) -> dict[str, Any]:
    """End one allocation, and whatever is left of it. Returns when nothing is, or after a while."""
    lease: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError), open(os.path.join(root, LEASE), encoding="utf-8") as file:
        lease = json.load(file)
    with contextlib.suppress(OSError):
        _ask(root, {"op": "end"})
    until = time.monotonic() + _END_S
    while os.path.isdir(root) and time.monotonic() < until and _answers(root):
        time.sleep(0.02)
    for _ in range(200):
        pids = _pids(root)
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        if os.stat(root).st_uid == os.getuid():
            shutil.rmtree(root, ignore_errors=True)
    lock = GpuLock(str(lease.get("gpu", _CPU)))
    if lock.holder() is None and os.path.exists(lock.path) and lock.take(""):
        # Of a keeper that was killed.
        lock.release()
    return {"ended": not os.path.lexists(root) and not _pids(root)}


def log(root: str) -> dict[str, Any]:
    """What keeper and agent of one allocation printed last."""
    text = ""
    for name in (LOG, os.path.join("agent", "agent.log")):
        with contextlib.suppress(OSError), open(os.path.join(root, name), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            text += file.read(_LOG_BYTES).decode("utf-8", errors="replace")
    return {"log": text[-_LOG_BYTES:]}


def main(sources: dict[str, str]) -> int:
    """Answer one order. `sources` are this program's own, for the keeper."""
    print(json.dumps({"there": True}), flush=True)  # noqa: T201
    order = json.loads(sys.stdin.readline())
    op: str = order["op"]
    answer: dict[str, Any]
    try:
        if op == "probe":
            answer = probe()
        elif op == "create":
            answer = create(order["lease"], sources)
        elif op == "list":
            answer = {"allocations": allocations()}
        else:
            root = _root(order["id"])
            answer = {"allocation": look(root)} if op == "get" else end(root) if op == "end" else log(root)
    except (OSError, ValueError, KeyError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(answer), flush=True)  # noqa: T201
    return 0


#: The keeper's file: it registers its modules, then runs.
_PROGRAM = """import sys, types
for name, text in {sources!r}.items():
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    exec(compile(text, name, "exec"), module.__dict__)
sys.exit(sys.modules["pytest_glasshouse.channel.host_keeper"].main(sys.argv[2]))
"""


def _root(name: str) -> str:
    """The directory of an allocation's id; the first place where one would be, if there is none."""
    if not name or os.path.basename(name) != name or name.startswith("."):
        raise ValueError("no id of an allocation")
    places = [os.path.join(base, PREFIX + name) for base in bases()]
    running = {root for root, _ in _processes()}
    return next((place for place in places if os.path.isdir(place) or place in running), places[0])


def _ask(root: str, request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5.0)
        client.connect(os.path.join(root, SOCKET))
        client.sendall(json.dumps(request).encode())
        answer = json.loads(client.recv(1 << 16) or b"{}")
        return answer if isinstance(answer, dict) else {}


def _answers(root: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(os.path.join(root, SOCKET))
        except OSError:
            return False
    return True


def _processes() -> list[tuple[str, str]]:
    """Directory and allocation of this user's keepers and agents, from the process table."""
    found = []
    for _, words in _own_commands():
        for place, word in enumerate(words):
            if word.endswith("/keeper.py") and place + 2 < len(words):
                found.append((words[place + 2], words[place + 1]))
            elif word == "--contact" and "--allocation" in words and place + 1 < len(words):
                name = words[words.index("--allocation") + 1 : words.index("--allocation") + 2]
                found.append((os.path.dirname(words[place + 1]), (name or [""])[0]))
    return [
        (root, name) for root, name in found if os.path.dirname(root) in bases() and os.path.basename(root).startswith(PREFIX)
    ]


def _pids(root: str) -> list[int]:
    """Processes of this user that have `root` in their command line."""
    return [pid for pid, words in _own_commands() if any(word == root or word.startswith(root + "/") for word in words)]


def _own_commands() -> list[tuple[int, list[str]]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if os.stat("/proc/" + entry).st_uid == os.getuid():
                    with open(f"/proc/{entry}/cmdline", "rb") as file:
                        found.append((int(entry), file.read().decode("utf-8", errors="replace").split("\0")))
    return found


def _smi(query: str) -> list[list[str]]:
    """The lines of one query of `nvidia-smi`, as their cells; none where there is no driver."""
    program = shutil.which("nvidia-smi", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin:/usr/lib/wsl/lib")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [row for row in rows if len(row) > 1]


def _is_visible(index: str, uuid: str, visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES of this machine's sessions, where it is set, shows that GPU."""
    if visible is None:
        return True
    return any(each and (each == index or uuid.startswith(each)) for each in visible.replace(" ", "").split(","))


def _whole(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
