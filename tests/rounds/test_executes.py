"""Measured is executed: code that a plain hash of the sources would miss is not run, or the key is not released.

Each test plants something in a guest's own site-packages: a directory of links to the real ones with one thing changed.
"""

from __future__ import annotations

import os
import py_compile
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.invariants import Finding, attestation_verified, judge
from pytest_glasshouse.legs.progress import Progress
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from tests.rounds.conftest import Ran, carry_out, short_row

#: A module every leg imports, one file, named in its distribution's RECORD.
VICTIM = "typing_extensions.py"
_REAL = Path(sysconfig.get_path("purelib"))


def _overlay(folder: Path) -> Path:
    """Links to everything that is installed; the victim is a copy of its own."""
    folder.mkdir()
    for entry in _REAL.iterdir():
        if entry.name not in (VICTIM, "__pycache__"):
            (folder / entry.name).symlink_to(entry)
    shutil.copy2(_REAL / VICTIM, folder / VICTIM)
    return folder


def _mark(marker: Path) -> str:
    return f"\nopen({str(marker)!r}, 'w').close()\n"


def _run(tmp_path: Path, site_packages: list[Path], **settings: object) -> Ran:
    provider = MockProvider(site_packages=[str(path) for path in site_packages])
    return carry_out(short_row(order="protected-first"), tmp_path / "run", provider=provider, **settings)  # type: ignore[arg-type]


def _attestation(ran: Ran) -> Finding:
    return attestation_verified(ran.outcome.observation)


def test_untouched_copy_of_the_installation_is_accounted_for(tmp_path: Path) -> None:
    """The control: an overlay alone is no reason to refuse."""
    ran = _run(tmp_path, [_overlay(tmp_path / "site")])
    assert {f.invariant for f in judge(ran.outcome.observation) if f.finding != "held"} == set()


def _changed(site: Path, marker: Path) -> list[Path]:
    with (site / VICTIM).open("a") as file:
        file.write(_mark(marker))
    return [site]


def _shadowed(site: Path, marker: Path) -> list[Path]:
    front = site.parent / "front"
    front.mkdir()
    (front / VICTIM).write_text((site / VICTIM).read_text() + _mark(marker))
    return [front, site]


def _shadowed_by_a_package(site: Path, marker: Path) -> list[Path]:
    front = site.parent / "front"
    (front / "typing_extensions").mkdir(parents=True)
    (front / "typing_extensions" / "__init__.py").write_text((site / VICTIM).read_text() + _mark(marker))
    return [front, site]


@pytest.mark.parametrize("plant", [_changed, _shadowed, _shadowed_by_a_package], ids=lambda plant: plant.__name__)
def test_code_that_is_not_what_was_installed_gets_no_key(plant: Callable[[Path, Path], list[Path]], tmp_path: Path) -> None:
    """It ran before anything could be measured; that it ran is what refuses it."""
    marker = tmp_path / "ran"
    ran = _run(tmp_path, plant(_overlay(tmp_path / "site"), marker))
    assert marker.exists()
    assert (_attestation(ran).finding, "composite" in _attestation(ran).reason) == ("broken", True)
    assert "result" not in ran.outcome.observation["rounds"][0]["protected"]


def _sitecustomize(site: Path, marker: Path) -> None:
    (site / "sitecustomize.py").write_text(_mark(marker))
    (site / "usercustomize.py").write_text(_mark(marker))


def _pth(site: Path, marker: Path) -> None:
    (site / "zz.pth").write_text(f"import sys; open({str(marker)!r}, 'w').close()\n")


def _forged_byte_code(site: Path, marker: Path) -> None:
    source = site / VICTIM
    honest = source.read_bytes()
    before = source.stat()
    # Compiled from another source of the same size and date, as the interpreter checks them.
    source.write_bytes(honest + _mark(marker).encode())
    cached = Path(py_compile.compile(str(source), doraise=True) or "")
    source.write_bytes(honest)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    forged = bytearray(cached.read_bytes())
    forged[8:12] = int(before.st_mtime).to_bytes(4, "little")
    forged[12:16] = (len(honest) & 0xFFFFFFFF).to_bytes(4, "little")
    cached.write_bytes(forged)


@pytest.mark.parametrize("plant", [_sitecustomize, _pth, _forged_byte_code], ids=lambda plant: plant.__name__)
def test_code_that_a_plain_interpreter_would_run_is_never_run(plant: Callable[[Path, Path], None], tmp_path: Path) -> None:
    """Start-up hooks and forged byte code leave the sources as they should be."""
    marker, site = tmp_path / "ran", _overlay(tmp_path / "site")
    plant(site, marker)
    ran = _run(tmp_path, [site])
    assert not marker.exists()
    assert _attestation(ran).finding == "held"


def test_forged_byte_code_would_run_in_a_plain_interpreter(tmp_path: Path) -> None:
    """The control of the test above: the forgery is a good one."""
    import subprocess
    import sys

    marker, site = tmp_path / "ran", _overlay(tmp_path / "site")
    _forged_byte_code(site, marker)
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import typing_extensions"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
    assert marker.exists()


def test_file_changed_after_it_was_measured_breaks_the_attestation(tmp_path: Path) -> None:
    """What is on disk at the end is not what was vouched for at the start."""
    site = _overlay(tmp_path / "site")

    def change(progress: Progress, _directory: Path) -> None:
        if (progress.leg, progress.phase) == ("protected", "train"):
            (site / VICTIM).write_text("# another file\n")

    ran = _run(tmp_path, [site], on_progress=change)
    assert (_attestation(ran).finding, "typing_extensions" in _attestation(ran).reason) == ("broken", True)


def test_byte_code_cache_changed_between_the_legs_gets_no_key(tmp_path: Path) -> None:
    """The private cache is the guest's, and it is what was built or it is foreign."""

    def poison(progress: Progress, directory: Path) -> None:
        if (progress.leg, progress.phase) == ("raw", "exit"):
            (directory / "bytecode" / "planted.pyc").write_bytes(b"planted")

    ran = carry_out(short_row(), tmp_path, on_progress=poison)
    assert (_attestation(ran).finding, "composite" in _attestation(ran).reason) == ("broken", True)


_LATE = """
import ctypes, sys

sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from pytest_glasshouse.guest import main, protected

honest = protected.train

def train(plan, parts, **rest):
    ctypes.CDLL({library!r})
    return honest(plan, parts, **rest)

protected.train = train
sys.exit(main.main())
"""


def test_library_loaded_after_measuring_breaks_the_attestation(tmp_path: Path) -> None:
    """A late dlopen is code nobody vouched for."""
    library = tmp_path / "libplanted.so"
    with Path("/proc/self/maps").open() as maps:
        real = next(line.split()[-1] for line in maps if "/libm.so" in line or "/libm-" in line or "/libz.so" in line)
    shutil.copy(os.path.realpath(real), library)
    archive = build_archive({"__main__.py": _LATE.format(library=str(library)).encode()})
    provider = MockProvider(archive=archive)
    ran = carry_out(short_row(order="protected-first"), tmp_path / "run", provider=provider)
    assert (_attestation(ran).finding, "libplanted.so" in _attestation(ran).reason) == ("broken", True)


def test_nothing_foreign_has_the_digest_the_policy_requires() -> None:
    """The reference value comes from nobody's guest."""
    from pytest_glasshouse.guest.images import NOTHING_FOREIGN

    assert sha256_hex(canonical([])) == NOTHING_FOREIGN
