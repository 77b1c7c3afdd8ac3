"""Code that a leg loads is what was installed, what was there before the agent, or foreign: there is no fourth kind."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.agent.installed_code import Baseline, CodeMeasurement
from pytest_glasshouse.agent.leg_environment import leg_environment
from tests.limits import until

if TYPE_CHECKING:
    from pytest_glasshouse.wire.leg_messages import LoadedFiles


def loaded(*paths: Path) -> LoadedFiles:
    """A leg that has mapped these files to execute them."""
    return {"maps": [[str(path), f"08:01:{path.stat().st_ino}"] for path in paths], "modules": [], "hooks": []}


def measured(baseline: Baseline, *paths: Path) -> CodeMeasurement:
    return baseline.measure_loaded(loaded(*paths), archive="/no/archive")


def a_library(folder: Path, name: str = "libc10.so") -> Path:
    """A file that could be mapped; what is in it does not matter here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\x7fELF code")
    return folder / name


def a_baseline(*folders: Path) -> Baseline:
    """One that began after every file that is there now was written: files are dated by a coarser clock."""
    newest = max((path.stat().st_ctime_ns for folder in folders for path in folder.rglob("*")), default=0)
    until(lambda: time.time_ns() > newest, "a later time")
    return Baseline(site_packages=[])


def test_a_library_that_was_there_before_the_agent_is_the_systems(tmp_path: Path) -> None:
    library = a_library(tmp_path / "usr" / "lib")
    found = measured(a_baseline(tmp_path), library)
    assert (list(found.system), found.foreign) == ([str(library)], ())


@pytest.mark.parametrize("variable", ["TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "HOME"])
def test_code_that_is_compiled_at_run_time_is_no_system_library(tmp_path: Path, variable: str) -> None:
    """Triton's launchers are libraries in its cache: they were measured as the system's, which every policy admits."""
    baseline = a_baseline(tmp_path)
    folder = Path(leg_environment(tmp_path / "legs" / "raw", strict_memory=False)[variable])
    found = measured(baseline, a_library(folder / "ZXC", "__triton_launcher.so"))
    assert found.foreign == ("__triton_launcher.so: compiled or written at run time",)
    assert found.system == {}


def test_a_system_library_that_is_replaced_while_the_agent_runs_is_foreign(tmp_path: Path) -> None:
    """Its date can be set back; the time of its last change cannot."""
    library = a_library(tmp_path)
    baseline, before = a_baseline(tmp_path), library.stat()
    library.write_bytes(library.read_bytes() + b"planted")
    os.utime(library, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert measured(baseline, library).foreign == ("libc10.so: compiled or written at run time",)


@pytest.mark.torch
def test_a_legs_variables_turn_off_what_torch_compiles_at_run_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that the installed torch knows: torch itself is asked."""
    from torch._native.common_utils import check_native_jit_disabled

    for name, value in leg_environment(tmp_path / "leg", strict_memory=False).items():
        if name.startswith("TORCH_"):
            monkeypatch.setenv(name, value)
    assert check_native_jit_disabled.__wrapped__()


def test_both_legs_have_one_cache_of_each_kind_and_none_in_their_workspaces(tmp_path: Path) -> None:
    """A cache in a workspace would be left behind there; two would be two differences between the legs."""
    first, second = (leg_environment(tmp_path / "legs" / leg, strict_memory=False) for leg in ("a", "b"))
    caches = {name for name in first if name.endswith("_CACHE_DIR")}
    assert caches == {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    assert len({first[name] for name in caches}) == 2
    assert {first[name] for name in caches} == {second[name] for name in caches}
    assert all(Path(first[name]).parent == tmp_path / "legs" for name in caches)
    assert (first["CUDA_CACHE_DISABLE"], first["USE_PYTORCH_KERNEL_CACHE"]) == ("1", "0")
