"""What a loopback pod sees of this machine: a few paths, read-only, each with its reason; everything else is its own and empty.

No home, no checkout, no temporary directory and no cache is among them, so that a guest that is given a path of the host finds
nothing there. A test hands over what more a pod needs as a `Volume`.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Where a pod keeps its files: what the product uses in an image of its own.
DIRECTORY = "/var/lib/glasshouse"
#: Where its first process starts.
WORKSPACE = "/workspace"
#: The largest disk of a pod, which lies in memory, and the most files on it. The byte code of torch is 100 MB.
SIZE, FILES = "1g", "100k"

#: What a pod shares with this machine at the same path, read-only, and why.
SHARED = {
    "/usr": "the image: programs and libraries, sshd among them",
    "/bin": "part of /usr, or as good as",
    "/sbin": "part of /usr, or as good as",
    "/lib": "part of /usr, or as good as",
    "/lib32": "part of /usr, or as good as",
    "/lib64": "part of /usr, or as good as",
    "/etc/ld.so.cache": "the loader finds libraries by it",
    "/etc/passwd": "sshd looks up who logs in",
    "/etc/group": "sshd looks up who logs in",
    "/sys/devices/system": "torch counts processors there",
}
#: The same, writable as they are everywhere.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, kw_only=True)
class Volume:
    """What a test hands over to its pods: `host`, seen at `inside`, and why they need it."""

    host: Path
    inside: str
    why: str
    writable: bool = False


def disk(volumes: Sequence[Volume] = ()) -> dict[str, Any]:
    """The disk of a pod, for `pod_init.py`."""
    directories = {
        "/proc": 0o555, "/dev/shm": 0o1777, "/tmp": 0o1777, "/var/tmp": 0o1777, "/run": 0o755, home(): 0o700, WORKSPACE: 0o755,
    }  # fmt: skip
    links = {"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1"}
    links |= {"/dev/stderr": "/proc/self/fd/2"}
    binds = []
    for path in map(Path, SHARED):
        if path.is_symlink():
            links[str(path)] = str(path.readlink())
        elif path.exists():
            binds.append((str(path), str(path), False))
    for path in _interpreter():
        if path.is_symlink():
            links[str(path)] = str(path.readlink())
        else:
            binds.append((str(path), str(path), False))
    binds += [(device, device, True) for device in DEVICES]
    binds += [(str(volume.host), volume.inside, volume.writable) for volume in volumes]
    return {
        "size": SIZE, "files": FILES, "cwd": WORKSPACE, "directories": list(directories.items()), "links": list(links.items()),
        "binds": binds,
    }  # fmt: skip


def home() -> str:
    """The home directory of whoever runs in the pod: in its place an empty one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # a container may run as a user that it does not know
        return WORKSPACE


def _interpreter() -> list[Path]:
    """The Python of the image and its packages: of this interpreter and of its environment what they need to run, and no more.

    They may lie below a home or a checkout, of which the pod sees the rest as empty.
    """
    needed = [Path(sys.base_prefix)]
    if sys.prefix != sys.base_prefix:
        needed += [Path(sys.prefix, name) for name in ("bin", "lib", "lib64", "pyvenv.cfg")]
    program = Path(sys.executable)
    while program.is_symlink():
        program = program.parent / program.readlink()
        needed.append(program)
    found: list[Path] = []
    for path in needed:
        # A link to another directory is one in the pod as well, and its target comes after it.
        for one in (path, path.resolve()):
            covered = [Path("/usr"), *(each for each in found if not each.is_symlink())]
            if one.exists() and not any(one.is_relative_to(each) for each in covered):
                found.append(one)
    return list(dict.fromkeys(found))
