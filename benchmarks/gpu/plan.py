"""The steps of `make gpu`, and how long each may take. The rehearsal is the same steps with small sizes on the CPU."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.steps import Step

#: Of the machine, for whoever reads a failure: GPU, driver, memory, disks, limits, where the driver's libraries are.
_MACHINE = """
nvidia-smi; nvidia-smi -q -d COMPUTE,PERFORMANCE,CLOCK | head -60
uname -a; id; free -g; df -h / /tmp /dev/shm; ulimit -a; ldconfig -p | grep -E 'libcuda.so|libnvidia-ml'
ls -l /dev/nvidia* /usr/local/nvidia/lib64 | head -40; env | grep -iE '^(cuda|nvidia|ld_lib)'
cat /proc/sys/kernel/yama/ptrace_scope /sys/kernel/mm/transparent_hugepage/enabled
env -i /bin/sh -c 'command -v gcc cc'; true
"""
#: The option for random weights of a model's shape.
_STAND_IN = "--glasshouse-stand-in"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the steps run. `gpu` is what rows name, `python` has everything, `reports` gets the reports."""

    tree: Path
    work: Path
    python: str
    gpu: str = "anygpu"
    rehearse: bool = False

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def provider(self) -> str:
        """In place of `local`, which needs a GPU."""
        return "mock" if self.rehearse else "local"


def steps(setting: Setting, *, wheels: Path | None) -> list[Step]:
    """All steps, the ones that others need first, then what matters most."""
    python, small = setting.python, setting.rehearse
    shape = _shape(setting.tree, small=small)
    # A lora row needs a model, which cannot be fetched here.
    smoke = "smoke and mlp and anygpu" if small else f"smoke and (anygpu or {setting.gpu})" + ("" if shape else " and mlp")
    stand_in = [_STAND_IN, "0.5b"] if shape else []
    probes = ["idle"] if small else []
    return [
        Step(
            name="environment", what="an environment of the machine's packages and this project's wheels", limit_s=60,
            command=_environment(setting, wheels),
        ),
        Step(name="machine", what="the machine, for whoever reads a failure", limit_s=20, command=["/bin/sh", "-c", _MACHINE]),
        Step(
            name="doctor", what="`glasshouse doctor`", limit_s=60,
            command=[python, "-m", "pytest_glasshouse", "doctor", "--provider", setting.provider],
        ),
        Step(
            name="probes", what="what CUDA processes look like to this project", limit_s=110,
            command=[python, "-m", "benchmarks.gpu.probes", str(setting.work / "probes.json"), setting.device, *probes],
        ),
        _tests(setting),
        _rows(setting, "local", "smoke rows on this GPU", 120, ["benchmarks/test_mlp.py", "benchmarks/test_lora.py", "-m", smoke,
              "--glasshouse-leg-seconds", "0.3" if small else "3", *([] if small else stand_in)]),
        _rows(setting, "mock", "a smoke row as a dry run", 70, ["benchmarks/test_mlp.py", "-m", "smoke and anygpu",
              "--glasshouse-leg-seconds", "0.3" if small else "3"], provider="mock"),
        _rows(setting, "interleaved", "mlp, legs in turns: twelve process starts", 230, ["-k", "gpu-mlp-interleaved"]),
        _rows(setting, "lora-large", "a LoRA row on a model of this shape", 170, ["-k", "gpu-lora-large", *shape],
              unavailable="" if shape else f"this version has no {_STAND_IN}, and the model cannot be fetched here"),
        _rows(setting, "null", "raw against raw", 90, ["-k", "gpu-mlp-null"]),
    ]  # fmt: skip


def _environment(setting: Setting, wheels: Path | None) -> list[str]:
    """Make it from wheels, or look whether the Python that runs this has everything."""
    import sys

    if wheels is not None:
        return [sys.executable, "-m", "benchmarks.gpu.environment", str(wheels), str(setting.work / "environment")]
    check = "import sys; from benchmarks.gpu.environment import missing; sys.exit(missing(sys.argv[1]) or 0)"
    return [setting.python, "-c", check, setting.python]


def _pytest(setting: Setting) -> list[str]:
    """Without other people's plugins: this project's configuration makes every warning an error, and they warn."""
    return [setting.python, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_glasshouse.plugin.hooks", "-W", "default"]


def _environ(setting: Setting, sizes: Mapping[str, Any]) -> dict[str, str]:
    return {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "GPU_ROWS": json.dumps({"gpu": setting.gpu, **sizes})}


def _tests(setting: Setting) -> Step:
    """The tests with the marker `cuda`; in a rehearsal their like on the CPU."""
    files = sorted(str(path.relative_to(setting.tree)) for path in (setting.tree / "tests").rglob("test_*.py") if _marked(path))
    chosen = ["-k", "cpu and arrives"] if setting.rehearse else ["-m", "cuda"]
    return Step(
        name="cuda-tests", what="ring and zeroing tests on CUDA", limit_s=80,
        command=[*_pytest(setting), "-p", "_hypothesis_pytestplugin", "-q", *files, *chosen], env=_environ(setting, {}),
    )  # fmt: skip


def _marked(path: Path) -> bool:
    return re.search(r"\bmark\.cuda\b", path.read_text(encoding="utf-8")) is not None


def _rows(
    setting: Setting, name: str, what: str, limit_s: float, chosen: list[str], *, provider: str = "", unavailable: str = ""
) -> Step:
    """Rows that leave a report."""
    own = [] if any(each.endswith(".py") for each in chosen) else ["benchmarks/gpu/gpu_rows.py"]
    sizes = {"seconds": 0.5, "warmup": 0.1, "rounds": 2, "null_rounds": 1, "steps": 2} if setting.rehearse else {}
    report = setting.work / "reports" / f"{name}.json"
    command = [
        *_pytest(setting), *own, *chosen, "--glasshouse-report", str(report),
        "--glasshouse-provider", provider or setting.provider,
    ]  # fmt: skip
    return Step(name=name, what=what, limit_s=limit_s, command=command, env=_environ(setting, sizes), unavailable=unavailable)


def _shape(tree: Path, *, small: bool) -> list[str]:
    """The option that gives lora rows random weights of a large model's shape; empty where this version has none."""
    settings = (tree / "pytest_glasshouse" / "plugin" / "settings.py").read_text(encoding="utf-8")
    return [_STAND_IN, "tiny" if small else "7b"] if 'Setting("stand_in"' in settings else []
