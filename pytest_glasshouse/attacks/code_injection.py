"""Attacks by code injection: code and keys that a hash of the sources would miss, on a real agent, leg and server.

A case plants one thing in a target guest and plays one leg on it. The attack must fail: no key is released, or the planted code
never runs or reads nothing, or the attestation finding breaks. Each case states which of them, and with what reason.
"""

from __future__ import annotations

import contextlib
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_glasshouse.attacks.guest_case import Attack, AttackOutcome, GuestCase
from pytest_glasshouse.attacks.local_attacker import (
    LocalAttacker,
    impersonate_leg,
    open_launcher_memory,
    read_agent_memory,
    trace_leg,
)
from pytest_glasshouse.attacks.target_guest import VICTIM_MODULE, PlayedLeg, TargetGuest
from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.legs.leg_watch import Progress

#: The reasons of attacks that a guest prevents without a refusal: planted code that is not run, memory that cannot be read.
NEVER_RUN, OUT_OF_REACH = "never-run", "out-of-reach"
_ATTESTED = "attestation verified"


def _case(name: str, reason: str, caught_by: str, play: Attack, **rest: str) -> GuestCase:
    return GuestCase(name=f"executes-{name}", play=play, expected_reason=reason, caught_by=caught_by, **rest)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- code that runs and is detected


def _marker_code(guest: TargetGuest) -> str:
    return f"\nopen({str(guest.marker)!r}, 'w').close()\n"


