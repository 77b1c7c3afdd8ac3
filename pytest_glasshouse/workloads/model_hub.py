"""A model on a hub, described without its weights: its commit, its files by size and SHA-256, and the heads of its weights.

The hub is asked in a process of its own, bounded in time and memory, so that pytest imports no HTTP client for it, and nothing
that a hub sends can exhaust the host or is written to its disk. Weights are never fetched: their SHA-256 is in the metadata, and
of each file only the head is read, which names its tensors. Every other file is compared with the digest in the metadata.
"""

from __future__ import annotations

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
from pytest_glasshouse.wire.tensors import TensorEntry, head_bytes, parse_safetensors
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import BaseModel, HubSource
from pytest_glasshouse.workloads.hub_client import HubError, file_url, info_url, part, whole
from pytest_glasshouse.workloads.model_files import JSON_LIMIT, MOST_FILES, ModelFile, covered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


ENDPOINT = "https://huggingface.co"
_WEIGHTS = ".safetensors"
#: The hub's description of a model, and config, tokenizer and index together, in bytes; a large tokenizer has 35 MB.
_MOST_INFO = 32 << 20
_MOST_SMALL = 128 << 20
#: The heads of all weight files together, in bytes; those of a 7B model have 40 KB, of one with thousands of experts 12 MB.
_MOST_HEADS = 32 << 20
_LIMIT_S = 600.0
_MEMORY_BYTES = 4 << 30
_TRIES = 5
_LONGEST_PAUSE_S = 60.0
_LENGTH = 8
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
_LONGEST_ENDPOINT = 200
#: What a directory of a model has to have, too.
_REQUIRED = ("config.json", "tokenizer.json")


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
    """`content` and `heads` are sizes by name: their bytes follow the answer, in this order."""

    commit: str
    files: list[_Listed]
    content: dict[str, int]
    heads: dict[str, int]


class _Failed(TypedDict):
    code: str
    detail: str


class _Request(TypedDict):
    endpoint: str
    repo: str
    revision: str | None


class _Answer(TypedDict):
    model: _Described | None
    failed: _Failed | None


#: What the user has to do, by the code of a failure. Other failures are the hub's or the network's.
_ADVICE = {
    "gated": "accept its terms on the hub and set HF_TOKEN to a token that may read it",
    "absent": "check the name and the commit; of a private model, HF_TOKEN",
    "hidden": "check the name; of a private model, set HF_TOKEN to a token that may read it",
    "in-clear": "set HF_ENDPOINT to a hub with https, or use no token (unset HF_TOKEN; `hf auth logout` forgets a saved one)",
    "unfit": "use another model or another commit of it",
}


def endpoint() -> str:
    """The hub to ask: `HF_ENDPOINT`, or the public one. Raises `ConfigurationError` for one that is no plain URL."""
    from urllib.parse import urlsplit

    text = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
    try:
        parts = urlsplit(text)
        plain = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0 and not set("@?#\\") & set(text)
    except ValueError:
        plain = False
    if not plain or not text.isprintable() or " " in text or len(text) > _LONGEST_ENDPOINT:
        raise ConfigurationError(
            "HF_ENDPOINT: expected the URL of a hub without a user or a query, such as https://huggingface.co"
        )
    return text


def describe(repo: str, revision: str | None) -> BaseModel:
    """The model `repo` at `revision` (None: the hub's newest commit), as the hub describes it now.

    Raises `ConfigurationError` for what the user has to change, `InfrastructureError` when the hub cannot be reached.
    """
    where = endpoint()
    request: _Request = {"endpoint": where, "repo": repo, "revision": revision}
    named = _named(request)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in _TRUE:
            raise ConfigurationError(
                f"model {named}: this machine's cache does not have all of it, and {variable} forbids to ask the hub"
            )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_glasshouse.workloads.model_hub"], input=json.dumps(request).encode(), check=False,
            capture_output=True, timeout=_LIMIT_S, env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip
        answer, content = _unpacked(done.stdout)
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"model {named}: the hub at {where} did not describe it within {_LIMIT_S:g} s") from None
    except (OSError, ValueError, ProtocolError):
        raise InfrastructureError(f"model {named}: asking the hub at {where} gave no result") from None
    return _taken(request, answer, content)


