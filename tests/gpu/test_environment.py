"""The environment of `make gpu`: wheels where the machine has nothing or something older, links to everything else."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu import environment, wheels
from benchmarks.gpu.environment import canonical, installed, link, make, missing, numbers, unpack

ROOT = Path(__file__).parents[2]
#: What a machine for training has.
MACHINES = {"torch", "transformers", "peft", "numpy", "scipy", "safetensors"}


def wheel(folder: Path, name: str, version: str, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        for place, text in files.items():
            archive.writestr(place, text)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages of a machine: one of each age, and one that no wheel has."""
    folder = tmp_path / "machine"
    for name, version in (("older", "1.9"), ("newer", "3.0"), ("only", "1.0"), ("pytest_glasshouse", "9.9")):
        unpack(wheel(tmp_path / "built", name, version), folder)
    monkeypatch.setattr(environment, "machine_folders", lambda: [folder])
    return folder


def test_the_newer_of_wheel_and_machine_is_taken(tmp_path: Path, machine: Path) -> None:
    for name, version in (("older", "1.10"), ("newer", "2.0"), ("absent", "1.0"), ("pytest_glasshouse", "0.1")):
        wheel(tmp_path / "wheels", name, version)
    python = make(tmp_path / "wheels", tmp_path / "made")
    site = next((tmp_path / "made" / "lib").glob("python3*")) / "site-packages"
    assert python.exists()
    versions = {path.stem: path.read_text().split("'")[1] for path in site.glob("*.py")}
    # The project's own wheel is always the one: the tree it was built from is what is looked at.
    assert versions == {"older": "1.10", "newer": "3.0", "absent": "1.0", "only": "1.0", "pytest_glasshouse": "0.1"}
    assert sorted(each.metadata["Name"] for each in importlib.metadata.distributions(path=[str(site)])) == sorted(versions)
    assert {path.stem for path in site.glob("*.py") if path.is_symlink()} == {"newer", "only"}


@pytest.mark.parametrize("place", ["../outside.py", "/etc/outside.py", "a/../../outside.py"])
def test_a_wheel_whose_files_lie_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(zipfile.BadZipFile, match="is no path in it"):
        unpack(wheel(tmp_path / "wheels", "bad", "1.0", **{place: ""}), tmp_path / "target")
    assert not list(tmp_path.rglob("outside.py"))


def test_links_leave_out_what_starts_code_by_itself(tmp_path: Path) -> None:
    folder, target = tmp_path / "machine", tmp_path / "target"
    for each in (folder, target):
        each.mkdir()
    (folder / "evil.pth").write_text("import os")
    (folder / "good.py").write_text("")
    link([folder], target)
    assert [path.name for path in target.iterdir()] == ["good.py"]


def test_versions_compare_by_number() -> None:
    assert numbers("1.10") > numbers("1.9") > numbers("1.9rc1"[:1]) > numbers("")
    assert numbers("2.13.0+cpu") == (2, 13, 0)


def test_distributions_are_found_by_any_spelling(machine: Path) -> None:
    assert installed([machine])["pytest-glasshouse"] == "9.9"
    assert canonical("Nvidia_ML.py") == "nvidia-ml-py"


def test_what_is_missing_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        environment, "_IMPORT_ALL", environment._IMPORT_ALL.replace("'torch'", "'no_such_package'").replace("'peft', ", "")
    )
    monkeypatch.setattr(environment, "_IMPORT_ALL", environment._IMPORT_ALL.replace("'transformers', ", ""))
    assert missing(sys.executable) == "no_such_package: ModuleNotFoundError: No module named 'no_such_package'"


def test_the_wheels_are_all_that_the_project_and_its_tests_need_beside_a_machine_for_training() -> None:
    """A package that comes to the dependencies and not to this list is found out on a machine without a network."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = {canonical(Requirement(each).name): Requirement(each) for each in wheels.PACKAGES}
    wanted = [Requirement(each) for each in (*project["dependencies"], "hypothesis>=6.150")]
    needed: set[str] = set()
    while wanted:
        one = wanted.pop()
        name = canonical(one.name)
        if name in MACHINES | needed or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        needed.add(name)
        wanted += [Requirement(each) for each in importlib.metadata.requires(name) or ()]
    assert needed <= listed.keys() | {"exceptiongroup"}
    for each in map(Requirement, project["dependencies"]):
        if (own := listed.get(canonical(each.name))) is not None:
            assert str(own.specifier) == str(each.specifier), each
