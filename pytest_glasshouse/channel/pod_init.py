"""The first process of a rented guest: it keeps an `sshd` running and ends the instance at its deadline.

It is sent as text in the launch and runs on any Python 3.8 or newer before anything is installed, so it imports the
standard library and nothing of this package. It never exits: a container whose first process ends is restarted, and
billed on. Its deadline is an absolute time, so a restart does not extend it. It holds no key of the account: it ends the
instance with the key that the provider gave this one instance.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypedDict

    Call = tuple[str, str, str, dict[str, str] | None]

    class PodSettings(TypedDict):
        """`deadline` and `contact_by` are in seconds since the epoch; `ends` is whose API at `api` ends this instance."""

        deadline: float
        contact_by: float
        lease_s: float
        host_key: str
        authorized_key: str
        ends: str
        api: str


#: Set by the launch: `PodSettings` as JSON in base64.
SETTINGS = "GLASSHOUSE_POD"
#: Directory of the pod's files and port of `sshd`; set only for a pod without a file system of its own.
ROOT, PORT = "GLASSHOUSE_POD_ROOT", "GLASSHOUSE_POD_PORT"
#: The image's Python, for SSH sessions: they do not inherit the container's environment.
PYTHON = "GLASSHOUSE_POD_PYTHON"
#: A restarted container waits at least this long for the host's contact, even after `contact_by`.
RESTART_GRACE_S = 60.0
_TICK_S = 0.5
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_CALL_TIMEOUT_S = 20.0
_PR_SET_CHILD_SUBREAPER = 36


class Watchdog:
    """Decides when the instance must end. `now` is in seconds since the epoch."""

    def __init__(self, settings: PodSettings, root: str, began: float) -> None:
        self._settings = settings
        self._contact = os.path.join(root, "contact")
        self._shutdown = os.path.join(root, "shutdown")
        self._contact_by = max(settings["contact_by"], began + RESTART_GRACE_S)

    def verdict(self, now: float) -> str | None:
        """The reason to end, or None."""
        if now >= self._settings["deadline"]:
            return "the absolute deadline of the allocation is over"
        if os.path.exists(self._shutdown):
            return "the host requested the shutdown"
        try:
            contact = os.stat(self._contact).st_mtime
        except OSError:
            return "the host never made contact" if now >= self._contact_by else None
        if now - contact >= self._settings["lease_s"]:
            return f"no contact from the host for {self._settings['lease_s']:g} s"
        return None


def end_calls(settings: PodSettings, environment: Mapping[str, str]) -> list[Call]:
    """The calls that end this very instance, best first: (method, address, key, JSON body)."""
    api = settings["api"].rstrip("/")
    if settings["ends"] == "runpod":
        pod, key = environment.get("RUNPOD_POD_ID", ""), environment.get("RUNPOD_API_KEY", "")
        query = f'mutation {{ podTerminate(input: {{podId: "{pod}"}}) }}'
        return [
            ("DELETE", f"{api}/v2/pods/{pod}", key, None),
            ("POST", f"{api}/graphql", key, {"query": query}),
            ("POST", f"{api}/v2/pods/{pod}/action", key, {"action": "stop"}),
        ]
    if settings["ends"] == "vastai":
        contract, key = environment.get("CONTAINER_ID", ""), environment.get("CONTAINER_API_KEY", "")
        return [("DELETE", f"{api}/api/v0/instances/{contract}/", key, {})]
    return []


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def call(method: str, address: str, key: str, body: dict[str, str] | None) -> str:
    """Make one call; the method and its result as text, without the key."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json", "User-Agent": "glasshouse-watchdog"}
    request = urllib.request.Request(address, data=data, headers=headers, method=method)  # noqa: S310
    # No proxy settings of the machine are used and no redirect is followed: the key goes to the provider or nowhere.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(request, timeout=_CALL_TIMEOUT_S) as reply:
            return f"{method}: {reply.status}"
    except urllib.error.HTTPError as error:
        return f"{method}: {error.code}"
    except (OSError, ValueError) as error:
        return f"{method}: {type(error).__name__}"


def descendants() -> set[int]:
    """Every process below this one."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                parents[int(entry)] = int(stat.read().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {os.getpid()}
        found |= more


def reap() -> set[int]:
    """Reap every child that has ended; their process ids."""
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.add(pid)
    return ended


def kill_all() -> None:
    """Kill every leg, agent and connection at once: their memory is freed with them."""
    for _ in range(200):
        living = descendants()
        if not living:
            return
        for pid in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.01)


def log(text: str) -> None:
    """One line of the pod's log."""
    print("glasshouse pod: " + text, flush=True)  # noqa: T201


