"""Listings and headers that no hub should send: what a client that trusts names, sizes or digests would come to grief over.

`HOSTILE_INFO` has changes to the answer of `model_info`, by what is wrong with it: `hub.arm(HOSTILE_INFO[what], on="info")`.
`HOSTILE_HEADERS` has those to what a large file's address answers, for `on="resolve"`. `huggingface_hub` believes most of them: it
checks no digest, and it names the file in its cache by the ETag it was told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.loopback.hub_faults import Changed, Headers

#: Names of files that must not become paths.
HOSTILE_NAMES: dict[str, str] = {
    "above": "../escaped.json",
    "far above": "../../../../../../../../tmp/escaped.json",
    "above from below": "weights/../../escaped.json",
    "absolute": "/tmp/escaped.json",
    "home": "~/escaped.json",
    "drive": "C:\\escaped.json",
    "backslashes": "..\\escaped.json",
    "share": "\\\\host\\share\\escaped.json",
    "empty": "",
    "here": ".",
    "directory": "config/",
    "two slashes": "weights//escaped.json",
    "zero byte": "config\0.json",
    "line end": "config\n.json",
    "escape sequence": "\x1b[2Jconfig.json",
    "right to left": "config\u202enosj.py",
    "lone surrogate": "config\ud800.json",
    "longer than a file system takes": "a" * 300 + ".json",
    "longer than a path may be": "/".join(["a" * 200] * 30) + ".json",
    "git's own": ".git/config",
    "quoted slashes": "..%2fescaped.json",
}
_SIZES: dict[str, Any] = {
    "text": "123",
    "negative": -1,
    "a float": 12.5,
    "true": True,
    "null": None,
    "more than 2^63": 1 << 70,
    "a list": [1],
    "not a number": float("nan"),
}
_DIGESTS: dict[str, Any] = {
    "not hexadecimal": "z" * 64,
    "too short": "ab" * 31,
    "too long": "ab" * 33,
    "in capitals": "AB" * 32,
    "with a prefix": "sha256:" + "ab" * 32,
    "null": None,
    "a number": 7,
    "empty": "",
    "a path": "../" * 21 + "a",
}


def _siblings(change: Callable[[list[Any]], Any], what: str) -> Changed:
    return Changed(by=lambda info: {**info, "siblings": change(info["siblings"])}, what=what)


def _in_large(what: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Changed:
    """The first large file's entry, changed."""

    def by(siblings: list[Any]) -> list[Any]:
        first = next(one for one in siblings if "lfs" in one)
        return [change(one) if one is first else one for one in siblings]

    return _siblings(by, what)


def _lfs(one: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**one, "lfs": {**one["lfs"], **fields}}


def _without(one: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name not in names}


def many_siblings(count: int = 1_000_000) -> Changed:
    """So many files of a hundred bytes each. Made while it is sent."""

    def body(info: dict[str, Any]) -> Iterator[bytes]:
        yield b'{"id":"%s","sha":"%s","siblings":[' % (info["id"].encode(), info["sha"].encode())
        for start in range(0, count, 1000):
            entries = (
                b'{"rfilename":"f%d","size":100,"blobId":"%040x"}' % (at, at) for at in range(start, min(start + 1000, count))
            )
            yield (b"," if start else b"") + b",".join(entries)
        yield b"]}"

    return Changed(by=body, what=f"{count} siblings")


def huge_json(size_bytes: int = 1 << 30) -> Changed:
    """One string of so many bytes. Made while it is sent."""

    def body(info: dict[str, Any]) -> Iterator[bytes]:
        yield b'{"sha":"%s","siblings":[],"id":"' % info["sha"].encode()
        for _ in range(size_bytes >> 16):
            yield b"a" * (1 << 16)
        yield b'"}'

    return Changed(by=body, what=f"JSON of {size_bytes} bytes")


def tree_with(name: str) -> Changed:
    """A tree that has one more file, of such a name."""
    return Changed(by=lambda entries: [*entries, {**entries[0], "type": "file", "path": name}], what=name)


