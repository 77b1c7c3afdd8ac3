"""A model on a hub, described without its weights: its commit, its files by size and SHA-256, and the heads of its weights.

The hub is asked by `huggingface_hub` in a process of its own, bounded in time and memory, so that pytest imports no HTTP client
for it and nothing that a hub sends can exhaust the host. Weight files are never fetched: their SHA-256 is in the hub's metadata,
and of each only the first bytes are read, which name its tensors. Config and tokenizer go to the usual cache of the hub's client.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, IntegrityError, ProtocolError
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.tensors import head_bytes, parse_safetensors
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import BaseModel, HubSource
from pytest_glasshouse.workloads.model_files import MOST_FILES, ModelFile, covered, file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.wire.tensors import TensorEntry

ENDPOINT = "https://huggingface.co"
_WEIGHTS = ".safetensors"
#: Config, tokenizer and index together, in bytes: they lie in the host's cache and are read there.
_MOST_SMALL = 512 << 20
#: The largest head of a weight file, in bytes; those of a 7B model's shards have 20 KB.
_LARGEST_HEAD = 32 << 20
_LIMIT_S = 600.0
_MEMORY_BYTES = 4 << 30
_MOST_ANSWER = 256 << 20
#: How long the hub may take for one answer, in seconds.
_ANSWER_S = 30.0
_TRIES = 4
_LENGTH = 8
_PARTIAL = 206


class _Listed(TypedDict):
    name: str
    size: int
    sha256: str


class _Described(TypedDict):
    commit: str
    directory: str
    files: list[_Listed]
    heads: dict[str, str]


class _Failed(TypedDict):
    kind: str
    detail: str


class _Answer(TypedDict):
    model: _Described | None
    failed: _Failed | None


#: What the user reads about a failure, by the name of the client's exception.
_ADVICE = {
    "GatedRepoError": "the model is gated: accept its terms on the hub, and set HF_TOKEN to a token that may read it",
    "RepositoryNotFoundError": "the hub knows no such model, or HF_TOKEN may not read it",
    "RevisionNotFoundError": "the hub knows the model and no such revision of it",
    "HFValidationError": "this is no hub id",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids to ask the hub, and the model is not in this machine's cache",
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
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_glasshouse.workloads.model_hub"], input=request, check=False, capture_output=True,
            text=True, errors="replace", timeout=_LIMIT_S,
            env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip
        answer = check_typed(json.loads(done.stdout.splitlines()[-1]), _Answer, "model")
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"model {named}: the hub at {where} did not describe it within {_LIMIT_S:g} s") from None
    except (OSError, ValueError, IndexError, ProtocolError):
        raise InfrastructureError(f"model {named}: asking the hub at {where} gave no result") from None
    if (failed := answer["failed"]) is not None:
        advice, detail = _ADVICE.get(failed["kind"]), printable(failed["detail"], limit=300)
        if advice is not None:
            raise ConfigurationError(f"model {named}: {advice} ({where})")
        if failed["kind"] == "ValueError":
            raise ConfigurationError(f"model {named}: {detail} ({where})")
        raise InfrastructureError(f"model {named}: the hub at {where} did not describe it: {printable(failed['kind'])}: {detail}")
    assert answer["model"] is not None  # noqa: S101  (one of the two is there)
    return _model(repo, answer["model"], where)


def download(base: BaseModel) -> None:
    """Download all files of a model that a hub described into the cache of its client, for a guest on this machine.

    Its progress is shown on a terminal. Raises `InfrastructureError`; what was fetched stays, and is continued the next time.
    """
    assert base.hub is not None  # noqa: S101  (a hub described it)
    request = {"endpoint": base.hub.endpoint, "repo": base.hub.repo, "revision": base.hub.commit}
    names = [file.name for file in base.files]
    shown = None if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(
        [sys.executable, "-m", "pytest_glasshouse.workloads.model_hub"], input=json.dumps({**request, "names": names}),
        check=False, stdout=subprocess.PIPE, stderr=shown, text=True, errors="replace",
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
    )  # fmt: skip
    if done.returncode != 0:
        last = printable((done.stdout.strip().splitlines() or ["it gave no reason"])[-1], limit=300)
        raise InfrastructureError(
            f"model {base.model_id}: not all of it came from the hub at {base.hub.endpoint}: {last}. Run again to continue"
        )


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
    directory = Path(described["directory"])
    return BaseModel(
        model_id=repo, revision=described["commit"], stand_in=False, files=files, directory=directory, hub=source, weights=weights
    )


def _describe(where: str, repo: str, revision: str | None) -> _Described:
    """Ask the hub. Runs in the process that imports its client; raises what the client raises, and `ValueError`."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=where)
    info = _again(lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=_ANSWER_S))
    commit = str(info.sha)
    siblings = [one for one in info.siblings or () if "/" not in one.rfilename and covered(one.rfilename)]
    if len(siblings) > MOST_FILES:
        raise ValueError(f"expected at most {MOST_FILES} files; saw {len(siblings)}")
    names = [one.rfilename for one in siblings]
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise ValueError("expected weights in *.safetensors; the repository has none: convert it")
    small = [one for one in siblings if not one.rfilename.endswith(_WEIGHTS)]
    if sum(int(one.size or 0) for one in small) > _MOST_SMALL:
        raise ValueError(f"expected config and tokenizer of at most {_MOST_SMALL >> 20} MiB")
    fetched = {one.rfilename: _fetched(api, repo, commit, one.rfilename) for one in small}
    files: list[_Listed] = []
    for one in siblings:
        name = one.rfilename
        if name in fetched:
            files.append({"name": name, "size": fetched[name].stat().st_size, "sha256": file_sha256(fetched[name])})
        elif one.lfs is None:
            raise ValueError(f"{name}: the hub gives no SHA-256 for it")
        else:
            files.append({"name": name, "size": int(one.lfs.size), "sha256": str(one.lfs.sha256)})
    if "config.json" not in fetched:
        raise ValueError("expected config.json; the repository has none")
    wanted = _loaded(fetched, names)
    heads = {name: base64.b64encode(_head(api, repo, commit, name)).decode() for name in wanted}
    return {"commit": commit, "directory": str(fetched["config.json"].parent), "files": files, "heads": heads}