def _named(request: _Request) -> str:
    revision = request["revision"]
    return printable(request["repo"] if revision is None else f"{request['repo']}@{revision}", limit=120)


def _unpacked(sent: bytes) -> tuple[_Answer, dict[str, bytes]]:
    """An answer of the other process, and the bytes that followed it. Not as JSON: that would take them four times."""
    end = sent.index(b"\n") + 1
    answer = check_typed(json.loads(sent[:end]), _Answer, "model")
    model, content = answer["model"], dict[str, bytes]()
    for name, size in {**model["content"], **model["heads"]}.items() if model is not None else ():
        content[name], end = sent[end : end + size], end + size
    if len(sent) != end:
        raise ValueError("expected the bytes that the answer names")
    return answer, content


def _taken(request: _Request, answer: _Answer, content: dict[str, bytes]) -> BaseModel:
    """What the other process answered, as `describe` gives it."""
    where = request["endpoint"]
    if (failed := answer["failed"]) is not None:
        text = f"model {_named(request)}: {printable(failed['detail'], limit=300)} ({where})"
        if (advice := _ADVICE.get(failed["code"])) is not None:
            raise ConfigurationError(f"{text}: {advice}")
        raise InfrastructureError(text)
    assert answer["model"] is not None  # noqa: S101  (one of the two is there)
    return _model(request["repo"], answer["model"], content, where)


def _model(repo: str, described: _Described, content: dict[str, bytes], where: str) -> BaseModel:
    weights, name = dict[str, TensorEntry](), "its files"
    try:
        files = tuple(ModelFile(**one) for one in described["files"])
        for name, size in ((file.name, file.size) for file in files if file.name in described["heads"]):
            weights |= parse_safetensors(content[name], total=size)
    except (IntegrityError, ValueError) as error:
        why = error.detail if isinstance(error, IntegrityError) else str(error)
        text = f"model {repo}: {name}: expected a whole safetensors file; {printable(why, limit=200)} ({where})"
        raise ConfigurationError(f"{text}: {_ADVICE['unfit']}") from None
    source = HubSource(endpoint=where, repo=repo, commit=described["commit"])
    content = {name: content[name] for name in described["content"]}
    return BaseModel(model_id=repo, revision=described["commit"], files=files, content=content, hub=source, weights=weights)


def _describe(request: _Request, token: str | None, *, pause: Callable[[float], None]) -> tuple[_Described, list[bytes]]:
    """Ask the hub, in the process that imports its client. Raises `HubError`; `ValueError` for an unfit model."""
    where, repo, revision = request["endpoint"], request["repo"], request["revision"]
    again = partial(_again, pause=pause)
    info = _parsed(again(lambda: whole(info_url(where, repo, revision), token=token, limit=_MOST_INFO)))
    commit = info["sha"]
    if not _COMMIT.fullmatch(commit) or revision not in (None, commit):
        raise HubError("malformed", "expected the hub to name the commit that was asked for; it names another")
    siblings = [one for one in info["siblings"] if "/" not in one["rfilename"] and covered(one["rfilename"])]
    names = [one["rfilename"] for one in siblings]
    _refuse_unfit(names)
    content, files, left = dict[str, bytes](), list[_Listed](), _MOST_SMALL
    loaded: list[str] = []
    # Weights last: the index, which is read before them, says which are loaded.
    for one in sorted(siblings, key=lambda each: each["rfilename"].endswith(_WEIGHTS)):
        name, lfs = one["rfilename"], one.get("lfs")
        if name.endswith(_WEIGHTS) and name not in (loaded := loaded or _loaded(content, names)):
            continue
        if name.endswith(_WEIGHTS) and lfs is not None:
            listed = ModelFile(name=name, size=lfs["size"], sha256=lfs["sha256"])
        else:
            content[name] = again(partial(whole, file_url(where, repo, commit, name), token=token, limit=left))
            left -= len(content[name])
            digest = hashlib.sha256(content[name]).hexdigest()
            if (digest != lfs["sha256"]) if lfs is not None else (_git_blob(content[name]) != one.get("blobId")):
                raise HubError("malformed", f"the hub sent another {printable(name, limit=80)} than its metadata lists")
            listed = ModelFile(name=name, size=len(content[name]), sha256=digest)
        files.append({"name": listed.name, "size": listed.size, "sha256": listed.sha256})
    files.sort(key=lambda each: each["name"])
    sizes = {one["name"]: one["size"] for one in files}
    heads, left = dict[str, bytes](), _MOST_HEADS
    for name in loaded:
        heads[name] = _head(file_url(where, repo, commit, name), token, most=min(left, sizes[name]), again=again)
        left -= len(heads[name])
    described: _Described = {
        "commit": commit,
        "files": files,
        "content": {name: len(each) for name, each in content.items()},
        "heads": {name: len(each) for name, each in heads.items()},
    }
    return described, [*content.values(), *heads.values()]


