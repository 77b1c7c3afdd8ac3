"""The probes: what a process with CUDA looks like to this project, one thing at a time, each in a process like a leg.

    python -m benchmarks.gpu.probes OUT.json DEVICE [PROBE...]

A probe that fails says so in its answer; it fails nothing else. Exit 1 where one did.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.probe_child import PROBES
from pytest_glasshouse.agent.leg_environment import leg_environment

#: Until a probe is given up, in seconds: the longest, with imports, is expected to take a quarter of it.
_LIMIT_S = 60.0


def ask(probe: str, device: str) -> dict[str, Any]:
    """What one probe answers, and how long it took."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="gh-probe-") as folder:
        workspace = Path(folder) / "workspace"
        workspace.mkdir()
        command = [sys.executable, "-I", "-B", "-X", "utf8", str(Path(__file__).with_name("probe_child.py")), probe, device]
        try:
            done = subprocess.run(
                command, cwd=workspace, env=leg_environment(workspace, strict_memory=False), capture_output=True, text=True,
                timeout=_LIMIT_S, check=False,
            )  # fmt: skip
            told = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            told = {"error": f"it did not end within {_LIMIT_S:.0f} s"}
        except (ValueError, IndexError):
            told = {"error": f"exit {done.returncode}: {done.stderr[-500:]}"}
    return {"probe": probe, "seconds": round(time.perf_counter() - began, 1), **told}


def main() -> int:
    """Ask every probe that is named, or all, and write the answers."""
    out, device, *named = sys.argv[1:]
    answers = []
    for probe in named or PROBES:
        answers.append(ask(probe, device))
        print(json.dumps(answers[-1]), flush=True)
        # After each, so that what was learned stays where the time is over.
        Path(out).write_text(json.dumps(answers, indent=1), encoding="utf-8")
    return 1 if any("error" in each for each in answers) else 0


if __name__ == "__main__":
    sys.exit(main())
