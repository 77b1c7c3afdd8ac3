"""A launch that was put into harmless letters and short pieces is the same launch once a shell has read it."""

from __future__ import annotations

import ast
import importlib.resources
import json
import shutil
import subprocess

import pytest

from pytest_glasshouse.channel.pod_launch import bare, new_keys, pod_environment, pod_start
from pytest_glasshouse.errors import LaunchRefusedError
from pytest_glasshouse.providers.base import Launch
from pytest_glasshouse.providers.launch_encoding import VariableLimits, encode_launch

IMAGE = "example/guest@sha256:" + "5" * 64
VAST = VariableLimits(one=256, all=32_768)
SHOW = "import json,os,sys;print(json.dumps([dict(os.environ),sys.argv[1:]]))"
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


def launch(env: dict[str, str], *start: str) -> Launch:
    return Launch(name="glasshouse-x-1-1999999999", image=IMAGE, env=env, start=("/usr/bin/env", "python3", "-c", SHOW, *start))


@pytest.mark.parametrize("shell", SHELLS)
def test_values_of_every_length_around_the_limit_arrive_whole(shell: str) -> None:
    env = {f"PLAIN_{n}": "p" * n for n in (0, 1, 200, 243, 244, 245, 246, 247, 248, 249, 250, 256, 257, 495, 496, 5832)}
    env |= {f"ODD_{n}": ('"\n$x `' + "o" * n)[:n] + "\n\n" for n in (0, 1, 150, 170, 171, 172, 173, 174, 200, 1000)}
    env["N" * 300] = "a name longer than the limit"
    encoded_launch = encode_launch(launch(env, "two words", "'"), limits=VAST)
    assert max(len(f"{name}={value}") for name, value in encoded_launch.env.items()) <= 256
    assert all(letter not in value for value in (*encoded_launch.env.values(), *encoded_launch.start) for letter in '"\n\\')
    shells = [shutil.which(shell) or shell, *(["sh"] if shell == "busybox" else [])]
    result = subprocess.run(
        [*shells, *encoded_launch.start[1:]],
        env={"PATH": "/usr/bin:/bin", **encoded_launch.env},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    seen, arguments = json.loads(result)
    assert arguments == ["two words", "'"]
    assert {name: seen.get(name) for name in env} == env
    assert [name for name in seen if name.startswith(("GLASSHOUSE_B64", "gh_"))] == []


def test_a_guests_launch_fits_vasts_documented_limits() -> None:
    """Single values had 856 and 5832 characters."""
    env = pod_environment(new_keys(), deadline=2e9, contact_by=2e9, ends="vastai", api="https://console.vast.ai")
    made = Launch(name="glasshouse-x-1-1999999999", image=IMAGE, env=env, start=pod_start(), public_key="ssh-ed25519 " + "A" * 68)
    encoded_launch = encode_launch(made, limits=VAST)
    items = [f"{name}={value}" for name, value in encoded_launch.env.items()]
    assert max(map(len, items)) <= 256
    assert sum(map(len, items)) <= 8192
    assert len(items) < 64
    assert len(" ".join(encoded_launch.start)) < 1024


def test_more_than_a_provider_takes_in_all_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(LaunchRefusedError, match="32768; nothing was sent"):
        encode_launch(launch({"LARGE": "x" * 33_000}), limits=VAST)
    with pytest.raises(LaunchRefusedError, match="no start command"):
        encode_launch(Launch(name="x", image=IMAGE, env={"LONG": "x" * 300}), limits=VAST)


def test_without_limits_a_plain_value_travels_as_it_is() -> None:
    assert encode_launch(launch({"LONG": "x" * 6000})).env == {"LONG": "x" * 6000}


def test_only_comments_and_docstrings_are_left_out_of_the_first_process() -> None:
    source = (importlib.resources.files("pytest_glasshouse.channel") / "pod_init.py").read_text()
    less = bare(source)
    assert len(less) < 0.8 * len(source)
    assert '"""' not in less
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    assert ast.dump(ast.parse(less)) == ast.dump(tree)
