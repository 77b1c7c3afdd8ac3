"""The installer, run by the host over SSH on a rented guest: checks the image, installs missing packages, starts the agent.

It is sent as text and runs on the image's own Python before anything is installed: standard library only, nothing of this
package. It may be run again: an agent that answers is left alone. Standard input carries JSON lines and raw bytes, standard
output JSON lines: `{"phase"}` to show, `{"need"}` once, then `{"ready"}` or `{"error"}`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypedDict

    class AnnouncedFile(TypedDict):
        """A file that the host announces."""

        name: str
        size: int
        sha256: str


_START_S = 60.0
#: `sun_path` holds 108 bytes, and the agent first binds a longer name.
_LONGEST_SOCKET = 100


class InstallError(Exception):
    """The installation failed; one line for the user."""


def send(**fields: Any) -> None:
    """Send one line to the host."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def receive() -> dict[str, Any]:
    """Receive one line from the host."""
    line = sys.stdin.buffer.readline()
    if not line:
        raise InstallError("the host closed the connection")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise InstallError(f"expected an object from the host; saw {type(message).__name__}")
    return message


def receive_files(directory: str, files: Sequence[AnnouncedFile]) -> None:
    """Receive the announced files as raw bytes and check each against its hash."""
    for file in files:
        content = sys.stdin.buffer.read(file["size"])
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise InstallError("{} did not arrive as it was sent".format(file["name"]))
        with open(os.path.join(directory, os.path.basename(file["name"])), "wb") as out:
            out.write(content)


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, to compare: `50.0.2` is (50, 0, 2)."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def missing(packages: dict[str, str], paths: list[str]) -> list[str]:
    """The `packages` (name to oldest accepted version) that `paths` lack."""
    installed: dict[str, str] = {}
    for found in importlib.metadata.distributions(path=paths):
        name = found.metadata["Name"]
        if name:
            installed.setdefault(name.lower().replace("_", "-"), found.version)
    return sorted(name for name, oldest in packages.items() if numbers(installed.get(name, "")) < numbers(oldest))


def folders(names: Sequence[str] = ("torch", "transformers", "peft", "numpy")) -> list[str]:
    """The folders of this Python's packages, and every other one that what trains is imported from.

    Images have torch where `pip --user`, `--target` or the distribution put it, and a guest sees the folders it is given.
    """
    found = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and os.path.isabs(spec.origin):
            found.append(os.path.dirname(os.path.dirname(spec.origin)))
    return list(dict.fromkeys(found))


