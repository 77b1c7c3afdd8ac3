"""The supervisor of a loopback pod: makes its disk, starts the command there, and ends all of it at the end of its pipe.

    python -I -S pod_init.py RESTART FOLDER -- COMMAND...

The command is the first process of a PID namespace, and its root directory is a file system of the pod's own in a mount
namespace: the kernel ends every process and every mount of the pod with that first process, however it ends, and takes it away
with this one. The end of the standard input of this process is the order to end, and a dead test process ends every pod of its
own for that reason. FOLDER, on the host, holds `disk.json` (`pod_disk.py` writes it), the console `log`, `first` (the first
process as the host numbers it, while it runs), `failed` (why there is no pod) and the empty directory `root` to mount on.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import select
import signal
import sys

TYPE_CHECKING = False  # as `typing` has it, whose import takes longer than all else here
if TYPE_CHECKING:
    from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1
_MOUNT_SETATTR = 442
#: Numbers of `clone` and `pivot_root`, for which the C library has no functions, by machine.
_NUMBERS = {"x86_64": (56, 155), "aarch64": (220, 41)}

_RESTART_PAUSE_S = 0.3
_NOT_STARTED = 127

# Keeps the interpreter's lock: the copy that `clone` makes has one thread.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(what: str, result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _checked(what, _libc.syscall(ctypes.c_long(number), *arguments))


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    named = (os.fsencode(each) for each in (source, target, kind))
    done = _libc.mount(*named, ctypes.c_ulong(flags), os.fsencode(data))
    _checked(f"mount {source} on {target}", done)


def _bind(source: str, target: str, *, writable: bool) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
    _mount(source, target, "", _MS_BIND | _MS_REC)
    if not writable:
        # Unlike a remount, it reaches what is mounted below too, and keeps the other attributes.
        attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
        where = (ctypes.c_int(_AT_FDCWD), os.fsencode(target), ctypes.c_uint(_AT_RECURSIVE))
        _syscall(f"mount_setattr {target}", _MOUNT_SETATTR, *where, attributes, ctypes.c_size_t(ctypes.sizeof(attributes)))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _enter(disk: dict[str, Any], root: str, owner: tuple[int, int]) -> None:
    """In the new namespaces: make the disk, and let nothing else be seen."""
    if owner[0] != 0:
        # An ordinary user keeps their ids inside: `sshd` could not change its ids to another user's there.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{owner[0]} {owner[0]} 1")
        _write("/proc/self/gid_map", f"{owner[1]} {owner[1]} 1")
    os.umask(0)
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("pod", root, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=755,size={disk['size']},nr_inodes={disk['files']}")
    for path, mode in disk["directories"]:
        os.makedirs(root + path, exist_ok=True)
        os.chmod(root + path, mode)
    for path, target in disk["links"]:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    for source, path, writable in disk["binds"]:
        _bind(source, root + path, writable=writable)
    _mount("proc", f"{root}/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    os.chdir(root)
    _syscall("pivot_root", _NUMBERS[platform.machine()][1], b".", b".")
    _checked("umount the host's disk", _libc.umount2(b".", _MNT_DETACH))
    os.umask(0o022)
    os.chdir(disk["cwd"])


def _become(disk: dict[str, Any], folder: str, command: list[str], owner: tuple[int, int], failed: int) -> NoReturn:
    """The new process, until it is the command. It never returns."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        _enter(disk, f"{folder}/root", owner)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            os.execvpe(command[0], command, os.environ)  # noqa: S606
        except OSError as error:
            # As a container's engine does, on the console of a container that has its disk.
            os.write(log, f"cannot start: {error}\n".encode())
            os._exit(_NOT_STARTED)
    except BaseException as error:  # noqa: BLE001  (a copy of the supervisor must not go on)
        os.write(failed, str(error).encode())
    os._exit(_NOT_STARTED)


def _start(disk: dict[str, Any], folder: str, command: list[str]) -> int:
    """The process id of the command, once it runs; -1 where it does not."""
    told, failed = os.pipe2(os.O_CLOEXEC)
    owner = (os.geteuid(), os.getegid())
    flags = _CLONE_NEWNS | _CLONE_NEWPID | (_CLONE_NEWUSER if owner[0] else 0) | signal.SIGCHLD
    reason = b""
    try:
        number = _NUMBERS[platform.machine()][0]
        # As `fork`, but into namespaces of its own: `fork` after `unshare` would take one process more.
        pid = _syscall("clone", number, ctypes.c_ulong(flags), None, None, None, None)
        if pid == 0:
            _become(disk, folder, command, owner, failed)
    except (OSError, KeyError) as error:
        pid, reason = -1, str(error).encode()
    os.close(failed)
    reason = reason or os.read(told, 4096)
    os.close(told)
    if not reason:
        _replace(f"{folder}/first", str(pid))
        return pid
    _replace(f"{folder}/failed", reason.decode(errors="replace"))
    if pid != -1:
        os.waitpid(pid, 0)
    return -1


def _replace(path: str, text: str) -> None:
    _write(f"{path}.new", text)
    os.replace(f"{path}.new", path)


def _end(first: int, folder: str, *, served: bool) -> None:
    if first != -1:
        os.kill(first, signal.SIGKILL)
        # The kernel answers when the last process of the namespace is gone.
        os.waitpid(first, 0)
    if not served:
        # The process that serves this pod was killed: what it keeps of its pods is removed too.
        import shutil

        shutil.rmtree(os.path.dirname(folder), ignore_errors=True)


def main() -> int:
    restarts, folder, command = sys.argv[1] == "restart", sys.argv[2], sys.argv[4:]
    with open(f"{folder}/disk.json", encoding="utf-8") as file:
        disk = json.load(file)
    served = False
    child_ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    first, code = _start(disk, folder, command), _NOT_STARTED
    while first != -1 or restarts:
        ready, _, _ = select.select([0, child_ended], [], [], _RESTART_PAUSE_S if first == -1 else None)
        if 0 in ready and os.read(0, 4096):
            served = True
        elif 0 in ready:
            _end(first, folder, served=served)
            return 0
        if child_ended in ready:
            os.read(child_ended, 4096)
        if first == -1:
            # A container whose first process ends is started again, on an empty disk.
            first = first if ready else _start(disk, folder, command)
            continue
        pid, status = os.waitpid(first, os.WNOHANG)
        if pid:
            first, code = -1, os.waitstatus_to_exitcode(status)
            os.unlink(f"{folder}/first")
    return code if 0 <= code < 256 else 1


if __name__ == "__main__":
    sys.exit(main())
