"""The six smoke rows as a user runs them, on a place of the tests: `pytest benchmarks -m smoke`, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.limits import HANG_S
from tests.loopback.causal_models import causal_lm, write

REPOSITORY = Path(__file__).parents[1]


def smoke(folder: Path, environment: Mapping[str, str], *place: str) -> dict[str, Any]:
    """Run them at a `place` (options), with a pushed model, since there is no hub; the report. All have to hold, with exit 0."""
    model, path = write(causal_lm(), folder / "model"), folder / "reports" / "smoke.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "benchmarks", "-m", "smoke", "-p", "no:cacheprovider", f"--glasshouse-model={model}",
            "--glasshouse-allow-simulated", f"--glasshouse-remote-python={sys.executable}", f"--glasshouse-report={path}", *place,
        ],
        cwd=REPOSITORY, env={**environment, "GLASSHOUSE_LEG_SECONDS": "2"}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=4 * HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(path.read_text())
    assert len(report["rows"]) == 6
    assert {finding["finding"] for row in report["rows"] for finding in row["findings"]} == {"held"}
    return report
