"""Runs the steps of `plan.py` on the GPU of this machine.

    python -m benchmarks.gpu [--out DIRECTORY] [--total-seconds 470] [--only STEP,STEP] [--fresh] [--rehearse]

Exit 0 where all passed, 1 where one did not, 4 where there is no GPU or what has to be installed is missing. Called again, it
runs what has not passed yet. `--rehearse`: the same steps with small sizes on the CPU.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from benchmarks.gpu.environment import missing
from benchmarks.gpu.plan import Setting, steps
from benchmarks.gpu.steps import Runner, Step, StepResult
from benchmarks.gpu.wheels import DEFAULT as WHEELS

TREE = Path(__file__).parents[2]
WORK = TREE / "build" / "gpu"
EXIT_NEEDS = 4
_NEEDS = (
    "make gpu needs an NVIDIA GPU with its driver, a Python with torch for CUDA, transformers and peft (PYTHON=...), and the "
    "wheels of `make gpu-wheels` in build/gpu-wheels; see docs/gpu.md"
)
#: As rows name GPUs, by NVML's names; every other GPU is `anygpu`.
_ROW_NAMES = {
    "NVIDIA H100 80GB HBM3": "h100", "NVIDIA RTX PRO 6000 Blackwell Server Edition": "pro6000", "NVIDIA RTX A4000": "a4000",
    "NVIDIA GeForce RTX 4090": "rtx4090", "NVIDIA GeForce RTX 3090": "rtx3090",
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """See the module."""
    options = _options(arguments)
    work: Path = options.work
    names = gpus()
    if not names and not options.rehearse:
        return _say(f"{_NEEDS}. Here NVML shows no GPU.")
    if options.fresh:
        shutil.rmtree(work, ignore_errors=True)
    wheels = options.wheels or (None if options.rehearse else TREE / WHEELS)
    wheels = wheels if wheels is not None and any(wheels.glob("*.whl")) else None
    if wheels is None and (lacks := "" if options.rehearse else missing(sys.executable)):
        return _say(f"{_NEEDS}. There are no wheels here, and {sys.executable} lacks {lacks}.")
    python = sys.executable if wheels is None else str(work / "environment" / "bin" / "python")
    gpu = names[0] if names and not options.rehearse else ""
    setting = Setting(tree=TREE, work=work, python=python, gpu=_ROW_NAMES.get(gpu, "anygpu"), rehearse=options.rehearse)
    chosen = [step for step in steps(setting, wheels=wheels) if not options.only or step.name in options.only]
    (work / "reports").mkdir(parents=True, exist_ok=True)
    _forget(work, python, gpu)
    machine = {"title": "The steps of make gpu" + (", rehearsed on the CPU" if options.rehearse else ""), "GPU": gpu,
               "commit": _commit(), "steps": [step.name for step in steps(setting, wheels=wheels)]}  # fmt: skip
    (work / "machine.json").write_text(json.dumps(machine), encoding="utf-8")
    return _run(chosen, work=work, out=options.out, python=python, total_s=options.total_seconds, commit=str(machine["commit"]))


def _run(chosen: list[Step], *, work: Path, out: Path, python: str, total_s: float, commit: str) -> int:
    """Run the steps and write the page, also where a signal ends them."""
    signal.signal(signal.SIGTERM, _interrupt)
    results: list[StepResult] = []
    try:
        results = Runner(tree=TREE, work=work, total_s=total_s, commit=commit).run(chosen)
    finally:
        interpreter = python if Path(python).exists() else sys.executable
        command = [interpreter, "-m", "benchmarks.gpu.summary", str(work), str(out)]
        subprocess.run(command, cwd=TREE, check=False)
        print(f"summary, probes, logs and reports: {out}")
    return 0 if results and all(each.status == "passed" for each in results) else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def _forget(work: Path, python: str, gpu: str) -> None:
    """Forget what ran on another GPU, and that an environment was made which is not there."""
    before = work / "machine.json"
    if before.exists() and json.loads(before.read_text(encoding="utf-8"))["GPU"] != gpu:
        print("another GPU than before: every step is run again")
        shutil.rmtree(work / "results", ignore_errors=True)
        shutil.rmtree(work / "reports", ignore_errors=True)
        (work / "reports").mkdir()
    if not Path(python).exists():
        (work / "results" / "environment.json").unlink(missing_ok=True)


def _say(line: str) -> int:
    print(line, file=sys.stderr)
    return EXIT_NEEDS


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", allow_abbrev=False)
    parser.add_argument("--out", type=_absolute, default=WORK / "out", help="folder for summary, probes, logs and reports")
    parser.add_argument("--work", type=_absolute, default=WORK, help="folder of each step's result, for the next call")
    parser.add_argument("--wheels", type=_absolute, help=f"folder of wheels (default: {WHEELS}; none in a rehearsal)")
    parser.add_argument("--total-seconds", type=float, default=470.0)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="names of steps, with commas")
    parser.add_argument("--fresh", action="store_true", help="run every step, whatever passed before")
    parser.add_argument("--rehearse", action="store_true", help="small sizes on the CPU")
    return parser.parse_args(arguments)


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, "describe", "--always", "--dirty"], cwd=TREE, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def gpus() -> list[str]:
    """The names of this machine's NVIDIA GPUs, from NVML itself: nothing is installed yet. Empty where it shows none."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        names = []
        for index in range(count.value):
            device, name = ctypes.c_void_p(), ctypes.create_string_buffer(128)
            if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) == 0:
                nvml.nvmlDeviceGetName(device, name, ctypes.c_uint(len(name)))
                names.append(name.value.decode(errors="replace") or "NVIDIA GPU")
    except (OSError, AttributeError):
        return []
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
