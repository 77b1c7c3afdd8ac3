"""An environment for the steps, made without a network: this project's wheels beside the packages that the machine's Python has.

    python -m benchmarks.gpu.environment WHEELS DIRECTORY     # run by the Python that has torch; prints the new one's path

What stands in the machine's own site-packages is linked, so that a guest, which gets one folder of packages, finds all of it.
A wheel is used where the machine has no such package, or an older one than the wheel.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

#: Always the tree's own.
PROJECT = "pytest-glasshouse"
#: What has to be importable, whoever brings it.
IMPORTS = ("torch", "transformers", "peft", "safetensors", "numpy", "scipy", "urllib3", "cryptography.hazmat.primitives.hpke",
           "joserfc", "rfc8785", "jsonschema", "pynvml", "pytest", "hypothesis", "pytest_glasshouse")  # fmt: skip
_LEFT_OUT = ("__pycache__", "bin")


def canonical(name: str) -> str:
    """A distribution's name in the one spelling that is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    """The numbers a version begins with: enough to tell an older one."""
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(int(each) for each in release[0].split(".")) if release else ()


def make(wheels: Path, directory: Path) -> Path:
    """Make the environment anew; the path of its Python.

    Raises `OSError`, `zipfile.BadZipFile` and `subprocess.CalledProcessError`.
    """
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = directory / "lib" / version / "site-packages"
    folders = machine_folders()
    there = installed(folders)
    for wheel in sorted(wheels.glob("*.whl")):
        name, release = wheel.name.split("-")[:2]
        own = canonical(name) == PROJECT
        if own or numbers(there.get(canonical(name), "")) < numbers(release):
            unpack(wheel, target)
    link(folders, target)
    return directory / "bin" / "python"


def machine_folders() -> list[Path]:
    """Where this Python's packages stand."""
    named = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return [path for path in map(Path, dict.fromkeys(named)) if path.is_dir()]


def installed(folders: list[Path]) -> dict[str, str]:
    """The version of each distribution in these folders."""
    found: dict[str, str] = {}
    for each in importlib.metadata.distributions(path=[str(folder) for folder in folders]):
        if name := each.metadata["Name"]:
            found.setdefault(canonical(name), each.version)
    return found


def unpack(wheel: Path, target: Path) -> None:
    """A wheel's packages; scripts are left out."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if ".." in parts or name.startswith("/"):
                raise zipfile.BadZipFile(f"{wheel.name}: {name!r} is no path in it")
            if not parts[0].endswith(".data"):
                archive.extract(name, target)


def link(folders: list[Path], target: Path) -> None:
    """Link everything that the folders have and `target` does not, but for other versions of what it has."""
    own = {canonical(path.name.split("-")[0]) for path in target.glob("*.dist-info")}
    for folder in folders:
        for entry in folder.iterdir():
            other = entry.name.endswith(".dist-info") and canonical(entry.name.split("-")[0]) in own
            place = target / entry.name
            if other or entry.name in _LEFT_OUT or entry.suffix == ".pth" or place.exists() or place.is_symlink():
                continue
            place.symlink_to(entry)


def missing(python: Path | str) -> str:
    """Which of `IMPORTS` that Python cannot import, and why, in one line; empty where it can import all of them.

    Asked as a guest asks: isolated, and with nothing but the interpreter's own folders of packages.
    """
    folders = _printed(
        [str(python), "-I", "-c", "import sysconfig as s; print(s.get_path('purelib')); print(s.get_path('platlib'))"]
    )
    tree = str(Path(__file__).parents[2])
    return "; ".join(_printed([str(python), "-I", "-S", "-c", _IMPORT_ALL, *dict.fromkeys([*folders, tree])]))


_IMPORT_ALL = f"""
import importlib, sys
sys.path += sys.argv[1:]
for name in {IMPORTS!r}:
    try:
        importlib.import_module(name)
    except BaseException as error:
        print(f"{{name}}: {{type(error).__name__}}: {{error}}".splitlines()[0][:160])
"""


def _printed(command: list[str]) -> list[str]:
    """The lines that a Python prints, and how it ended where it did not end well."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return lines if done.returncode == 0 else [*lines, f"exit {done.returncode}: {done.stderr.strip()[-160:]}"]


if __name__ == "__main__":
    print(made := make(Path(sys.argv[1]), Path(sys.argv[2])))
    if lacks := missing(made):
        sys.exit(f"the environment lacks {lacks}")
