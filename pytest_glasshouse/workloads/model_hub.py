"""A model on a hub, described without its weights: its commit, its files by size and SHA-256, and the heads of its weights.

The hub is asked in a process of its own, bounded in time and memory, so that pytest imports no HTTP client for it, and nothing
that a hub sends can exhaust the host or is written to its disk. Weights are never fetched: their SHA-256 is in the metadata, and
of each file only the head is read, which names its tensors. Every other file is compared with the digest in the metadata.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, IntegrityError, ProtocolError
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.tensors import head_bytes, parse_safetensors
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import BaseModel, HubSource
from pytest_glasshouse.workloads.hub_client import HubError, file_url, info_url, part, whole
from pytest_glasshouse.workloads.model_files import JSON_LIMIT, MOST_FILES, ModelFile, covered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.wire.tensors import TensorEntry

ENDPOINT = "https://huggingface.co"
_WEIGHTS = ".safetensors"
#: The hub's description of a model, and config, tokenizer and index together, in bytes; a large tokenizer has 35 MB.
_MOST_INFO = 32 << 20
_MOST_SMALL = 128 << 20
#: The largest head of a weight file, in bytes; those of a 7B model's shards have 20 KB.
_LARGEST_HEAD = 32 << 20
_LIMIT_S = 600.0
_MEMORY_BYTES = 4 << 30
_TRIES = 5
_LONGEST_PAUSE_S = 60.0
_LENGTH = 8
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


class _Lfs(TypedDict):
    sha256: str
    size: int


class _Sibling(TypedDict):
    rfilename: str
    blobId: NotRequired[str]
    lfs: NotRequired[_Lfs | None]


class _Info(TypedDict):
    sha: str
    siblings: list[_Sibling]


class _Listed(TypedDict):
    name: str
    size: int
    sha256: str


class _Described(TypedDict):
    commit: str
    files: list[_Listed]
    content: dict[str, str]
    heads: dict[str, str]


class _Failed(TypedDict):
    code: str
    detail: str


class _Answer(TypedDict):
    model: _Described | None
    failed: _Failed | None


#: What the user has to do, by the code of a failure. Other failures are the hub's or the network's.
_ADVICE = {
    "gated": "accept its terms on the hub and set HF_TOKEN to a token that may read it",
    "absent": "check the name and the commit; of a private model, HF_TOKEN",
    "unfit": "use another model or another commit of it",
}


def endpoint() -> str:
    """The hub to ask: `HF_ENDPOINT`, or the public one. Raises `ConfigurationError` for one that is no plain URL."""
    from urllib.parse import urlsplit

    text = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
    try:
        parts = urlsplit(text)
        plain = parts.scheme in ("https", "http") and bool(parts.hostname) and not parts.username and not parts.query
    except ValueError:
        plain = False
    if not plain or not text.isprintable() or " " in text:
        raise ConfigurationError(
            "HF_ENDPOINT: expected the URL of a hub without a user or a query, such as https://huggingface.co"
        )
    return text


def describe(repo: str, revision: str | None) -> BaseModel:
    """The model `repo` at `revision` (None: the hub's newest commit), as the hub describes it now.

    Raises `ConfigurationError` for what the user has to change, `InfrastructureError` when the hub cannot be reached.
    """
    where = endpoint()
    request = json.dumps({"endpoint": where, "repo": repo, "revision": revision})
    named = printable(repo if revision is None else f"{repo}@{revision}", limit=120)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise ConfigurationError(f"model {named}: it is not in this machine's cache, and HF_HUB_OFFLINE forbids to ask the hub")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_glasshouse.workloads.model_hub"], input=request, check=False, capture_output=True,
            text=True, errors="replace", timeout=_LIMIT_S, env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip
        answer = check_typed(json.loads(done.stdout.splitlines()[-1]), _Answer, "model")
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"model {named}: the hub at {where} did not describe it within {_LIMIT_S:g} s") from None
    except (OSError, ValueError, IndexError, ProtocolError):
        raise InfrastructureError(f"model {named}: asking the hub at {where} gave no result") from None
    if (failed := answer["failed"]) is not None:
        text = f"model {named}: {printable(failed['detail'], limit=300)} ({where})"
        if (advice := _ADVICE.get(failed["code"])) is not None:
            raise ConfigurationError(f"{text}: {advice}")
        raise InfrastructureError(text)
    assert answer["model"] is not None  # noqa: S101  (one of the two is there)
    return _model(repo, answer["model"], where)


def _model(repo: str, described: _Described, where: str) -> BaseModel:
    try:
        files = tuple(ModelFile(**one) for one in described["files"])
        weights: dict[str, TensorEntry] = {}
        for file in files:
            if file.name in described["heads"]:
                head = base64.b64decode(described["heads"][file.name])
                weights |= parse_safetensors(head, total=file.size)
    except (IntegrityError, ValueError) as error:
        why = error.detail if isinstance(error, IntegrityError) else str(error)
        raise ConfigurationError(f"model {repo}: {printable(why, limit=200)} ({where})") from None
    source = HubSource(endpoint=where, repo=repo, commit=described["commit"])
    content = {name: base64.b64decode(text) for name, text in described["content"].items()}
    return BaseModel(
        model_id=repo, revision=described["commit"], stand_in=False, files=files, content=content, hub=source, weights=weights
    )


def _describe(where: str, repo: str, revision: str | None) -> _Described:
    """Ask the hub, in the process that imports its client. Raises `HubError`; `ValueError` for an unfit model."""
    from huggingface_hub import get_token

    token = get_token()
    text = _again(lambda: whole(info_url(where, repo, revision), token=token, limit=_MOST_INFO))
    info = check_typed(parse_tolerant(text, limit=_MOST_INFO), _Info, "model")
    commit = info["sha"]
    if not _COMMIT.fullmatch(commit) or revision not in (None, commit):
        raise ValueError("expected the hub to name the commit that was asked for; it names another")
    siblings = [one for one in info["siblings"] if "/" not in one["rfilename"] and covered(one["rfilename"])]
    if len(siblings) > MOST_FILES:
        raise ValueError(f"expected at most {MOST_FILES} files; saw {len(siblings)}")
    names = [one["rfilename"] for one in siblings]
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise ValueError("expected weights in *.safetensors; the repository has none: convert it")
    content, files, left = dict[str, bytes](), list[_Listed](), _MOST_SMALL
    for one in siblings:
        name, lfs = one["rfilename"], one.get("lfs")
        if name.endswith(_WEIGHTS) and lfs is not None:
            files.append({"name": name, "size": lfs["size"], "sha256": lfs["sha256"]})
            continue
        content[name] = _again(partial(whole, file_url(where, repo, commit, name), token=token, limit=left))
        left -= len(content[name])
        digest = hashlib.sha256(content[name]).hexdigest()
        if (digest != lfs["sha256"]) if lfs is not None else (_git_blob(content[name]) != one.get("blobId")):
            raise HubError("malformed", f"the hub sent another {printable(name, limit=80)} than its metadata lists")
        files.append({"name": name, "size": len(content[name]), "sha256": digest})
    heads = {name: _head(file_url(where, repo, commit, name), token) for name in _loaded(content, names)}
    return {
        "commit": commit,
        "files": files,
        "content": {name: base64.b64encode(each).decode() for name, each in content.items()},
        "heads": {name: base64.b64encode(each).decode() for name, each in heads.items()},
    }


def _git_blob(content: bytes) -> str:
    """The id that git, and a hub, gives a small file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _loaded(content: Mapping[str, bytes], names: list[str]) -> list[str]:
    """The weight files that loading reads: one, or those in the index."""
    if "model.safetensors" in names:
        return ["model.safetensors"]
    index = content.get("model.safetensors.index.json", b"{}")
    parsed: Any = parse_tolerant(index, limit=JSON_LIMIT)
    weights = parsed.get("weight_map") if isinstance(parsed, dict) else None
    wanted = sorted({str(name) for name in weights.values()}) if isinstance(weights, dict) else []
    if not wanted or not set(wanted) <= set(names):
        raise ValueError("expected model.safetensors, or an index of weights that the repository has")
    return wanted


def _head(url: str, token: str | None) -> bytes:
    """The head of a safetensors file, and no byte of its weights."""
    length: bytes = _again(lambda: part(url, token=token, start=0, end=_LENGTH))
    end = head_bytes(length)
    if end > _LARGEST_HEAD:
        raise ValueError(f"expected the head of a weight file of at most {_LARGEST_HEAD >> 20} MiB; saw {end} bytes")
    rest: bytes = _again(lambda: part(url, token=token, start=_LENGTH, end=end))
    return length + rest


def _again(ask: Callable[[], bytes]) -> bytes:
    """The result of `ask`, which is repeated where the hub is busy or the connection failed."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return ask()
        except HubError as error:
            if not error.passing or not tries_left:
                raise
            time.sleep(min(max(error.retry_after_s, 2.0 ** (_TRIES - 2 - tries_left)), _LONGEST_PAUSE_S))
    raise AssertionError


def main() -> int:
    """The other process: one request on standard input, one answer on standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    request = json.load(sys.stdin)
    answer: _Answer
    try:
        answer = {"model": _describe(request["endpoint"], request["repo"], request["revision"]), "failed": None}
    except HubError as error:
        answer = {"model": None, "failed": {"code": error.code, "detail": str(error)}}
    except (ValueError, ProtocolError, IntegrityError) as error:
        detail = error.detail if isinstance(error, IntegrityError) else str(error)
        answer = {"model": None, "failed": {"code": "unfit", "detail": detail}}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
