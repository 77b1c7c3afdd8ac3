"""Anti-debug values, each observed in a process made for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_glasshouse.guest.antidebug import observe
from pytest_glasshouse.wire.evidence import ANTIDEBUG_STRICT

_ROOT = Path(__file__).parents[3]
_OBSERVE = (
    "import sys, json; sys.path[:0] = {path!r}; {before}; from pytest_glasshouse.guest import antidebug, launcher; {harden}; "
    "print(json.dumps(antidebug.observe()))"
)


def _observed(before: str = "pass", harden: str = "pass", **environment: str) -> dict[str, object]:
    path = [str(_ROOT), *(p for p in sys.path if p.endswith("site-packages"))]
    code = _OBSERVE.format(path=path, before=before, harden=harden)
    clean = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], env=clean, capture_output=True, check=True, text=True)
    return dict(json.loads(done.stdout))


def test_hardened_process_has_every_value_the_strict_profile_requires() -> None:
    assert _observed(harden="launcher.harden_process()") == ANTIDEBUG_STRICT


def test_process_that_is_not_hardened_is_seen_to_be_dumpable() -> None:
    assert _observed()["dumpable"] == 1


@pytest.mark.parametrize(
    ("before", "environment", "name", "value"),
    [
        ("pass", {"PYTHONPATH": "/nowhere"}, "python_variables", ["PYTHONPATH"]),
        ("pass", {"CUDA_INJECTION64_PATH": "x.so"}, "cuda_injection", ["CUDA_INJECTION64_PATH"]),
        ("pass", {"GCONV_PATH": "/nowhere"}, "preload", ["GCONV_PATH"]),
        ("sys.settrace(lambda *a: None)", {}, "trace_function", 1),
        ("sys.setprofile(lambda *a: None)", {}, "profile_function", 1),
        ("import pdb", {}, "debugger_modules", ["pdb"]),
    ],
    ids=["PYTHONPATH", "CUDA", "GCONV", "settrace", "setprofile", "pdb"],
)
def test_injection_is_observed(before: str, environment: dict[str, str], name: str, value: object) -> None:
    """The server judges observed values, not a flag that protection is enabled."""
    assert _observed(before, **environment)[name] == value


def test_every_required_value_is_observed_and_nothing_else() -> None:
    assert observe().keys() == ANTIDEBUG_STRICT.keys()
