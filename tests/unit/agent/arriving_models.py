"""An agent in this process that brings base models from a loopback hub, by the operations that a host asks for."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pytest_glasshouse.agent.agent import Agent
from pytest_glasshouse.agent.base_models import Models
from pytest_glasshouse.agent.model_arrival import Arrival
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.wire.guest_messages import check_reply
from pytest_glasshouse.workloads.model_files import digest_of, listed_content
from tests.limits import HANG_S, until
from tests.loopback.hub import Hub
from tests.loopback.hub_repository import commit_id

REPO, COMMIT = "org/model", commit_id("one")
FIRST, SECOND, INDEX = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"
FILES: Mapping[str, bytes] = {
    "config.json": b'{"model_type": "none"}',
    "empty.txt": b"",
    FIRST: bytes(range(256)) * 700,
    SECOND: bytes(range(255)) * 500,
    INDEX: b'{"weight_map": {"a": "%s", "b": "%s"}}' % (FIRST.encode(), SECOND.encode()),
}
MODEL = digest_of(listed_content(FILES))
TOTAL = sum(map(len, FILES.values()))
LONG_S = int(HANG_S)


def entries(files: Mapping[str, bytes] = FILES) -> list[dict[str, Any]]:
    """The files as a request lists them."""
    return [{"name": one.name, "size": one.size, "sha256": one.sha256} for one in listed_content(files)]


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def packages() -> list[str]:
    return [sysconfig.get_paths()["purelib"]]


class Guest:
    """A whole agent; only what its legs would import is left out, which takes long to hash. `answers` are all of `arrival`."""

    def __init__(self, directory: Path) -> None:
        self.agent = Agent(archive=guest_archive(), directory=directory, allocation="a", site_packages=[])
        self.root = directory / "models"
        self.answers: list[dict[str, Any]] = []
        self.use(packages())

    def use(self, site_packages: list[str]) -> None:
        """What a download imports. Models stay files, as where memory is short."""
        self.agent._models = Models(self.root, archive_fd=self.agent._archive_fd, site_packages=site_packages)
        self.agent._models.memory_left = lambda: 0

    def ask(self, op: str, payload: bytes = b"", **fields: Any) -> dict[str, Any]:
        reply, data = self.agent.handle({"op": op, **fields}, bytearray(payload))
        check_reply(op, reply, payload=len(data))
        return reply

    def model(self, source: str, files: Mapping[str, bytes] = FILES, /, **fields: Any) -> dict[str, Any]:
        """Ask for a model of these files; `fields` replace those of the request."""
        request = {
            "model": digest_of(listed_content(files)), "files": entries(files),
            "source": source, "idle_s": LONG_S, "within_s": LONG_S,
        }  # fmt: skip
        return self.ask("model", **{**request, **fields})

    def download(self, hub: Hub, **fields: Any) -> dict[str, Any]:
        return self.model("hub", **{"endpoint": hub.url, "repo": REPO, "commit": COMMIT, **fields})

    def state(self, model: str = MODEL, **fields: Any) -> dict[str, Any]:
        answer = self.ask("arrival", model=model, **fields)
        assert "error" in answer or (
            answer["done"] <= answer["total"] and (answer["reason"] is None) == (answer["phase"] != "failed")
        )
        self.answers.append(answer)
        return answer

    def ended(self, model: str = MODEL) -> dict[str, Any]:
        """The state once it is ready or failed."""
        until(lambda: self.state(model)["phase"] in ("ready", "failed"), "the end of an arrival")
        return self.state(model)

    def wanted(self, model: str = MODEL) -> dict[str, Any] | None:
        """The piece that is wanted next, or None where the arrival ended."""
        until(lambda: self.state(model)["wants"] or self.state(model)["phase"] in ("ready", "failed"), "a piece to be wanted")
        return cast("dict[str, Any] | None", self.state(model)["wants"])

    def push(
        self, files: Mapping[str, bytes] = FILES, *, piece: int = 50_000, model: str = MODEL, most: int = 1 << 30
    ) -> list[str]:
        """Push what is wanted until nothing is: the names of the files, in order."""
        names: list[str] = []
        while most > 0 and (wants := self.wanted(model)) is not None:
            name, at = wants["name"], wants["offset"]
            names += [name] if at == 0 else []
            reply = self.ask("lay", files[name][at : at + piece], model=model, name=name, offset=at)
            assert reply == {}, reply
            most -= 1
        return names

    def arrival(self, model: str = MODEL) -> Arrival:
        return self.agent._models._arrivals[model]

    def contents(self) -> dict[str, bytes]:
        """What this guest has written for its models, by its path."""
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def below(self) -> dict[str, str]:
        """The same by digest: pytest would compare the bytes of a failure for minutes."""
        return digests(self.contents())

    def end(self) -> None:
        self.agent.end()


def until_gone(pid: int) -> None:
    """Wait until a process has ended and was waited for."""
    until(lambda: not Path(f"/proc/{pid}").exists(), "a process to be gone")


def pid_of(guest: Guest) -> int:
    """The downloading process."""
    download: Callable[[], Any] = lambda: guest.arrival()._process  # noqa: E731
    until(download, "a download to begin")
    return int(download()._process.pid)


def own(files: Mapping[str, bytes] = FILES) -> dict[str, str]:
    """What a guest has written once a model of these files has arrived."""
    return digests({f"{digest_of(listed_content(files))[:16]}/{name}": content for name, content in files.items()})


def with_reason(state: dict[str, Any]) -> tuple[str, str]:
    assert state["phase"] == "failed"
    assert state["wants"] is None
    return state["reason"], state["detail"]