def write_private(path: str, content: str) -> None:
    """Write a file of mode 0600."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)


def quoted(text: str) -> str:
    """A quoted argument of `sshd`'s configuration."""
    return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))


def sshd_command(settings: PodSettings, root: str, environment: Mapping[str, str]) -> list[str]:
    """Write the files of `sshd` below `root`; the command that runs it in the foreground."""
    write_private(os.path.join(root, "host_key"), settings["host_key"])
    write_private(os.path.join(root, "authorized_keys"), settings["authorized_key"] + "\n")
    port = environment.get(PORT)
    lines = [
        "Port %s" % (port or "22"),
        "ListenAddress %s" % ("127.0.0.1" if port else "0.0.0.0"),  # noqa: S104
        "HostKey " + quoted(root + "/host_key"),
        # Unlike HostKey, this option expands percent signs.
        "AuthorizedKeysFile " + quoted(root.replace("%", "%%") + "/authorized_keys"),
        "PidFile none",
        # The directory has mode 0700; its parents (a temporary directory) may be writable by others.
        "StrictModes no",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UsePAM no",
        "UseDNS no",
        # Forwarding a socket needs both: without the first, sshd refuses the second.
        "AllowTcpForwarding local",
        "AllowAgentForwarding no",
        "AllowStreamLocalForwarding local",
        "X11Forwarding no",
        "PermitTunnel no",
        "ClientAliveInterval 15",
        "ClientAliveCountMax 4",
        "LogLevel ERROR",
        # With SHLVL below 1, bash started by sshd runs the user's start-up file, which may block or print.
        f'SetEnv {ROOT}={quoted(root)} {PYTHON}={quoted(sys.executable)} SHLVL="1"',
    ]
    write_private(os.path.join(root, "sshd_config"), "\n".join(lines) + "\n")
    if os.getuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    return [find_sshd(), "-D", "-e", "-f", os.path.join(root, "sshd_config")]


def find_sshd() -> str:
    """The absolute path of `sshd`, which it requires; an image without one gets it from its distribution."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which("sshd", path=path)
    if found is None and shutil.which("apt-get") and os.getuid() == 0:
        log("the image has no sshd; installing openssh-server")
        for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "openssh-server"]):
            subprocess.run(["apt-get", *command], check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        found = shutil.which("sshd", path=path)
    return found or "/usr/sbin/sshd"


def end(
    settings: PodSettings,
    root: str,
    reason: str,
    environment: Mapping[str, str],
    *,
    wait: Callable[[float], None] = time.sleep,
    attempts: int | None = None,
) -> None:
    """Kill, wipe, and request the instance's end until the provider kills this process."""
    log(reason + "; ending everything here")
    kill_all()
    shutil.rmtree(root, ignore_errors=True)
    tried = 0
    while attempts is None or tried < attempts:
        for one in end_calls(settings, environment):
            result = call(*one)
            log("requested the end of this instance, " + result)
            if result.endswith((": 200", ": 204")):
                break
        wait(_RETRY_S[min(tried, len(_RETRY_S) - 1)])
        tried += 1
        reap()


def _stopped(_number: int, _frame: object) -> None:
    # The provider stops the container: no process may outlive this one.
    kill_all()
    os._exit(143)


def main() -> int:
    """Run until killed."""
    environment = dict(os.environ)
    settings = json.loads(base64.b64decode(environment[SETTINGS]))
    root = environment.get(ROOT) or "/var/lib/glasshouse"
    os.makedirs(root, mode=0o700, exist_ok=True)
    watchdog = Watchdog(settings, root, time.time())
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _stopped)
    sshd, next_start, logged = None, 0.0, ""
    while True:
        reason = watchdog.verdict(time.time())
        if reason is not None:
            end(settings, root, reason, environment)
        ended = reap()
        if sshd is not None and sshd in ended:
            log("sshd ended; starting it again")
            sshd = None
        if sshd is None and time.monotonic() >= next_start:
            next_start = time.monotonic() + 1.0
            try:
                command = sshd_command(settings, root, environment)
                sshd = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True).pid
                log("sshd started")
            except OSError as error:
                if str(error) != logged:
                    logged = str(error)
                    log("sshd does not start: " + logged)
        time.sleep(_TICK_S)


if __name__ == "__main__":
    sys.exit(main())
