"""What executes: code and keys that a hash of the sources would miss, against a real agent, a real leg and a real server.

A case plants one thing in a box (`tamper.box`) and plays one leg on it. Either no key leaves, or what was planted never ran or
shows nothing, or the attestation does not hold; which of them, and with what reason, is the case's to say.
"""

from __future__ import annotations

import contextlib
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_glasshouse.attacks.local_attacker import (
    Neighbour,
    NotPlayedError,
    early_look,
    looks_at_agent,
    offers_keys,
    traces,
)
from pytest_glasshouse.attacks.target_guest import VICTIM, Box, Boxes, Played
from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.tamper.case import TamperResult

__all__ = ["CASES", "GuestCase", "NotPlayedError", "run_guest_case"]

#: What must not come out: the data key; the execution of what was planted; what is in memory; a finding that holds.
GuestWithheld = Literal["key", "execution", "memory", "finding"]
#: The one word for an attack whose code is never run, and the one for an attack that reads nothing.
NEVER_RUN, OUT_OF_REACH = "never-run", "out-of-reach"
_ATTESTED = "attestation verified"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an attack met, and whether what it was after came out."""

    reason: str | None
    came_out: bool


@dataclass(frozen=True, kw_only=True)
class GuestCase:
    """One attack on a box. `play` carries it out and undoes it."""

    name: str
    play: Callable[[Box], Seen]
    expected_reason: str
    caught_by: str
    withheld: GuestWithheld = "key"
    #: Which box it needs, of those in `BOXES`.
    box: str = "honest"


def run_guest_case(case: GuestCase, boxes: Boxes) -> TamperResult:
    """Play `case` on its box. Raises `NotPlayedError` where this machine does not allow the attack at all."""
    box = boxes.get(case.box, BOXES[case.box])
    control_released = box.control()
    seen = case.play(box)
    return TamperResult(
        name=case.name,
        expected_reason=case.expected_reason,
        seen_reason=seen.reason,
        released=seen.came_out,
        caught_by=case.caught_by,
        control_released=control_released,
        expected_nonce="unasked",
        seen_nonce="unasked",
    )


def _case(name: str, reason: str, caught_by: str, play: Callable[[Box], Seen], **rest: str) -> GuestCase:
    return GuestCase(name=f"executes-{name}", play=play, expected_reason=reason, caught_by=caught_by, **rest)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- code that runs and is seen


def _mark(box: Box) -> str:
    return f"\nopen({str(box.marker)!r}, 'w').close()\n"


@contextlib.contextmanager
def _planted(path: Path, content: str | bytes) -> Iterator[None]:
    """`content` at `path` until the end of the block; what stood there stands there again, with its date."""
    kept, times = (path.read_bytes(), path.stat()) if path.exists() else (None, None)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        yield
    finally:
        if kept is None or times is None:
            path.unlink()
        else:
            path.write_bytes(kept)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _refused(box: Box, played: Played) -> Seen:
    """Refused by whom the case says, although (because) what was planted ran; no key left."""
    return Seen(reason=played.reason if box.marker.exists() else "the planted code did not run", came_out=played.released > 0)


def _changed(box: Box) -> Seen:
    with _planted(box.site / VICTIM, (box.site / VICTIM).read_text() + _mark(box)):
        return _refused(box, box.play())


def _shadowing_module(box: Box) -> Seen:
    with _planted(box.front / VICTIM, (box.site / VICTIM).read_text() + _mark(box)):
        return _refused(box, box.play())


def _shadowing_package(box: Box) -> Seen:
    package = box.front / VICTIM.removesuffix(".py")
    try:
        with _planted(package / "__init__.py", (box.site / VICTIM).read_text() + _mark(box)):
            return _refused(box, box.play())
    finally:
        shutil.rmtree(package)


def _shadowing_library(box: Box) -> Seen:
    """The real library with something behind its end, found first. That it was loaded is seen by who still has it open."""
    real = next(box.site.glob("_cffi_backend.*.so"))
    with _planted(box.front / real.name, real.read_bytes() + b"planted"):
        played = box.play()
        return Seen(reason=played.reason, came_out=played.released > 0)


def _byte_code_cache(box: Box) -> Seen:
    with _planted(box.directory / "bytecode" / "planted.pyc", b"planted"):
        played = box.play()
        return Seen(reason=played.reason, came_out=played.released > 0)


def _startup(code: str) -> Callable[[Box], Seen]:
    """A file that an installed library runs, and that is no module: the measured files are all as they should be."""

    def play(box: Box) -> Seen:
        text = code.format(victim=str(box.site / VICTIM), folder=str(box.folder)) + _mark(box)
        with _planted(box.site / "glasshouse_extra.startup", text):
            return _refused(box, box.play())

    return play


#: Brings its own code under an installed module's name, and names the installed file as where it comes from.
_META_PATH_HOOK = """
import importlib.util, sys

