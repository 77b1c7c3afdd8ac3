"""What a hub answers: the addresses it has, whom it lets in, and what it tells of a repository. Knows no sockets and no faults."""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.loopback.hub_faults import HubOperation
from tests.loopback.hub_repository import Content, Repository, StoredFile

#: Words that follow a repository's id in addresses of the API.
_SUBJECTS = ("revision", "tree", "paths-info", "refs", "xet-read-token")
_METHODS: dict[HubOperation, frozenset[str]] = {
    "paths": frozenset({"POST"}),
    "resolve": frozenset({"GET", "HEAD"}),
    "small": frozenset({"GET", "HEAD"}),
    "large": frozenset({"GET", "HEAD"}),
}


@dataclass(frozen=True, kw_only=True)
class Route:
    """What an address asks for. `revision` is None where the address names none."""

    operation: HubOperation
    repo: str = ""
    revision: str | None = None
    path: str = ""


@dataclass(kw_only=True)
class Reply:
    """An answer before faults: a body in memory or on disk, or no body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: Content | None = None
    #: Whether the content is a file, of which ranges may be asked for.
    ranges: bool = False


def as_json(value: Any, **headers: str) -> Reply:
    """An answer in JSON."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(
        status=200,
        headers={"Content-Type": "application/json; charset=utf-8", **named},
        content=Content(json.dumps(value).encode()),
    )


def refusal(status: int, says: str, code: str | None = None, **headers: str) -> Reply:
    """An error as a hub words it: in headers, because a HEAD has no body."""
    reply = as_json({"error": says}, X_Error_Message=says, **headers)
    reply.status = status
    if code is not None:
        reply.headers["X-Error-Code"] = code
    return reply


def route(target: str) -> Route | None:
    """What an address of the hub asks for; None where the hub has no such page."""
    parts = urlsplit(target).path.strip("/").split("/")
    match parts:
        case ["api", "agent-harnesses"] | ["api", "whoami-v2"]:
            return Route(operation="other", path=parts[1])
        case ["api", "resolve-cache", "models", *rest] if len(rest) > 2:
            owner = 1 if _is_commit(rest[1]) else 2
            return _of_file("small", rest[:owner], rest[owner:])
        case ["api", "models", *rest] if rest and rest[0]:
            return _of_api(rest)
        case [_, "resolve", *rest] | [_, _, "resolve", *rest] if len(rest) > 1:
            return _of_file("resolve", parts[: -len(rest) - 1], rest)
    return None


def _is_commit(text: str) -> bool:
    return len(text) == 40 and set(text) <= set("0123456789abcdef")


def _of_file(operation: HubOperation, owner: list[str], rest: list[str]) -> Route:
    return Route(operation=operation, repo=unquote("/".join(owner)), revision=unquote(rest[0]), path=unquote("/".join(rest[1:])))


def _of_api(rest: list[str]) -> Route | None:
    at = next((at for at, part in enumerate(rest[:3]) if at and part in _SUBJECTS), len(rest))
    repo, subject, rest = unquote("/".join(rest[:at])), rest[at : at + 1], rest[at + 1 :]
    revision = unquote(rest[0]) if rest else None
    match subject:
        case [] if at <= 2:
            return Route(operation="info", repo=repo)
        case ["revision"] if len(rest) == 1:
            return Route(operation="info", repo=repo, revision=revision)
        case ["tree"] if rest:
            return Route(operation="tree", repo=repo, revision=revision, path=unquote("/".join(rest[1:])))
        case ["paths-info"] if len(rest) == 1:
            return Route(operation="paths", repo=repo, revision=revision)
        case ["refs"] if not rest:
            return Route(operation="refs", repo=repo)
        case ["xet-read-token"] if len(rest) == 1:
            return Route(operation="xet", repo=repo, revision=revision)
    return None


