"""Measured is executed: every attack of that kind fails, and on a guest without its defences every one of them succeeds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files

import pytest

from pytest_glasshouse.attacks.code_injection import CASES
from pytest_glasshouse.attacks.guest_case import GuestCase, run_guest_case
from pytest_glasshouse.attacks.local_attacker import NotPlayedError
from pytest_glasshouse.attacks.target_guest import TargetGuests
from pytest_glasshouse.tamper.result import TamperResult
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.evidence import NOTHING_FOREIGN

#: Every defence of the guest's that these cases are about, taken out: file, what stands there, what stands there without it.
WITHOUT: tuple[tuple[str, str, str], ...] = (
    (
        "guest/launcher.py",
        "    pid = os.fork()\n    if pid == 0:\n        die_with_parent()\n        os.close(pid_fd)",
        "    pid = 0\n    if pid == 0:\n        os.close(pid_fd)",
    ),
    ("guest/launcher.py", "    harden_process()\n    pid = os.fork()", "    harden_process()\n    pid = 0"),
    ("guest/launcher.py", "        die_with_parent()\n        return", "        return"),
    ("wire/peer_credentials.py", "foreign = bool(count) and senders != {self.pid}", "foreign = False"),
    ("agent/installed_code.py", 'foreign.append(f"{name}: not as installed")', "pass"),
    ("agent/installed_code.py", 'foreign.append(f"{Path(path).name}: not as installed")', "pass"),
    ("agent/installed_code.py", "if not self._is_hook(path, archive)", "if False"),
    ("agent/bytecode_cache.py", "return tree_digest(self.directory) == self.digest", "return True"),
    ("agent/bytecode_cache.py", 'return "-X", f"pycache_prefix={self.directory}"', 'return "-X", "utf8"'),
    ("agent/leg_code.py", 'status = "changed" if changed or now.hooks != then.hooks else "unchanged"', 'status = "unchanged"'),
    ("guest/antidebug.py", '"tracer_pid": tracer()', '"tracer_pid": 0'),
    ("guest/antidebug.py", "int(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))", "0"),
    ("guest/antidebug.py", "int(sys.gettrace() is not None)", "0"),
    ("guest/antidebug.py", "int(sys.getprofile() is not None)", "0"),
    ("guest/antidebug.py", '"preload": [*preload]', '"preload": []'),
    ("guest/antidebug.py", "[name for name in evidence.CUDA_VARIABLES if os.environ.get(name)]", "[]"),
    ("guest/antidebug.py", "[*sorted(python)]", "[]"),
    ("guest/antidebug.py", "[name for name in evidence.DEBUGGER_MODULES if name in sys.modules]", "[]"),
)
#: `-S` alone keeps these out, and a guest without it would run the start-up hooks of this installation, not of the target guest.
BY_DASH_S = {"executes-pth", "executes-sitecustomize", "executes-usercustomize"}
#: Each of these gets past the very line of `WITHOUT` that another case, named beside it, gets past too: in `make soak`.
SAME: set[str] = set()
if not os.environ.get("SOAK"):
    SAME = {
        "executes-with-LD_AUDIT",  # executes-with-LD_PRELOAD
        "executes-path-hook",  # executes-meta-path-hook
        "executes-shadowing-package",  # executes-shadowing-module
    }


def _undefended() -> dict[str, bytes]:
    room = files("pytest_glasshouse")
    texts: dict[str, str] = {}
    for name, there, without in WITHOUT:
        text = texts.get(name) or (room / name).read_text()
        assert there in text, f"{name} has no {there!r} any more"
        texts[name] = text.replace(there, without, 1)
    return {f"pytest_glasshouse/{name}": text.encode() for name, text in texts.items()}


@pytest.fixture(scope="module", name="guests")
def shared_guests() -> Iterator[TargetGuests]:
    guests = TargetGuests()
    yield guests
    guests.close()


@pytest.fixture(scope="module", name="undefended")
def undefended_guests() -> Iterator[TargetGuests]:
    guests = TargetGuests(_undefended())
    yield guests
    guests.close()


def _run(case: GuestCase, guests: TargetGuests) -> TamperResult:
    try:
        return run_guest_case(case, guests)
    except NotPlayedError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_attack_fails_as_its_case_says(case: GuestCase, guests: TargetGuests) -> None:
    result = _run(case, guests)
    assert result.passed, result


@pytest.mark.soak
@pytest.mark.parametrize("case", [c for c in CASES if c.name not in BY_DASH_S | SAME], ids=lambda case: case.name)
def test_attack_succeeds_on_a_guest_without_its_defence(case: GuestCase, undefended: TargetGuests) -> None:
    """The attacks are real ones: without the defence each of them succeeds."""
    result = _run(case, undefended)
    assert (result.control_released, result.released, result.passed) == (True, True, False), result


def test_required_digest_of_foreign_modules_is_that_of_an_empty_list() -> None:
    """The reference value comes from no guest."""
    assert sha256_hex(canonical([])) == NOTHING_FOREIGN
