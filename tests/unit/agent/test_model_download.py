"""A guest downloads a file through everything that passes, asks for the rest only, and keeps no byte more than is listed.

The functions are those of the downloading process, called in this one; `test_base_models.py` starts the process.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.agent import file_process, model_download
from pytest_glasshouse.agent.model_download import DownloadOrder, WantedFile
from pytest_glasshouse.workloads.hub_client import HubError
from tests.loopback.hub import Hub
from tests.loopback.hub_faults import (
    Compressed,
    Cut,
    Endless,
    Flipped,
    Headers,
    HubFault,
    HubOperation,
    HungUp,
    RangeIgnored,
    Redirected,
    Refused,
    WrongSize,
)
from tests.loopback.hub_hostile import HOSTILE_HEADERS
from tests.loopback.hub_repository import commit_id

REPO, COMMIT = "org/model", commit_id("one")
NAME, SMALL = "model.safetensors", "tokenizer.json"
CONTENT = bytes(range(256)) * 1200
FILES = {NAME: CONTENT, SMALL: CONTENT[7:], "empty.txt": b""}
TOKEN = "hf_" + "a" * 34


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({REPO: {COMMIT: FILES}}) as hub:
        yield hub


def summary(content: bytes) -> tuple[int, str]:
    """Length and digest: pytest would compare the bytes of a failure for minutes."""
    return len(content), hashlib.sha256(content).hexdigest()


def fetched(
    hub: Hub | str,
    folder: Path,
    name: str = NAME,
    *,
    token: str | None = None,
    size: int | None = None,
    pauses: list[float] | None = None,
) -> tuple[int, str]:
    """The file as the guest has it when `_fetch` is over."""
    order: DownloadOrder = {
        "endpoint": hub if isinstance(hub, str) else hub.url, "repo": REPO, "commit": COMMIT, "token": token, "directory": str(folder), "files": [],
    }  # fmt: skip
    file: WantedFile = {"name": name, "size": len(FILES[name]) if size is None else size}
    model_download._fetch(order, file, pause=(pauses if pauses is not None else list[float]()).append)
    return summary((folder / name).read_bytes())


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_asked_for_once(name: str, hub: Hub, tmp_path: Path) -> None:
    assert fetched(hub, tmp_path, name) == summary(FILES[name])
    assert len(hub.asked("resolve", file=name)) == (0 if name == "empty.txt" else 1), "a file without bytes needs no hub"
    assert {path.name for path in tmp_path.iterdir()} == {name}


#: What passes, where and for which file.
PASSING: dict[str, tuple[HubFault, HubOperation, str]] = {
    "429": (Refused(status=429, retry_after_s=9), "resolve", NAME),
    "503": (Refused(status=503), "resolve", SMALL),
    "500 of the storage": (Refused(status=500), "large", NAME),
    "a link that has expired": (Refused(status=403), "large", NAME),
    "no access to a link": (Refused(status=401), "large", NAME),
    "hung up": (HungUp(), "resolve", NAME),
    "hung up at the storage": (HungUp(), "large", NAME),
    "cut before the first byte": (Cut(after_bytes=0), "large", NAME),
    "cut": (Cut(after_bytes=1000), "large", NAME),
    "cut in a small file": (Cut(after_bytes=70_000), "small", SMALL),
    # Twice as much is less than the file: the second answer is cut too, however much of the first arrived.
    "reset": (Cut(after_bytes=70_000, reset=True), "large", NAME),
    "packed": (Compressed(), "large", NAME),
}


@pytest.mark.parametrize("what", PASSING)
def test_what_passes_loses_nothing(what: str, hub: Hub, tmp_path: Path) -> None:
    fault, operation, name = PASSING[what]
    hub.arm(fault, on=operation, file=name, times=2)
    pauses: list[float] = []
    assert fetched(hub, tmp_path, name, pauses=pauses) == summary(FILES[name])
    assert hub.unmet() == ()
    assert len(pauses) == 2
    assert pauses[0] == (9 if what == "429" else 0.5)


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_is_cut_again_and_again_is_continued_where_it_ended(reset: bool, hub: Hub, tmp_path: Path) -> None:
    """More cuts than tries: a try counts only where no byte arrived. What arrived before a reset may be lost in the network."""
    hub.arm(Cut(after_bytes=9000, reset=reset), on="large", file=NAME, times=20)
    assert fetched(hub, tmp_path) == summary(CONTENT)
    ranges = [one.range for one in hub.asked("large", method="GET")]
    if reset:
        assert len(ranges) >= 2
        assert len(set(ranges)) > 1
    else:
        assert hub.unmet() == ()
        assert ranges == [None, *(f"bytes={9000 * number}-" for number in range(1, 21))]
        assert sum(one.sent_bytes for one in hub.asked("large", method="GET")) == len(CONTENT)


def test_what_is_there_already_is_not_asked_for(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT[:5000])
    assert fetched(hub, tmp_path) == summary(CONTENT)
    assert [one.range for one in hub.asked("large", method="GET")] == ["bytes=5000-"]
    count = len(hub.requests)
    assert fetched(hub, tmp_path) == summary(CONTENT)
    assert len(hub.requests) == count


def test_a_hub_without_ranges_is_read_from_the_beginning_again(hub: Hub, tmp_path: Path) -> None:
    hub.arm(Cut(after_bytes=100_000), on="large")
    hub.arm(RangeIgnored(), on="large", times=None)
    assert fetched(hub, tmp_path) == summary(CONTENT)


def test_a_hub_that_always_cuts_before_the_first_byte_is_given_up(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT[:500])
    hub.arm(Cut(after_bytes=0), on="large", times=8)
    pauses: list[float] = []
    with pytest.raises(HubError, match="connection to the hub failed") as caught:
        fetched(hub, tmp_path, pauses=pauses)
    assert caught.value.code == "unreachable"
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32], "more than 30 s, which a network may be away"
    assert (tmp_path / NAME).read_bytes() == CONTENT[:500]


#: What does not pass: where, for which file, and the code and a part of the sentence.
LASTING: dict[str, tuple[HubFault, HubOperation, str, str]] = {
    "403": (Refused(status=403), "resolve", "gated", "asks for a token"),
    "401": (Refused(status=401), "resolve", "gated", "asks for a token"),
    "gated": (Refused(status=403, code="GatedRepo"), "resolve", "gated", "is gated"),
    "private": (Refused(status=401, code="RepoNotFound"), "resolve", "hidden", "or asks for a token"),
    "no such model": (Refused(status=404, code="RepoNotFound"), "resolve", "absent", "no such model"),
    "no such revision": (Refused(status=404, code="RevisionNotFound"), "resolve", "absent", "no such revision"),
    "no such file": (Refused(status=404, code="EntryNotFound"), "resolve", "absent", "does not have a file"),
    "404": (Refused(status=404), "resolve", "refused", "status 404"),
    "another code": (Refused(status=400, code="Weird"), "resolve", "refused", "status 400 (Weird)"),
    "503": (Refused(status=503), "resolve", "busy", "status 503"),
    "expired links": (
        Refused(status=403),
        "large",
        "refused",
        "the host that the hub names for the file answered with status 403",
    ),
    "shorter than listed": (WrongSize(by=-5), "large", "refused", "status 416"),
    "nowhere": (Headers(changed={"Location": None}), "resolve", "refused", "status 302"),
    "to a file": (Redirected(to="file:///etc/passwd"), "resolve", "unreachable", "connection to the hub failed"),
    "to no port": (Redirected(to="http://127.0.0.1:1/"), "resolve", "unreachable", "connection to the hub failed"),
}


@pytest.mark.parametrize("what", LASTING)
def test_what_does_not_pass_is_a_code_and_one_sentence_without_links(what: str, hub: Hub, tmp_path: Path) -> None:
    fault, operation, code, part = LASTING[what]
    hub.arm(fault, on=operation, file=NAME, times=None)
    with pytest.raises(HubError) as caught:
        fetched(hub, tmp_path)
    explained = file_process.explained(caught.value)
    assert explained[0] == code
    assert part in explained[1]
    assert "Signature" not in explained[1]
    assert "://" not in explained[1]
    json.dumps(explained).encode("ascii")


#: Bodies whose length is that which is listed, or becomes it; what is in them, the verification sees.
WRONG: dict[str, tuple[HubFault, Callable[[bytes], bytes]]] = {
    "flipped": (Flipped(at=700), lambda content: content[:700] + bytes([content[700] ^ 1]) + content[701:]),
    "longer than listed": (WrongSize(by=9), lambda content: content),
    "endless": (Endless(), lambda content: content),
}


@pytest.mark.parametrize("what", WRONG)
def test_no_byte_more_than_is_listed_is_kept(what: str, hub: Hub, tmp_path: Path) -> None:
    fault, expected = WRONG[what]
    hub.arm(fault, on="large", file=NAME, times=None)
    assert fetched(hub, tmp_path) == summary(expected(CONTENT))


@pytest.mark.parametrize("what", [each for each in HOSTILE_HEADERS if not each.startswith("location")])
def test_headers_name_no_file_and_no_size(what: str, hub: Hub, tmp_path: Path) -> None:
    hub.arm(HOSTILE_HEADERS[what], on="resolve", file=NAME, times=None)
    assert fetched(hub, tmp_path) == summary(CONTENT)
    assert {path.name for path in tmp_path.iterdir()} == {NAME}


def test_a_token_goes_to_the_hub_only(tmp_path: Path) -> None:
    with Hub({REPO: {COMMIT: FILES}}, gated={REPO}, tokens={TOKEN: {REPO}}) as hub:
        hub.arm(Cut(after_bytes=10), on="large", file=NAME)
        assert fetched(hub, tmp_path, token=TOKEN) == summary(CONTENT)
        assert hub.tokens_seen("hub") == {f"Bearer {TOKEN}"}
        assert hub.tokens_seen("storage") == {None}


def test_a_token_of_this_machine_is_not_used_for_a_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the order does not have, is not sent, whatever lies about."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub({REPO: {COMMIT: FILES}}) as hub:
        assert fetched(hub, tmp_path) == summary(CONTENT)
        assert hub.tokens_seen("hub") == {None}


def test_a_token_is_not_sent_in_clear_text(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="a token is not sent") as caught:
        fetched("http://hub.example", tmp_path, token=TOKEN)
    assert caught.value.code == "in-clear"
    assert not caught.value.passing


class FullDisk(type(Path())):  # type: ignore[misc]
    """A file of a disk that is full."""

    reason = errno.ENOSPC

    def open(self, *_: Any, **__: Any) -> Any:
        reason = self.reason

        class File(io.BytesIO):
            def write(self, _content: Any) -> int:
                raise OSError(reason, "No space left on device")

        return File()


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_failure_of_the_network(reason: int, hub: Hub, tmp_path: Path) -> None:
    """It was tried again for a minute, and then the hub was blamed."""
    (tmp_path / NAME).touch()
    path = FullDisk(tmp_path / NAME)
    path.reason = reason
    order: DownloadOrder = {
        "endpoint": hub.url,
        "repo": REPO,
        "commit": COMMIT,
        "token": None,
        "directory": str(tmp_path),
        "files": [],
    }
    with pytest.raises(OSError, match="No space") as caught:
        model_download._continue(order, {"name": NAME, "size": len(CONTENT)}, path)
    assert file_process.explained(caught.value) == ("no-space", "the guest's disk is full")


def test_what_nobody_foresaw_is_named_and_not_quoted() -> None:
    assert file_process.explained(RuntimeError(f"https://hub/?Signature={TOKEN}")) == ("failed", "RuntimeError")
    missing = ModuleNotFoundError("No module named 'huggingface_hub'", name="huggingface_hub")
    assert file_process.explained(missing) == ("no-client", "the guest's image lacks huggingface_hub")