class HubApi:
    """The answers of the hub and of the host where large files lie. Its repositories may change while it serves."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        *,
        gated: Collection[str],
        private: Collection[str],
        tokens: Mapping[str, Collection[str]],
        renamed: Mapping[str, str],
        secret: bytes,
        listings_gated: bool,
        small_redirected: bool,
        xet: bool,
        page_entries: int,
    ) -> None:
        self.repositories = repositories
        self.tokens = tokens
        #: The addresses of both hosts, once they listen.
        self.hub_url = self.storage_url = ""
        self._gated, self._private, self._secret = gated, private, secret
        self._renamed = renamed
        self._listings_gated, self._small_redirected, self._xet, self._page_entries = (
            listings_gated,
            small_redirected,
            xet,
            page_entries,
        )

    def answer(self, method: str, target: str, asked: Route | None, authorization: str | None, body: bytes) -> Reply:
        """What the hub answers. Refuses, in this order: unknown token, page, method, repository, token not let in, revision, entry."""
        scheme, _, token = (authorization or "").partition(" ")
        if authorization is not None and (scheme != "Bearer" or token not in self.tokens):
            return refusal(401, "Invalid credentials in Authorization header")
        if asked is None:
            return refusal(404, "Sorry, we can't find the page you are looking for.")
        allowed = _METHODS.get(asked.operation, frozenset({"GET"}))
        if method not in allowed:
            return refusal(405, "Method Not Allowed", Allow=", ".join(sorted(allowed)))
        if asked.operation == "other":
            return self._other(asked.path, token)
        if asked.repo in self._renamed:
            return Reply(status=307, headers={"Location": target.replace(asked.repo, self._renamed[asked.repo], 1)})
        if (refused := self._refused(asked, token)) is not None:
            return refused
        found = self.repositories[asked.repo]
        if asked.operation == "refs":
            return as_json(_refs(found))
        commit = found.commit(asked.revision or "main")
        if commit is None:
            return refusal(404, f"Invalid rev id: {asked.revision}", "RevisionNotFound")
        return self._of_commit(found, commit, asked, target, body)

    def _refused(self, asked: Route, token: str) -> Reply | None:
        """What somebody is told who may not see a repository, or may not read it."""
        let_in = asked.repo in self.tokens.get(token, ())
        if asked.repo not in self.repositories or (asked.repo in self._private and not let_in):
            # Who is not logged in may not learn whether it exists.
            if token:
                return refusal(404, "Repository not found", "RepoNotFound")
            return refusal(401, "Invalid username or password.", "RepoNotFound")
        listed = asked.operation not in {"resolve", "small", "xet"} and not self._listings_gated
        if asked.repo not in self._gated or let_in or listed:
            return None
        restricted = f"Access to model {asked.repo} is restricted"
        if token:
            return refusal(
                403, f"{restricted} and you are not in the authorized list. Visit its page to ask for access.", "GatedRepo"
            )
        return refusal(
            401, f"{restricted}. You must have access to it and be authenticated to access it. Please log in.", "GatedRepo"
        )

    def _of_commit(self, found: Repository, commit: str, asked: Route, target: str, body: bytes) -> Reply:
        query = parse_qs(urlsplit(target).query)
        match asked.operation:
            case "info":
                return as_json(self._info(found, commit, blobs=_is_true(query.get("blobs"))))
            case "tree":
                return self._tree(found, commit, asked, target, query)
            case "paths":
                return as_json(_paths(found, commit, body))
            case "xet":
                return refusal(404, "This hub has no such storage")
        file = found.commits[commit].get(asked.path)
        if file is None or (asked.operation == "small" and file.large):
            return refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit)
        return self._file(found, commit, file, asked)

    def stored(self, method: str, target: str, authorization: str | None) -> tuple[StoredFile | None, Reply]:
        """What the storage host answers: only links that the hub signed, and no second way of proving who one is."""
        split = urlsplit(target)
        name, _, commit = split.path.removeprefix("/").partition("/")
        signature = parse_qs(split.query).get("Signature", [""])[0]
        if method not in _METHODS["large"]:
            return None, refusal(405, "Method Not Allowed")
        if authorization is not None:
            return None, refusal(400, "Only one auth mechanism allowed")
        if not hmac.compare_digest(signature, self._sign(split.path)):
            return None, refusal(403, "Access Denied")
        commit, _, path = unquote(commit).partition("/")
        held = (one.commits[commit].get(path) for one in self.repositories.values() if commit in one.commits)
        file = next((file for file in held if file is not None and file.large and file.content.sha256 == name), None)
        if file is None:
            return None, refusal(404, "NoSuchKey")
        headers = {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        disposition = f"inline; filename*=UTF-8''{quote(file.name)}; filename=\"{file.name.rpartition('/')[2]}\";"
        return file, Reply(status=200, headers={**headers, "Content-Disposition": disposition}, content=file.content, ranges=True)

    def _sign(self, path: str) -> str:
        return hmac.new(self._secret, path.encode(), "sha256").hexdigest()

    def _other(self, path: str, token: str) -> Reply:
        if path == "agent-harnesses":
            return as_json({"standardEnvVars": [], "harnesses": {}})
        return as_json({"type": "user", "name": "tester"}) if token else refusal(401, "Invalid username or password.")

    def _info(self, found: Repository, commit: str, *, blobs: bool) -> dict[str, Any]:
        files = found.commits[commit].values()
        told = {
            "_id": commit[:24],
            "id": found.repo,
            "modelId": found.repo,
            "author": found.repo.partition("/")[0],
            "sha": commit,
            "lastModified": "2026-01-02T03:04:05.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": found.repo in self._private,
            "gated": "auto" if found.repo in self._gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": ["safetensors"],
            "spaces": [],
            "siblings": [file.sibling(blobs=blobs) for file in files],
        }
        return {**told, "usedStorage": sum(file.content.size for file in files)} if blobs else told

    def _tree(self, found: Repository, commit: str, asked: Route, target: str, query: Mapping[str, list[str]]) -> Reply:
        entries = found.listing(commit, asked.path, recursive=_is_true(query.get("recursive")))
        if entries is None:
            return refusal(404, f'{asked.path} does not exist on "{asked.revision}"', "EntryNotFound", X_Repo_Commit=commit)
        start = int(query.get("cursor", ["0"])[0])
        stop = start + self._page_entries
        reply = as_json(entries[start:stop], X_Repo_Commit=commit)
        if stop < len(entries):
            kept = "&".join(part for part in urlsplit(target).query.split("&") if part and not part.startswith("cursor="))
            reply.headers["Link"] = f'<{self.hub_url}{urlsplit(target).path}?{kept}&cursor={stop}>; rel="next"'
        return reply

    def _file(self, found: Repository, commit: str, file: StoredFile, asked: Route) -> Reply:
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        linked = {"X-Linked-Size": str(file.content.size), "X-Linked-Etag": f'"{file.etag}"'}
        if file.large:
            path = f"/{file.content.sha256}/{commit}/{quote(file.name)}"
            headers["Location"] = f"{self.storage_url}{path}?Expires=4102444800&Signature={self._sign(path)}"
            if self._xet:
                address = f"{self.hub_url}/api/models/{found.repo}/xet-read-token/{commit}"
                headers |= {"X-Xet-Hash": file.content.sha256, "Link": f'<{address}>; rel="xet-auth"'}
            return Reply(status=302, headers={**headers, **linked}, content=Content(b"Found. Redirecting"))
        if asked.operation == "resolve" and self._small_redirected:
            address = f"/api/resolve-cache/models/{found.repo}/{commit}/{quote(file.name)}"
            headers["Location"] = f"{address}?etag=%22{file.blob_id}%22"
            return Reply(status=307, headers={**headers, **linked}, content=Content(b"Temporary Redirect"))
        headers |= {"ETag": f'"{file.blob_id}"', "Content-Type": "text/plain; charset=utf-8"}
        headers["Content-Disposition"] = (
            f"inline; filename*=UTF-8''{quote(file.name)}; filename=\"{file.name.rpartition('/')[2]}\";"
        )
        return Reply(status=200, headers=headers, content=file.content, ranges=True)


def _is_true(values: list[str] | None) -> bool:
    return values is not None and values[-1].lower() in {"1", "true"}


def _refs(found: Repository) -> dict[str, Any]:
    def told(kind: str, names: list[str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": found.refs[name]} for name in names]

    # Tags look like versions here; nothing else tells them from branches.
    tags = [name for name in found.refs if name.startswith("v")]
    return {
        "branches": told("heads", [name for name in found.refs if name not in tags]),
        "converts": [],
        "tags": told("tags", tags),
    }


def _paths(found: Repository, commit: str, body: bytes) -> list[dict[str, Any]]:
    """Paths that do not exist are passed over, as a hub does."""
    try:
        wanted = json.loads(body)["paths"]
    except ValueError:
        wanted = parse_qs(body.decode()).get("paths", [])
    entries = found.listing(commit, "", recursive=True) or []
    return [entry for entry in entries if entry["path"] in wanted]
