"""`make gpu-wheels`: the folder that `make gpu` takes its packages from, on a machine that has torch and no network.

    python -m benchmarks.gpu.wheels [DIRECTORY]       # build/gpu-wheels; needs pip, hatchling and a package index

The project's wheel, and those of its other needs for x86-64 Linux and one version of Python: less than 64 MiB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MOST_BYTES = 64 << 20
#: What a machine with torch, transformers and peft lacks, or has in an older version; each with the pin that this project tests.
#: scipy is not among them: it is large, and machines for training have it.
PACKAGES = (
    "attrs", "cffi", "cryptography>=50", "hypothesis>=6.150", "iniconfig", "joserfc>=1.8", "jsonschema>=4.26",
    "jsonschema-specifications", "nvidia-ml-py>=13", "packaging", "pluggy", "pycparser", "pygments", "pytest>=9", "referencing",
    "rfc3339-validator>=0.1.4", "rfc8785>=0.1.4", "rpds-py", "six", "sortedcontainers", "typing-extensions", "urllib3>=2.5",
)  # fmt: skip
#: pip matches the number exactly.
_PLATFORMS = (
    "manylinux_2_34_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
DEFAULT = Path("build/gpu-wheels")


def fill(directory: Path, *, python: str) -> list[Path]:
    """Fill `directory` anew for that Python; the wheels.

    Raises `subprocess.CalledProcessError`, and `ValueError` where they are too large.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", str(directory), "."], check=True)
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        target += ["--abi", abi]
    for platform in _PLATFORMS:
        target += ["--platform", platform]
    subprocess.run([*pip, "download", *quiet, *target, "--dest", str(directory), *PACKAGES], check=True)
    made = sorted(directory.glob("*.whl"))
    if (total := sum(each.stat().st_size for each in made)) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES >> 20} MiB of wheels, saw {total >> 20}")
    return made


def main() -> None:
    """Fill and say what is there."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    made = fill(directory, python=os.environ.get("GPU_PYTHON") or "3.12")
    size = sum(each.stat().st_size for each in made)
    print(f"{len(made)} wheels, {size / 2**20:.1f} MiB, in {directory}; take them along with this tree, and run make gpu there")


if __name__ == "__main__":
    main()