def _loaded(fetched: dict[str, Path], names: list[str]) -> list[str]:
    """The weight files that loading reads: one, or those in the index."""
    if "model.safetensors" in names:
        return ["model.safetensors"]
    index = fetched.get("model.safetensors.index.json")
    content: Any = {} if index is None else parse_tolerant(index.read_bytes(), limit=16 << 20)
    weights = content.get("weight_map") if isinstance(content, dict) else None
    wanted = sorted({str(name) for name in weights.values()}) if isinstance(weights, dict) else []
    if not wanted or not set(wanted) <= set(names):
        raise ValueError("expected model.safetensors, or an index of weights that the repository has")
    return wanted


def _fetched(api: Any, repo: str, commit: str, name: str) -> Path:
    return Path(_again(lambda: api.hf_hub_download(repo, name, revision=commit)))


def _head(api: Any, repo: str, commit: str, name: str) -> bytes:
    """The head of a safetensors file, by range requests."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo, name, revision=commit, endpoint=api.endpoint)
    length: bytes = _again(lambda: _range(api, url, 0, _LENGTH))
    wanted = head_bytes(length)
    if wanted > _LARGEST_HEAD:
        raise ValueError(f"{name}: expected a head of at most {_LARGEST_HEAD >> 20} MiB; saw {wanted} bytes")
    rest: bytes = _again(lambda: _range(api, url, _LENGTH, wanted))
    return length + rest


def _range(api: Any, url: str, start: int, end: int) -> bytes:
    """The bytes from `start` to `end` at `url`, or fewer where it has fewer. An answer that is longer is not read further."""
    from huggingface_hub import utils

    client: Any = utils  # its names are exported at run time only
    headers = {**client.build_hf_headers(token=api.token), "Range": f"bytes={start}-{end - 1}"}
    with client.get_session().stream("GET", url, headers=headers, timeout=_ANSWER_S, follow_redirects=True) as response:
        client.hf_raise_for_status(response)
        if start and response.status_code != _PARTIAL:
            raise ValueError("expected a hub that answers range requests")
        return b"".join(_bounded(response.iter_bytes(), end - start))


def _bounded(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:count]
        count -= len(piece)
        if count <= 0:
            return


def _again(ask: Any) -> Any:
    """The result of `ask`, which is repeated where the hub is busy or the network failed."""
    import time

    from huggingface_hub import utils
    from huggingface_hub.errors import HfHubHTTPError

    client: Any = utils
    network = type(client.get_session()).__module__.partition(".")[0]
    for tries_left in reversed(range(_TRIES)):
        try:
            return ask()
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            passing = status in (408, 429, 500, 502, 503, 504) or (
                not isinstance(error, HfHubHTTPError) and type(error).__module__.partition(".")[0] == network
            )
            if not passing or not tries_left:
                raise
            time.sleep(2.0 ** (_TRIES - 1 - tries_left))
    raise AssertionError


def _download(request: dict[str, Any]) -> int:
    from huggingface_hub import snapshot_download

    try:
        _again(
            lambda: snapshot_download(
                request["repo"], revision=request["revision"], endpoint=request["endpoint"], allow_patterns=request["names"]
            )
        )
    except Exception as error:  # noqa: BLE001  (the client raises anything)
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def main() -> int:
    """The other process: one request on standard input, one answer on standard output."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    request = json.load(sys.stdin)
    if "names" in request:
        return _download(request)
    answer: _Answer
    try:
        answer = {"model": _describe(request["endpoint"], request["repo"], request["revision"]), "failed": None}
    except Exception as error:  # noqa: BLE001  (the client raises anything)
        lines = [line for line in str(error).splitlines() if line.strip()]
        answer = {"model": None, "failed": {"kind": type(error).__name__, "detail": " ".join(lines[:1])[:500]}}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