@contextlib.contextmanager
def _planted(path: Path, content: str | bytes) -> Iterator[None]:
    """`content` at `path` until the end of the block; then the original file again, with its date."""
    original, times = (path.read_bytes(), path.stat()) if path.exists() else (None, None)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        yield
    finally:
        if original is None or times is None:
            path.unlink()
        else:
            path.write_bytes(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _expect_refusal(guest: TargetGuest, leg: PlayedLeg) -> AttackOutcome:
    """The refusal, provided that the planted code ran, and whether a key was released."""
    return AttackOutcome(reason=leg.reason if guest.marker.exists() else "the planted code did not run", leaked=leg.released > 0)


def _changed(guest: TargetGuest) -> AttackOutcome:
    with _planted(guest.site / VICTIM_MODULE, (guest.site / VICTIM_MODULE).read_text() + _marker_code(guest)):
        return _expect_refusal(guest, guest.play())


def _shadowing_module(guest: TargetGuest) -> AttackOutcome:
    with _planted(guest.shadow_folder / VICTIM_MODULE, (guest.site / VICTIM_MODULE).read_text() + _marker_code(guest)):
        return _expect_refusal(guest, guest.play())


def _shadowing_package(guest: TargetGuest) -> AttackOutcome:
    package = guest.shadow_folder / VICTIM_MODULE.removesuffix(".py")
    try:
        with _planted(package / "__init__.py", (guest.site / VICTIM_MODULE).read_text() + _marker_code(guest)):
            return _expect_refusal(guest, guest.play())
    finally:
        shutil.rmtree(package)


def _shadowing_library(guest: TargetGuest) -> AttackOutcome:
    """The real library with bytes appended, first on the path. The agent sees in the leg's mappings that it was loaded."""
    real = next(guest.site.glob("_cffi_backend.*.so"))
    with _planted(guest.shadow_folder / real.name, real.read_bytes() + b"planted"):
        leg = guest.play()
        return AttackOutcome(reason=leg.reason, leaked=leg.released > 0)


def _byte_code_cache(guest: TargetGuest) -> AttackOutcome:
    with _planted(guest.directory / "bytecode" / "planted.pyc", b"planted"):
        leg = guest.play()
        return AttackOutcome(reason=leg.reason, leaked=leg.released > 0)


def _startup(code: str) -> Attack:
    """A start-up file that an installed library runs. It is no module: all measured files are unchanged."""

    def play(guest: TargetGuest) -> AttackOutcome:
        text = code.format(victim=str(guest.site / VICTIM_MODULE), folder=str(guest.folder)) + _marker_code(guest)
        with _planted(guest.site / "glasshouse_extra.startup", text):
            return _expect_refusal(guest, guest.play())

    return play


#: Loads other code under an installed module's name, and names the installed file as its origin.
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


# ------------------------------------------------------------------------------------ code in the launcher that legs share


#: In a module of the launcher: it would run in every leg that is forked from there.
_AT_FORK = """
import os
os.register_at_fork(after_in_child=lambda: open({marker!r}, "w").close())
"""


def _left_in_the_launcher(guest: TargetGuest) -> AttackOutcome:
    """Code planted in what the launcher imports, and gone from the disk again before the next leg is forked from it."""
    victim = guest.site / VICTIM_MODULE
    with _planted(victim, victim.read_text() + _AT_FORK.format(marker=str(guest.marker))):
        first = guest.play()
    if not guest.marker.exists() or first.released:
        return AttackOutcome(reason="the planted code did not run, or its leg got a key", leaked=first.released > 0)
    leg = guest.play(warm=True)
    ran = guest.marker.exists()
    return AttackOutcome(reason=NEVER_RUN if not ran and leg.reason is None else leg.reason, leaked=ran)


def _changed_under_the_launcher(guest: TargetGuest) -> AttackOutcome:
    """A module is replaced once a launcher has it: the next leg is forked from one that has what is there now."""
    guest.play()
    with _planted(guest.site / VICTIM_MODULE, (guest.site / VICTIM_MODULE).read_text() + _marker_code(guest)):
        return _expect_refusal(guest, guest.play(warm=True))


# -------------------------------------------------------------------------------------------------- code that never runs


def _never_runs(plant: Callable[[TargetGuest], contextlib.AbstractContextManager[None]], plain: list[str]) -> Attack:
    """A plain interpreter runs the planted code (the control); the leg does not."""

    def play(guest: TargetGuest) -> AttackOutcome:
        with plant(guest):
            command = [sys.executable, *(part.format(site=str(guest.site)) for part in plain)]
            environment = {"PYTHONPATH": str(guest.site), "PYTHONDONTWRITEBYTECODE": "1"}
            subprocess.run(command, check=True, env=environment)  # noqa: S603
            if not guest.marker.exists():
                return AttackOutcome(reason="a plain interpreter does not run it either", leaked=False)
            leg = guest.play()
            ran = guest.marker.exists()
        # The leg must be released: only a complete leg shows that the planted code had its chance.
        return AttackOutcome(reason=NEVER_RUN if not ran and leg.reason is None else leg.reason, leaked=ran)

    return play


def _pth(guest: TargetGuest) -> contextlib.AbstractContextManager[None]:
    return _planted(guest.site / "zz.pth", f"import sys; open({str(guest.marker)!r}, 'w').close()\n")


def _customize(name: str) -> Callable[[TargetGuest], contextlib.AbstractContextManager[None]]:
    return lambda guest: _planted(guest.site / name, _marker_code(guest))


@contextlib.contextmanager
def _forged_byte_code(guest: TargetGuest) -> Iterator[None]:
    """Byte code of another source, with the date and size of the honest one, which the interpreter checks."""
    source = guest.site / VICTIM_MODULE
    honest, before = source.read_bytes(), source.stat()
    with _planted(source, honest + _marker_code(guest).encode()):
        # Beside the source, where an interpreter looks that was told nothing else; this one may have a `pycache_prefix`.
        cached = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        py_compile.compile(str(source), cfile=str(cached), doraise=True)
    forged = bytearray(cached.read_bytes())
    forged[8:12] = int(before.st_mtime).to_bytes(4, "little")
    forged[12:16] = (len(honest) & 0xFFFFFFFF).to_bytes(4, "little")
    cached.write_bytes(forged)
    try:
        yield
    finally:
        shutil.rmtree(cached.parent)


# ------------------------------------------------------------------------------------------------- after the measurement


#: The leg's training waits for the host to act.
_WAITING = """
import os, time

def step():
    while not os.path.exists({go!r}):
        time.sleep(0.001)
"""


def _while_training(guest: TargetGuest, act: Callable[[], None]) -> PlayedLeg:
    """Play a leg whose training waits until `act` is done."""
    go = guest.folder / "go"

    def on_progress(moment: Progress) -> None:
        if moment.phase == "train" and not go.exists():
            act()
            go.touch()

    try:
        with _planted(guest.site / "glasshouse_extra.startup", _WAITING.format(go=str(go))):
            return guest.play(on_progress=on_progress)
    finally:
        go.unlink(missing_ok=True)


def _finding(leg: PlayedLeg, named: str) -> AttackOutcome:
    reason = leg.reason
    return AttackOutcome(reason=reason if reason is None or named in leg.detail else leg.detail, leaked=reason is None)


def _changed_after_measuring(guest: TargetGuest) -> AttackOutcome:
    """The file on disk at the end is not the one measured at the start."""
    victim = guest.site / VICTIM_MODULE
    with contextlib.ExitStack() as until_the_end:
        leg = _while_training(guest, lambda: until_the_end.enter_context(_planted(victim, "# another file\n")))
    return _finding(leg, "typing_extensions")


_LATE = """
import ctypes
loaded = []

def step():
    if not loaded:
        loaded.append(ctypes.CDLL({library!r}))
"""


def _late_library(guest: TargetGuest) -> AttackOutcome:
    """A late dlopen loads code that was never measured."""
    library = guest.folder / "libplanted.so"
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    real = next(line.split()[-1] for line in lines if "/libm.so" in line or "/libm-" in line or "/libz.so" in line)
    with _planted(library, Path(os.path.realpath(real)).read_bytes()):
        text = _LATE.format(library=str(library))
        with _planted(guest.site / "glasshouse_extra.startup", text):
            return _finding(guest.play(), library.name)


# ------------------------------------------------------------------------------------------ another process of this user


def _early_memory(guest: TargetGuest) -> AttackOutcome:
    """Memory of the launcher, opened before its fences were up and read while the leg holds the package's plaintext."""
    found: list[bool] = []

    def attack(attacker: LocalAttacker) -> PlayedLeg:
        def look() -> None:
            memory = attacker.memory()
            if memory is not None:
                # The descriptor can be read (it shows the command line), and does not show the leg's plaintext.
                reads = memory.holds(b"--pid-fd")
                found.append(reads and memory.holds(guest.sealed[-1].canary.reveal()[:32]))
                if not reads:
                    raise GlasshouseError("the descriptor opened early cannot read the process's memory at all")

        return _while_training(guest, look)

    leg = open_launcher_memory(guest, attack)
    return AttackOutcome(reason=leg.reason or (None if any(found) else OUT_OF_REACH), leaked=any(found))


def _early_memory_of_the_agent(guest: TargetGuest) -> AttackOutcome:
    """The same for the agent, whose key signs evidence."""
    found = read_agent_memory(guest)
    return AttackOutcome(reason=None if found else OUT_OF_REACH, leaked=found)


def _keys_from_elsewhere(guest: TargetGuest) -> AttackOutcome:
    """A process that took over the leg's socket answers the agent as the leg, with its own keys."""
    leg, taken = impersonate_leg(guest)
    return AttackOutcome(reason=leg.reason, leaked=taken or leg.released > 0)


def _traced(guest: TargetGuest) -> AttackOutcome:
    """A real ptrace of the launcher from before its fences are up, which follows it into the leg."""
    leg = trace_leg(guest)
    return AttackOutcome(reason=leg.reason, leaked=leg.released > 0)


# -------------------------------------------------------------------------------------------- environment variables


def _variable(name: str, value: str) -> Attack:
    def play(guest: TargetGuest) -> AttackOutcome:
        with _planted(guest.directory / "variables", f"{name}={value}"):
            leg = guest.play()
        return AttackOutcome(reason=leg.reason, leaked=leg.released > 0)

    return play


_OBSERVED = "antidebug-observed"
CASES: tuple[GuestCase, ...] = (
    _case("file-changed", "composite", "appraise 8", _changed),
    _case("changed-under-the-launcher", "composite", "appraise 8", _changed_under_the_launcher),
    _case("left-in-the-launcher", NEVER_RUN, "launchers", _left_in_the_launcher, asset="execution"),
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
        _case(f"with-{name}", _OBSERVED, "appraise 9", _variable(name, value), guest="injecting")
        for name, value in (
            ("LD_PRELOAD", "libz.so.1"),
            ("LD_AUDIT", "libz.so.1"),
            ("PYTHONPATH", "/tmp"),  # noqa: S108
            ("CUDA_INJECTION64_PATH", "libz.so.1"),
        )
    ),
    _case("forged-byte-code", NEVER_RUN, "bytecode", _never_runs(
        _forged_byte_code, ["-I", "-S", "-c", "import sys; sys.path.insert(0, {site!r}); import typing_extensions"],
    ), asset="execution"),
    _case("pth", NEVER_RUN, "main", _never_runs(
        _pth, ["-I", "-c", "import site; site.addsitedir({site!r})"],
    ), asset="execution"),
    _case("sitecustomize", NEVER_RUN, "main", _never_runs(_customize("sitecustomize.py"), ["-c", ""]), asset="execution"),
    _case("usercustomize", NEVER_RUN, "main", _never_runs(
        _customize("usercustomize.py"), ["-c", "import usercustomize"],
    ), asset="execution"),
    _case("file-changed-after-measuring", _ATTESTED, _ATTESTED, _changed_after_measuring, asset="finding"),
    _case("late-library", _ATTESTED, _ATTESTED, _late_library, asset="finding"),
    _case("early-memory-of-the-leg", OUT_OF_REACH, "launcher", _early_memory, asset="memory"),
    _case("early-memory-of-the-agent", OUT_OF_REACH, "launcher", _early_memory_of_the_agent, asset="memory"),
    _case("keys-of-another-process", "sender", "witness", _keys_from_elsewhere),
)  # fmt: skip
