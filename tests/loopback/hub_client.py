"""The real `huggingface_hub`, in a process of its own: its settings are read when it is imported, and it is asked line by line.

Its variables are given here and none is taken from this machine: no token, no cache, no other endpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.limits import HANG_S


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call gave: a value made of JSON, or the error's class, the classes it is one of, and its text."""

    value: Any = None
    error: str | None = None
    kinds: tuple[str, ...] = ()
    says: str = ""

    @property
    def path(self) -> Path:
        """The value, where it is a path."""
        assert self.error is None, f"{self.error}: {self.says}"
        return Path(self.value)


class RealClient:
    """Calls methods of `HfApi`. A context manager; `home` is where it keeps its files. Nothing is behind its own endpoint."""

    def __init__(self, home: Path, **variables: str) -> None:
        root = Path(__file__).parents[2]
        kept = {
            name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy") and not name.startswith("HF_")
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.loopback.hub_client"],
            cwd=root,
            env={**kept, **environment(home), "HF_ENDPOINT": "http://127.0.0.1:1", **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def start(self, call: str, *, endpoint: str | None = None, token: str | bool | None = None, **arguments: Any) -> None:
        """Let it begin; `result` waits for what comes of it."""
        assert self._process.stdin is not None
        print(
            json.dumps({"call": call, "endpoint": endpoint, "token": token, "arguments": arguments}),
            file=self._process.stdin,
            flush=True,
        )

    def result(self) -> Outcome:
        assert self._process.stdout is not None
        return Outcome(**json.loads(self._process.stdout.readline()))

    def call(self, call: str, *, endpoint: str | None = None, token: str | bool | None = None, **arguments: Any) -> Outcome:
        """What a method of `HfApi(endpoint, token)` gives."""
        self.start(call, endpoint=endpoint, token=token, **arguments)
        return self.result()


def environment(home: Path) -> Mapping[str, str]:
    """Variables for a client that keeps to HTTP and to loopback."""
    return {
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        # Otherwise it asks its endpoint for names of programs, and tells in every request which of them runs it.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Limits of the client's own, on a machine that may be busy.
        "HF_HUB_DOWNLOAD_TIMEOUT": str(int(HANG_S)),
        "HF_HUB_ETAG_TIMEOUT": str(int(HANG_S)),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(one) for name, one in vars(value).items() if one is not None}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _serve() -> None:
    from huggingface_hub import HfApi

    for line in sys.stdin:
        asked = json.loads(line)
        try:
            api: Any = HfApi(endpoint=asked["endpoint"], token=asked["token"])
            value = getattr(api, asked["call"])(**asked["arguments"])
            outcome = Outcome(value=_plain(value if isinstance(value, str) or not hasattr(value, "__next__") else list(value)))
        except Exception as error:  # noqa: BLE001  (whatever it raises is the outcome)
            kinds = [kind.__name__ for kind in type(error).__mro__]
            outcome = Outcome(error=type(error).__name__, kinds=tuple(kinds), says=str(error))
        sys.stdout.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