class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "textwrap":
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, cls)
        honest = spec.loader.get_code
        def exec_module(module):
            exec(honest(name), vars(module))
            module.planted = True
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder)
sys.modules.pop("textwrap", None)
import textwrap
assert textwrap.planted
"""
_PATH_HOOK = """
import sys

def hook(path):
    raise ImportError(path)

sys.path_hooks.insert(0, hook)
"""
_TRACE = "import sys; sys.settrace(lambda *_: None)"
_PROFILE = "import sys; sys.setprofile(lambda *_: None)"
_DEBUGGER = "import pdb"
_DUMPABLE = "import ctypes; assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0"


# -------------------------------------------------------------------------------------------------- code that never runs


def _never_runs(plant: Callable[[Box], contextlib.AbstractContextManager[None]], plain: list[str]) -> Callable[[Box], Seen]:
    """Where a plain interpreter runs it (the control: the plant is a good one) the leg does not."""

    def play(box: Box) -> Seen:
        with plant(box):
            command = [sys.executable, *(part.format(site=str(box.site)) for part in plain)]
            environment = {"PYTHONPATH": str(box.site), "PYTHONDONTWRITEBYTECODE": "1"}
            subprocess.run(command, check=True, env=environment)  # noqa: S603
            if not box.marker.exists():
                return Seen(reason="a plain interpreter does not run it either", came_out=False)
            played = box.play()
            ran = box.marker.exists()
        # An honest leg beside a plant that cannot run is served: that it was is what shows that it was a whole leg.
        return Seen(reason=NEVER_RUN if not ran and played.reason is None else played.reason, came_out=ran)

    return play


def _pth(box: Box) -> contextlib.AbstractContextManager[None]:
    return _planted(box.site / "zz.pth", f"import sys; open({str(box.marker)!r}, 'w').close()\n")


def _customize(name: str) -> Callable[[Box], contextlib.AbstractContextManager[None]]:
    return lambda box: _planted(box.site / name, _mark(box))


@contextlib.contextmanager
def _forged_byte_code(box: Box) -> Iterator[None]:
    """Compiled from another source, with date and size of the honest one, as the interpreter checks them."""
    source = box.site / VICTIM
    honest, before = source.read_bytes(), source.stat()
    with _planted(source, honest + _mark(box).encode()):
        cached = Path(py_compile.compile(str(source), doraise=True) or "")
    forged = bytearray(cached.read_bytes())
    forged[8:12] = int(before.st_mtime).to_bytes(4, "little")
    forged[12:16] = (len(honest) & 0xFFFFFFFF).to_bytes(4, "little")
    cached.write_bytes(forged)
    try:
        yield
    finally:
        shutil.rmtree(cached.parent)


# ------------------------------------------------------------------------------------------------- after it was measured


#: The leg trains until the host has done what it has to do.
_WAITING = """
import os, time

def step():
    while not os.path.exists({go!r}):
        time.sleep(0.001)
"""


def _while_training(box: Box, act: Callable[[], None]) -> Played:
    """Play a leg whose training waits until `act` is done."""
    go = box.folder / "go"

    def on_progress(moment: Progress) -> None:
        if moment.phase == "train" and not go.exists():
            act()
            go.touch()

    try:
        with _planted(box.site / "glasshouse_extra.startup", _WAITING.format(go=str(go))):
            return box.play(on_progress=on_progress)
    finally:
        go.unlink(missing_ok=True)


def _finding(played: Played, named: str) -> Seen:
    reason = played.reason
    return Seen(reason=reason if reason is None or named in played.detail else played.detail, came_out=reason is None)


def _changed_after_measuring(box: Box) -> Seen:
    """What is on disk at the end is not what was vouched for at the start."""
    victim = box.site / VICTIM
    with contextlib.ExitStack() as until_the_end:
        played = _while_training(box, lambda: until_the_end.enter_context(_planted(victim, "# another file\n")))
    return _finding(played, "typing_extensions")


_LATE = """
import ctypes
loaded = []

def step():
    if not loaded:
        loaded.append(ctypes.CDLL({library!r}))
"""


def _late_library(box: Box) -> Seen:
    """A late dlopen is code nobody vouched for."""
    library = box.folder / "libplanted.so"
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    real = next(line.split()[-1] for line in lines if "/libm.so" in line or "/libm-" in line or "/libz.so" in line)
    with _planted(library, Path(os.path.realpath(real)).read_bytes()):
        text = _LATE.format(library=str(library))
        with _planted(box.site / "glasshouse_extra.startup", text):
            return _finding(box.play(), library.name)


# ------------------------------------------------------------------------------------------ another process of this user


def _early_memory(box: Box) -> Seen:
    """Memory of the launcher, opened before its fences stood and read while the leg holds the package's plaintext."""
    found: list[bool] = []

    def attack(neighbour: Neighbour) -> Played:
        def look() -> None:
            memory = neighbour.caught()
            if memory is not None:
                # It can be read (the command line is there), and what is in the leg is not in it.
                reads = memory.holds(b"--tell-pid")
                found.append(reads and memory.holds(box.sealed[-1].canary.reveal()[:32]))
                if not reads:
                    raise GlasshouseError("the descriptor that was opened early shows nothing at all")

        return _while_training(box, look)

    played = early_look(box, attack)
    return Seen(reason=played.reason or (None if any(found) else OUT_OF_REACH), came_out=any(found))


