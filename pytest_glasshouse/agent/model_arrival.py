"""One base model on its way to this guest: from where it comes, and its verification.

It is in a directory of the guest already, downloaded from a hub, pushed by the host, or made here, which is a stand-in's random
weights; whichever it is, every file is verified against the list once, before any leg. A file that differs is deleted and fetched
once more. A directory that this agent did not write is only read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.agent.hub_cache import keep, snapshot_of
from pytest_glasshouse.agent.memory_files import sealed_file
from pytest_glasshouse.agent.memory_left import available_bytes
from pytest_glasshouse.agent.model_download import download
from pytest_glasshouse.agent.model_making import making
from pytest_glasshouse.errors import GlasshouseError, IntegrityError, ProtocolError
from pytest_glasshouse.wire.host_messages import BasePlan, ModelRequest
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.workloads.model_files import (
    MOST_FILES,
    ModelFile,
    differing,
    digest_of,
    file_sha256,
    refuse_outside,
    settled,
    unlisted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.agent.file_process import FileProcess
    from pytest_glasshouse.wire.canonical import Json

Phase = Literal["push", "download", "make", "verify", "ready", "failed"]

#: How often a process that writes files is looked at, in seconds.
_LOOK_S = 0.2
_DETAIL = 400
#: A model is held in memory where this many times its size, and this much, is available. A leg on a GPU reads it in pieces.
_TIMES_IN_MEMORY = 1.5
_MEMORY_LEFT = 1 << 30
_WEIGHTS = ".safetensors"
#: The phase in which a model of each source begins.
_FIRST: dict[str, Phase] = {"there": "verify", "hub": "download", "pushed": "push", "made": "push"}


class ModelUnavailableError(GlasshouseError):
    """A source does not have the model as it is listed. `reason` is a stable code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Arrival(threading.Thread):
    """One model on its way; a thread."""

    def __init__(self, request: ModelRequest, root: Path, *, archive_fd: int, site_packages: Sequence[str]) -> None:
        """Raises `IntegrityError` for a list that is not the one of the digest."""
        super().__init__(name="base-model", daemon=True)
        files = request["files"]
        if not 0 < len(files) <= MOST_FILES:
            raise IntegrityError("base-model", f"expected a list of at most {MOST_FILES} files; saw {len(files)}")
        self._files = tuple(sorted(ModelFile(name=one["name"], size=one["size"], sha256=one["sha256"]) for one in files))
        if digest_of(self._files) != request["model"] or len({file.name for file in self._files}) != len(self._files):
            raise IntegrityError("base-model", "expected the list of files of this digest; saw another")
        self._request = request
        self._own = root / request["model"][:16]
        self._directory = self._own
        self._launch = (archive_fd, site_packages)
        self._changed = threading.Condition()
        self._total = sum(file.size for file in self._files)
        self._done = 0
        self._failure: tuple[str, str] | None = None
        self._stopped = ""
        self._wants: tuple[str, int] | None = None
        self._identity = ""
        #: Sealed memory files by name, where memory allows: what a leg loads then.
        self._held: dict[str, int] = {}
        self.memory_left: Callable[[], int] = available_bytes
        #: How much memory the device has that trains, or has left where that is this machine's processor.
        self.device_memory: Callable[[], int] = available_bytes
        self._process: FileProcess | None = None
        self._began = time.monotonic()
        self._took_s: float | None = None
        self.phase: Phase = _FIRST[request["source"]]

    def run(self) -> None:
        """The thread's body: the phases in order, to `ready` or `failed`."""
        try:
            {"there": self._look, "hub": self._fetch, "pushed": self._receive, "made": self._make}[self._request["source"]]()
            refuse_outside(self._directory, [file.name for file in self._files])
            if self._held:
                shutil.rmtree(self._own, ignore_errors=True)
            self._took_s = time.monotonic() - self._began
            self._enter("ready")
        except ModelUnavailableError as error:
            self._fail(error.reason, error)
        except IntegrityError as error:
            self._fail("malformed", error.detail)
        except OSError as error:
            self._fail("no-space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk", error.strerror or error)
        except GlasshouseError as error:
            self._fail("failed", error)
        except Exception as error:  # noqa: BLE001  (the host would wait for a phase that never comes)
            self._fail("failed", type(error).__name__)
        finally:
            self._request.pop("token", None)

    def state(self) -> dict[str, Json]:
        """See `wire.guest_messages`."""
        with self._changed:
            reason, detail = self._failure or (None, None)
            wants: Json = None if self._wants is None else {"name": self._wants[0], "offset": self._wants[1]}
            return {
                "phase": self.phase,
                "source": self._request["source"],
                "done": min(self._progress(), self._total),
                "total": self._total,
                "wants": wants,
                "reason": reason,
                "detail": detail,
                "held": None if self.phase != "ready" else "memory" if self._held else "files",
                "ms": round(1000 * (time.monotonic() - self._began if self._took_s is None else self._took_s)),
            }

    @property
    def given_up(self) -> bool:
        """Whether it failed, or was stopped before it was ready."""
        return self.phase == "failed" or (bool(self._stopped) and self.phase != "ready")

    def _progress(self) -> int:
        process = self._process
        return process.present() if process is not None and self.phase in ("download", "make") else self._done

    def plan(self) -> BasePlan:
        """What a leg is given."""
        if self.phase != "ready":
            raise ProtocolError(f"start: expected a base model that was verified; it is in phase {self.phase}")
        model = self._request["model"]
        if self._held:
            return {"sha256": model, "descriptors": dict(self._held)}
        return {"sha256": model, "directory": str(self._directory), "identity": self._identity}

    def stop(self, why: str) -> None:
        """Give up, unless it is ready."""
        with self._changed:
            self._stopped = self._stopped or why
            self._changed.notify_all()
        if self._process is not None:
            self._process.kill()

    def write(self, name: str, *, offset: int, payload: bytes | bytearray) -> None:
        """Append a piece that was wanted."""
        with self._changed:
            if self._wants != (name, offset):
                raise ProtocolError(f"lay: expected the piece {self._wants}; saw {(printable(name, limit=80), offset)}")
            size = next(file.size for file in self._files if file.name == name)
            if offset + len(payload) > size:
                raise ProtocolError(f"lay: expected at most {size} bytes of {name}; saw {offset + len(payload)}")
            with (self._own / name).open("r+b") as file:
                # What a piece that found no room left behind is written over.
                file.seek(offset)
                file.write(payload)
            self._done += len(payload)
            self._wants = (name, offset + len(payload)) if offset + len(payload) < size else None
            self._changed.notify_all()

    def _look(self) -> None:
        """A directory of the guest: the model itself, `ORG/NAME` below it, or a cache of the hub's client."""
        found = next((each for each in self._places() if (each / "config.json").is_file()), None)
        if found is None:
            raise ModelUnavailableError("absent", "the guest's directory does not have the model")
        self._directory = found
        if wrong := self._verify(found):
            raise ModelUnavailableError("differs", f"the guest's copy of the model has another {_names(wrong)}")

    def _places(self) -> list[Path]:
        """Where a directory of the guest may have the model."""
        root = Path(self._request.get("directory", ""))
        repo, commit = self._request.get("repo", ""), self._request.get("commit", "")
        inside = [root]
        if repo and ".." not in Path(repo).parts:
            inside += [root / repo, root / Path(repo).name, *(snapshot_of(root / top, repo, commit) for top in ("", "hub"))]
        return inside

    def _link_what_is_there(self) -> None:
        """Take files of the right size from a directory of the guest; they are verified like those that are downloaded."""
        places = self._places() if self._request.get("directory") else []
        # A cache of the hub's client has the content of a large file, of whichever commit, under its digest.
        blobs = {place.parent.parent / "blobs" for place in places if place.parent.name == "snapshots"}
        for file in self._files:
            for path in (*(place / file.name for place in places), *(each / file.sha256 for each in blobs)):
                # Never an empty one: only a file that has all its bytes is not written to.
                if file.size and path.is_file() and path.stat().st_size == file.size:
                    (self._own / file.name).symlink_to(path.resolve())
                    break

    def _fetch(self) -> None:
        wanted = self._files
        self._make_room()
        self._link_what_is_there()
        for last in (False, True):
            self._write_files(download(self._request, self._own, wanted, launch=self._launch), source="the hub")
            wrong = self._verify(self._own)
            if not wrong:
                self._keep()
                return
            if last:
                raise ModelUnavailableError("differs", f"the hub sent, twice, another {_names(wrong)} than its metadata lists")
            wanted = self._discard(wrong)
            self._enter("download")

    def _keep(self) -> None:
        """Where the host asks for it, put what was downloaded into its cache; a cache that takes nothing stops no row."""
        request = self._request
        if not request.get("keep"):
            return
        with contextlib.suppress(OSError):
            keep(
                Path(request.get("directory", "")), request.get("repo", ""), request.get("commit", ""),
                directory=self._own, files=self._files,
            )  # fmt: skip
        # Files that are linked there have another change time, which is part of what they are held to.
        if not self._held and (wrong := self._verify(self._own)):
            raise ModelUnavailableError("differs", f"the guest's copy of the model has another {_names(wrong)}")

    def _write_files(self, process: FileProcess, *, source: str) -> None:
        """Let another process write files until it ends; it is killed when no byte comes for a while, or its time is over."""
        self._process = process
        if self._stopped:
            process.kill()
        seen, at = process.present(), time.monotonic()
        within_s, total = self._request["within_s"], self._total >> 20
        why = ""
        while not process.wait(_LOOK_S):
            now = process.present()
            if now != seen:
                seen, at = now, time.monotonic()
            if time.monotonic() - at > self._request["idle_s"]:
                why = f"no byte arrived from {source} for {self._request['idle_s']} s, after {seen >> 20} MiB"
            elif time.monotonic() - self._began > within_s:
                why = f"the {process.role} did not end within {within_s} s ({seen >> 20} of {total} MiB)"
            if why:
                process.kill()
        failed = process.failure()
        if self._stopped:
            raise ModelUnavailableError("stopped", self._stopped)
        if why:
            raise ModelUnavailableError("slow", why)
        if failed is not None:
            raise ModelUnavailableError(*failed)

    def _receive(self) -> None:
        self._make_room()
        wanted = self._files
        for last in (False, True):
            for file in wanted:
                self._receive_file(file)
            wrong = self._verify(self._own)
            if not wrong:
                return
            if last:
                raise ModelUnavailableError("differs", f"the host sent, twice, another {_names(wrong)} than it lists")
            wanted = self._discard(wrong)
            self._enter("push")

    def _make(self) -> None:
        """A stand-in: its small files come from the host, and its weights are made here."""
        self._make_room()
        if (left := self.device_memory()) < self._total:
            why = f"the guest's device has {left >> 20} MiB of memory left; the model needs {self._total >> 20}"
            raise ModelUnavailableError("no-memory", why)
        for file in self._files:
            if not file.name.endswith(_WEIGHTS):
                self._receive_file(file)
        self._enter("make")
        names = [file.name for file in self._files if file.name.endswith(_WEIGHTS)]
        shape = self._request.get("shape", "")
        self._write_files(making(shape, self._own, names, launch=self._launch), source="the generator")
        if wrong := self._verify(self._own):
            raise ModelUnavailableError("differs", f"the guest made another {_names(wrong)} than the host lists")

    def _receive_file(self, file: ModelFile) -> None:
        (self._own / file.name).write_bytes(b"")
        with self._changed:
            self._wants = (file.name, 0) if file.size else None
            before = self._done
            while self._wants is not None and not self._stopped:
                if not self._changed.wait(self._request["idle_s"]) and self._done == before:
                    raise ModelUnavailableError("slow", f"no byte arrived from the host for {self._request['idle_s']} s")
                before = self._done
            if self._stopped:
                raise ModelUnavailableError("stopped", self._stopped)

    def _verify(self, directory: Path) -> tuple[str, ...]:
        """The names of files that are not as listed. Where there is none, they are held as they were verified."""
        self._enter("verify")
        self._release()
        if self.memory_left() >= _TIMES_IN_MEMORY * self._total + _MEMORY_LEFT:
            return self._verify_in_memory(directory)
        seen = settled(directory)
        wrong = differing(directory, self._files, on_bytes=self._count)
        self._identity = seen
        return wrong

    def _verify_in_memory(self, directory: Path) -> tuple[str, ...]:
        """The same, of sealed copies in memory, which are kept if all of them are as listed."""
        wrong = list(unlisted(directory, self._files))
        for file in self._files:
            if file.name in wrong:
                continue
            fd = self._held[file.name] = sealed_file(file.name, directory / file.name)
            copy = Path(f"/proc/self/fd/{fd}")
            if copy.stat().st_size != file.size or file_sha256(copy, on_bytes=self._count) != file.sha256:
                wrong.append(file.name)
        if wrong:
            self._release()
        return tuple(sorted(wrong))

    def _release(self) -> None:
        """Give the memory back."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _make_room(self) -> None:
        shutil.rmtree(self._own, ignore_errors=True)
        self._own.mkdir(parents=True)
        free = os.statvfs(self._own)
        left = free.f_bavail * free.f_frsize
        if left < self._total:
            why = f"the guest has {left >> 20} MiB of disk left; the model needs {self._total >> 20}"
            raise ModelUnavailableError("no-space", why)

    def _discard(self, names: Sequence[str]) -> tuple[ModelFile, ...]:
        """Delete what is not as listed; the files that are to be fetched again."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                (self._own / name).unlink()
        return tuple(file for file in self._files if file.name in names)

    def _enter(self, phase: Phase) -> None:
        with self._changed:
            if self._stopped:
                raise ModelUnavailableError("stopped", self._stopped)
            self.phase = phase
            self._done = self._total if phase == "ready" else 0

    def _count(self, count: int) -> None:
        with self._changed:
            if self._stopped:
                raise ModelUnavailableError("stopped", self._stopped)
            self._done += count

    def _fail(self, reason: str, detail: object) -> None:
        with self._changed:
            self._wants = None
        if self._directory == self._own:
            shutil.rmtree(self._own, ignore_errors=True)
        with self._changed:
            # Only now: the host may ask for it again as soon as it sees this.
            self._failure = (reason, printable(detail, limit=_DETAIL))
            self.phase = "failed"
            self._release()


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