def install(directory: str, wheels: Sequence[AnnouncedFile]) -> str:
    """Install the wheels in `directory`; pip checks each hash again."""
    site = os.path.join(directory, "site")
    requirements = os.path.join(directory, "requirements.txt")
    # Relative names: pip would split a path with a space.
    pins = ["./{} --hash=sha256:{}\n".format(os.path.basename(one["name"]), one["sha256"]) for one in wheels]
    with open(requirements, "w", encoding="utf-8") as out:
        out.writelines(pins)
    options = ["--no-index", "--no-deps", "--require-hashes", "--no-compile", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-I", "-m", "pip", "install", *options, "--target", site, "--requirement", requirements]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=directory)
    if done.returncode != 0:
        raise InstallError("pip could not install the wheels: {}".format(" ".join(done.stderr.split()[-40:])))
    return site


def answers(path: str) -> bool:
    """Whether an agent listens at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def driver_folder(search: str) -> str:
    """The one folder of a search path like LD_LIBRARY_PATH that has NVIDIA's driver libraries; empty where none has.

    A guest gets this folder and no other: some images mount the driver where only that variable leads.
    """
    best, most = "", 0
    for folder in search.split(":"):
        if os.path.isabs(folder) and "stubs" not in folder.split("/"):
            there = [os.path.exists(os.path.join(folder, name)) for name in ("libcuda.so.1", "libnvidia-ml.so.1")]
            # CUDA's own library counts for more: without it nothing trains.
            if 2 * there[0] + there[1] > most:
                best, most = folder, 2 * there[0] + there[1]
    return best


def device_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables by which a guest finds its GPU: which ones are visible, and the driver's folder."""
    found = {name: environ[name] for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES") if name in environ}
    folder = driver_folder(environ.get("LD_LIBRARY_PATH", ""))
    return {**found, "LD_LIBRARY_PATH": folder} if folder else found


def start(directory: str, allocation: str, site_packages: Sequence[str], contact: str) -> None:
    """Start the agent so that it outlives this connection, and wait until it listens."""
    cache = os.path.join(directory, "bytecode")
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-X", f"pycache_prefix={cache}"]
    command += [os.path.join(directory, "guest.zip"), "agent"]
    command += ["--directory", directory, "--allocation", allocation, "--contact", contact]
    for path in site_packages:
        command += ["--site-packages", path]
    # On a host of the user's own: a pipe at whose end the agent ends, and the GPU's lock, which it holds as long as it lives.
    held = [int(number) for number in os.environ.get("GLASSHOUSE_POD_HELD", "").split(",") if number]
    command += ["--until-eof"] if held else []
    # In a job over several nodes: where the first of them is reached.
    job = {name: os.environ[name] for name in ("SLURM_LAUNCH_NODE_IPADDR",) if name in os.environ}
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **device_environment(os.environ), **job}
    log = open(os.path.join(directory, "agent.log"), "ab")  # noqa: SIM115
    agent = subprocess.Popen(
        command, stdin=held[0] if held else subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, env=environment,
        pass_fds=held[1:], start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + _START_S
    path = os.path.join(directory, "agent.sock")
    while not answers(path):
        if agent.poll() is not None or time.monotonic() >= until:
            with open(log.name, encoding="utf-8", errors="replace") as text:
                last = text.read().strip().splitlines()[-1:]
            raise InstallError("the agent did not start: %s" % (last[0] if last else "it printed nothing"))
        time.sleep(0.02)


def run() -> None:
    """Install and start the agent, as the host's messages direct."""
    order = receive()
    root = os.environ.get("GLASSHOUSE_POD_ROOT") or "/var/lib/glasshouse"
    contact, directory = os.path.join(root, "contact"), os.path.join(root, "agent")
    os.makedirs(root, mode=0o700, exist_ok=True)
    with open(contact, "ab"):
        os.utime(contact)
    socket_path = os.path.join(directory, "agent.sock")
    if len(socket_path) > _LONGEST_SOCKET:
        raise InstallError("the pod's directory is too long for a unix socket")
    if answers(socket_path):
        send(need={"running": True})
        receive()
        send(ready={"socket": socket_path})
        return
    if sys.version_info < tuple(order["python"]):
        wanted = ".".join(map(str, order["python"]))
        raise InstallError(f"expected Python {wanted} or newer in the image, saw {sys.version.split()[0]}; choose another image")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory, mode=0o700)
    own = folders()
    needed = missing(order["packages"], own)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    send(need={"running": False, "python": version, "machine": platform.machine(), "missing": needed})
    files = receive()
    send(phase="copy")
    receive_files(directory, [files["archive"]])
    os.rename(os.path.join(directory, os.path.basename(files["archive"]["name"])), os.path.join(directory, "guest.zip"))
    receive_files(directory, files["wheels"])
    if files["wheels"]:
        send(phase="install")
        own.insert(0, install(directory, files["wheels"]))
    still = missing(order["packages"], own)
    if still:
        raise InstallError("expected {} after the installation; still missing".format(", ".join(still)))
    send(phase="agent")
    start(directory, order["allocation"], own, contact)
    send(ready={"socket": socket_path})


def main() -> int:
    """Run; on failure, send one line with the reason."""
    try:
        run()
    except (InstallError, OSError, ValueError, KeyError) as error:
        text = str(error) if isinstance(error, InstallError) else f"{type(error).__name__}: {error}"
        send(error=text[:500])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