def _early_memory_of_the_agent(box: Box) -> Seen:
    """As above, of the agent: its key signs evidence."""
    found = looks_at_agent(box)
    return Seen(reason=None if found else OUT_OF_REACH, came_out=found)


def _keys_from_elsewhere(box: Box) -> Seen:
    """A process that took the leg's end of the socket while it could speaks there as the leg, with keys of its own."""
    played, taken = offers_keys(box)
    return Seen(reason=played.reason, came_out=taken or played.released > 0)


def _traced(box: Box) -> Seen:
    """A real ptrace of the launcher, before its fences stood, that follows it into the leg."""
    played = traces(box)
    return Seen(reason=played.reason, came_out=played.released > 0)


# -------------------------------------------------------------------------------------------- an environment of its own

#: An agent that gives its legs one variable more: the policy pins its archive, so that only the variable can be refused.
_INJECTING = """
import sys
from pathlib import Path

if "agent" in sys.argv:
    sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
    from pytest_glasshouse.guest import legrun

    honest = legrun.LegRun._environment
    variables = Path(sys.argv[sys.argv.index("--directory") + 1]) / "variables"

    def environment(self):
        more = variables.read_text().split("=", 1) if variables.exists() else ()
        return {**honest(self), **(dict([more]) if more else {})}

    legrun.LegRun._environment = environment
from pytest_glasshouse.agent.main import main

sys.exit(main())
"""


def _variable(name: str, value: str) -> Callable[[Box], Seen]:
    def play(box: Box) -> Seen:
        with _planted(box.directory / "variables", f"{name}={value}"):
            played = box.play()
        return Seen(reason=played.reason, came_out=played.released > 0)

    return play


#: How each kind of box starts; `None` is an honest guest's own beginning.
BOXES: dict[str, str | None] = {"honest": None, "injecting": _INJECTING}
_OBSERVED = "antidebug-observed"
CASES: tuple[GuestCase, ...] = (
    _case("file-changed", "composite", "appraise 8", _changed),
    _case("shadowing-module", "composite", "appraise 8", _shadowing_module),
    _case("shadowing-package", "composite", "appraise 8", _shadowing_package),
    _case("shadowing-library", "composite", "appraise 8", _shadowing_library),
    _case("byte-code-cache-changed", "composite", "appraise 8", _byte_code_cache),
    _case("meta-path-hook", "composite", "appraise 8", _startup(_META_PATH_HOOK)),
    _case("path-hook", "composite", "appraise 8", _startup(_PATH_HOOK)),
    _case("trace-function", _OBSERVED, "appraise 9", _startup(_TRACE)),
    _case("profile-function", _OBSERVED, "appraise 9", _startup(_PROFILE)),
    _case("debugger-loaded", _OBSERVED, "appraise 9", _startup(_DEBUGGER)),
    _case("dumpable-again", _OBSERVED, "appraise 9", _startup(_DUMPABLE)),
    _case("tracer", _OBSERVED, "appraise 9", _traced),
    *(
        _case(f"with-{name}", _OBSERVED, "appraise 9", _variable(name, value), box="injecting")
        for name, value in (
            ("LD_PRELOAD", "libz.so.1"),
            ("LD_AUDIT", "libz.so.1"),
            ("PYTHONPATH", "/tmp"),  # noqa: S108
            ("CUDA_INJECTION64_PATH", "libz.so.1"),
        )
    ),
    _case("forged-byte-code", NEVER_RUN, "bytecode", _never_runs(
        _forged_byte_code, ["-I", "-S", "-c", "import sys; sys.path.insert(0, {site!r}); import typing_extensions"],
    ), withheld="execution"),
    _case("pth", NEVER_RUN, "main", _never_runs(
        _pth, ["-I", "-c", "import site; site.addsitedir({site!r})"],
    ), withheld="execution"),
    _case("sitecustomize", NEVER_RUN, "main", _never_runs(_customize("sitecustomize.py"), ["-c", ""]), withheld="execution"),
    _case("usercustomize", NEVER_RUN, "main", _never_runs(
        _customize("usercustomize.py"), ["-c", "import usercustomize"],
    ), withheld="execution"),
    _case("file-changed-after-measuring", _ATTESTED, _ATTESTED, _changed_after_measuring, withheld="finding"),
    _case("late-library", _ATTESTED, _ATTESTED, _late_library, withheld="finding"),
    _case("early-memory-of-the-leg", OUT_OF_REACH, "launcher", _early_memory, withheld="memory"),
    _case("early-memory-of-the-agent", OUT_OF_REACH, "launcher", _early_memory_of_the_agent, withheld="memory"),
    _case("keys-of-another-process", "sender", "witness", _keys_from_elsewhere),
)  # fmt: skip
