"""Whether this machine lets its tests give a pod a disk of its own. `CI` fails what a developer's machine without that skips."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import pytest

from tests.loopback.pods import Pod

_NEEDED = (
    "pods of the tests need mount and PID namespaces of their own: as root CAP_SYS_ADMIN (docker run --cap-add SYS_ADMIN "
    "--security-opt apparmor=unconfined), as another user namespaces for users (sysctl -w user.max_user_namespaces=10000 "
    "kernel.apparmor_restrict_unprivileged_userns=0), and Linux 5.12 on x86_64 or aarch64"
)


@functools.cache
def refusal() -> str:
    """Why there is no pod on this machine; empty where there is one."""
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        pod = Pod(Path(folder) / "pod", ("true",), {}, restarts=False)
        code = pod.wait()
        pod.end()
        failed = pod.folder / "failed"
        return failed.read_text() if failed.exists() else "" if code == 0 else f"true: exit {code}: {pod.logs()}"


def need_pods(refused: str | None = None, *, ci: bool | None = None) -> None:
    """Skip the test where there are no pods, and fail it where CI is set."""
    refused = refusal() if refused is None else refused
    if refused:
        told = f"{_NEEDED}; saw: {refused}"
        if bool(os.environ.get("CI")) if ci is None else ci:
            pytest.fail(told)
        pytest.skip(told)
