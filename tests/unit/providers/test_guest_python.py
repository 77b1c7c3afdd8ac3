"""A guest sees only the folders it is given: they are those that its packages are really imported from."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pytest_glasshouse.channel.pod_install import device_environment, driver_folder
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.guest.torch_probe import NEEDED
from pytest_glasshouse.providers.guest_python import check_imports, guest_folders

ROOT = Path(__file__).parents[3]
SITE = Path(sysconfig.get_path("purelib"))
#: What a guest imports before it trains; one of them needs a fourth.
MOVED = ("cryptography", "joserfc", "rfc8785", "cffi", "_cffi_backend", "safetensors")


def elsewhere(folder: Path) -> Path:
    """A folder with some packages of this environment, as `pip install --target` leaves them."""
    for entry in SITE.iterdir():
        if entry.name.split("-")[0].split(".")[0] in MOVED and not entry.name.endswith(".pth"):
            (folder / entry.name).symlink_to(entry)
    return folder


def _said(code: str, *path: Path, site: bool = False) -> str:
    """What an interpreter prints that finds packages on `path` only, and then in this environment where `site`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    command = [sys.executable, *([] if site else ["-S"]), "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


FOLDERS = "from pytest_glasshouse.providers.guest_python import guest_folders; print(*guest_folders(), sep='\\n')"


def test_folders_are_this_environments_and_no_others() -> None:
    assert [os.path.realpath(each) for each in guest_folders()] == [os.path.realpath(SITE)]
    check_imports(guest_folders())


def test_folder_outside_the_environment_is_found_and_comes_where_it_is_searched(tmp_path: Path) -> None:
    """`pip --target` with PYTHONPATH, `--user` and `--system-site-packages` end in such folders."""
    target, empty = tmp_path / "target", tmp_path / "empty"
    target.mkdir()
    elsewhere(target)
    empty.mkdir()
    (empty / "unrelated-1.dist-info").mkdir()
    (empty / "unrelated-1.dist-info" / "METADATA").write_text("Name: unrelated\nVersion: 1\n")
    found = _said(FOLDERS, empty, target, site=True).splitlines()
    assert found[0] == str(target)
    assert [os.path.realpath(each) for each in found[1:]] == [os.path.realpath(SITE)]
    assert str(empty) not in found


def test_package_that_only_another_one_needs_is_found_too(tmp_path: Path) -> None:
    """By its distribution: the guest imports `cryptography`, and that imports `cffi`."""
    for entry in SITE.iterdir():
        if entry.name.split("-")[0].split(".")[0] in ("cffi", "_cffi_backend"):
            (tmp_path / entry.name).symlink_to(entry)
    assert str(tmp_path) in _said(FOLDERS, tmp_path, site=True).splitlines()


def test_folder_of_a_package_that_no_record_names_is_found(tmp_path: Path) -> None:
    """A checkout on PYTHONPATH, or a folder that packages were copied into."""
    (tmp_path / "rfc8785").symlink_to(SITE / "rfc8785")
    assert _said(FOLDERS, tmp_path, site=True).splitlines()[0] == str(tmp_path)


def test_guest_imports_what_the_host_does_from_these_folders(tmp_path: Path) -> None:
    target = elsewhere(tmp_path)
    code = "import sys; sys.path.extend(sys.argv[1:]); import cryptography; print(cryptography.__file__)"
    folders = _said(FOLDERS, target, site=True).splitlines()
    said = subprocess.run([sys.executable, "-I", "-S", "-c", code, *folders], capture_output=True, text=True, check=True)
    assert said.stdout.startswith(str(target))


def test_rented_guest_gets_the_folder_that_its_images_torch_is_imported_from(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    code = "from pytest_glasshouse.channel.pod_install import folders; print(*folders(['torch', 'no_such']), sep='\\n')"
    assert _said(code, tmp_path, site=True).splitlines() == [sysconfig.get_path("purelib"), str(tmp_path)]


def test_missing_package_is_one_line_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_imports([str(tmp_path)])
    assert str(caught.value).startswith(f"a guest on this machine cannot import {', '.join(NEEDED)} from 1 folders")
    assert "\n" not in str(caught.value)


def _library(folder: Path, *names: str) -> str:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def test_driver_that_only_the_search_path_leads_to_is_passed_as_one_folder(tmp_path: Path) -> None:
    """Containers mount the driver there. No other folder of the variable reaches a guest: it would find other libraries too."""
    nothing = _library(tmp_path / "cuda" / "lib64", "libcudart.so.12")
    stubs = _library(tmp_path / "cuda" / "stubs", "libcuda.so.1", "libnvidia-ml.so.1")
    management = _library(tmp_path / "ml", "libnvidia-ml.so.1")
    driver = _library(tmp_path / "nvidia", "libcuda.so.1")
    assert driver_folder(f"{nothing}:{stubs}:{management}:{driver}") == driver
    assert driver_folder(f"{management}:{nothing}") == management
    both = _library(tmp_path / "both", "libcuda.so.1", "libnvidia-ml.so.1")
    assert driver_folder(f"{driver}:{both}") == both
    assert [driver_folder(each) for each in ("", ":", "relative", f"{nothing}:{stubs}")] == ["", "", "", ""]
    environ = {"LD_LIBRARY_PATH": f"{nothing}:{driver}", "CUDA_VISIBLE_DEVICES": "1", "LD_PRELOAD": "x", "HOME": "/"}
    assert device_environment(environ) == {"LD_LIBRARY_PATH": driver, "CUDA_VISIBLE_DEVICES": "1"}
    assert device_environment({"LD_LIBRARY_PATH": nothing}) == {}