def _parsed(text: bytes) -> _Info:
    """What a hub tells of a model. Raises `HubError` for what no hub tells: a page of the network's, say."""
    try:
        return check_typed(parse_tolerant(text, limit=_MOST_INFO), _Info, "model")
    except (IntegrityError, ProtocolError) as error:
        why = error.detail if isinstance(error, IntegrityError) else str(error)
        raise HubError("malformed", f"what answers there does not describe the model as a hub does ({why})") from None


def _refuse_unfit(names: list[str]) -> None:
    """Raise `ValueError` for a repository that is no base model; every fault that shows in the names of its files."""
    if len(names) > MOST_FILES:
        raise ValueError(f"expected at most {MOST_FILES} files; saw {len(names)}")
    for name in names:
        ModelFile(name=name, size=0, sha256="0" * 64)
    if len(set(names)) != len(names):
        raise HubError("malformed", "the hub lists a file twice")
    for name in _REQUIRED:
        if name not in names:
            raise ValueError(f"expected {name}; the repository does not have it")
    if "adapter_config.json" in names:
        raise ValueError("expected a base model; saw an adapter (adapter_config.json)")
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise ValueError("expected weights in *.safetensors; the repository has none: convert it")


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


def _head(url: str, token: str | None, *, most: int, again: Callable[[Callable[[], bytes]], bytes]) -> bytes:
    """The head of a safetensors file, and no byte of its weights."""
    length = again(lambda: part(url, token=token, start=0, end=_LENGTH)) if most > _LENGTH else b""
    end = head_bytes(length)
    if not _LENGTH < end <= most:
        raise ValueError(f"expected heads of weight files that fit there, and of at most {_MOST_HEADS >> 20} MiB together")
    return length + again(lambda: part(url, token=token, start=_LENGTH, end=end))


def _again(ask: Callable[[], bytes], *, pause: Callable[[float], None]) -> bytes:
    """The result of `ask`, which is repeated where the hub is busy or the connection failed."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return ask()
        except HubError as error:
            if not error.passing or not tries_left:
                raise
            pause(min(max(error.retry_after_s, 2.0 ** (_TRIES - 2 - tries_left)), _LONGEST_PAUSE_S))
    raise AssertionError


def _answered(
    request: _Request, token: str | None, *, pause: Callable[[float], None] = time.sleep
) -> tuple[_Answer, list[bytes]]:
    """What the hub tells, or why it does not; and the bytes that follow."""
    try:
        model, content = _describe(request, token, pause=pause)
    except HubError as error:
        return {"model": None, "failed": {"code": error.code, "detail": str(error)}}, []
    except (ValueError, ProtocolError, IntegrityError) as error:
        detail = error.detail if isinstance(error, IntegrityError) else str(error)
        return {"model": None, "failed": {"code": "unfit", "detail": detail}}, []
    return {"model": model, "failed": None}, content


def main() -> int:
    """The other process: one request on standard input, one answer on standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    # What a library prints is no answer.
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    from huggingface_hub import get_token

    answer, content = _answered(json.load(sys.stdin), get_token())
    out.write(json.dumps(answer).encode() + b"\n")
    out.writelines(content)
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