_HEADERS: dict[str, dict[str, str | None]] = {
    "etag: another file's": {"X-Linked-Etag": f'"{"ab" * 32}"'},
    "etag: not hexadecimal": {"X-Linked-Etag": f'"{"z" * 64}"'},
    "etag: a path above": {"X-Linked-Etag": '"../../../../escaped"'},
    "etag: an absolute path": {"X-Linked-Etag": '"/tmp/escaped"'},
    "etag: weak": {"X-Linked-Etag": f'W/"{"ab" * 32}"'},
    "etag: empty": {"X-Linked-Etag": '""'},
    "etag: not there": {"X-Linked-Etag": None},
    "size: text": {"X-Linked-Size": "many"},
    "size: negative": {"X-Linked-Size": "-1"},
    "size: more than 2^63": {"X-Linked-Size": str(1 << 70)},
    "size: not there": {"X-Linked-Size": None},
    "commit: another": {"X-Repo-Commit": "0" * 40},
    "commit: a path": {"X-Repo-Commit": "../../../escaped"},
    "commit: not there": {"X-Repo-Commit": None},
    "location: not there": {"Location": None},
    "location: a file": {"Location": "file:///etc/passwd"},
    "location: no address": {"Location": "http://[::1"},
    "location: of a machine's own network": {"Location": "http://169.254.169.254/latest/meta-data/"},
    "location: with a password": {"Location": "http://user:password@127.0.0.1:1/"},
}
HOSTILE_HEADERS: dict[str, Headers] = {what: Headers(changed=changed) for what, changed in _HEADERS.items()}

HOSTILE_INFO: dict[str, Changed] = {
    **{
        f"name: {what}": _siblings(lambda all_of_them, name=name: [*all_of_them, {**all_of_them[0], "rfilename": name}], what)  # type: ignore[misc]
        for what, name in HOSTILE_NAMES.items()
    },
    **{f"size: {what}": _in_large(what, lambda one, size=size: {**one, "size": size}) for what, size in _SIZES.items()},  # type: ignore[misc]
    **{f"lfs size: {what}": _in_large(what, lambda one, size=size: _lfs(one, size=size)) for what, size in _SIZES.items()},  # type: ignore[misc]
    **{f"sha256: {what}": _in_large(what, lambda one, text=text: _lfs(one, sha256=text)) for what, text in _DIGESTS.items()},  # type: ignore[misc]
    "size: not that of lfs": _in_large("size", lambda one: {**one, "size": one["size"] + 1}),
    "size: not there": _in_large("size", lambda one: _without(one, "size")),
    "lfs: a list": _in_large("lfs", lambda one: {**one, "lfs": []}),
    "lfs: not there": _in_large("lfs", lambda one: _without(one, "lfs")),
    "name: twice": _siblings(lambda all_of_them: [*all_of_them, all_of_them[0]], "twice"),
    "name: a number": _siblings(lambda all_of_them: [*all_of_them, {**all_of_them[0], "rfilename": 7}], "a number"),
    "siblings: text": _siblings(lambda _: "config.json", "text"),
    "siblings: a number among them": _siblings(lambda all_of_them: [*all_of_them, 7], "a number"),
    "siblings: none": _siblings(lambda _: [], "none"),
    "siblings: not there": Changed(by=lambda info: _without(info, "siblings"), what="not there"),
    "commit: another": Changed(by=lambda info: {**info, "sha": "0" * 40}, what="another commit"),
    "commit: a path": Changed(by=lambda info: {**info, "sha": "../" * 13 + "a"}, what="a path"),
    "commit: not there": Changed(by=lambda info: _without(info, "sha"), what="no commit"),
    "repository: another": Changed(by=lambda info: {**info, "id": "somebody/else"}, what="another repository"),
    "json: not an object": Changed(by=lambda _: [], what="a list"),
    "json: cut off": Changed(by=lambda _: b'{"sha":"', what="cut off"),
    "json: a page": Changed(by=lambda _: b"<html><body>Sign in to the network</body></html>", what="a page"),
    "json: not UTF-8": Changed(by=lambda _: b'{"sha":"\xff"}', what="not UTF-8"),
    "json: deep": Changed(by=lambda _: b"[" * 200_000, what="deep"),
    "json: a number of a million digits": Changed(by=lambda _: b'{"sha":' + b"9" * 1_000_000 + b"}", what="a long number"),
    "json: nothing": Changed(by=lambda _: b"", what="nothing"),
}
