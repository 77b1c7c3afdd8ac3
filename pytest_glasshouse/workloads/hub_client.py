"""Reads bytes from a model hub through the session of `huggingface_hub`, which knows its headers, redirects and tokens.

Nothing that a hub sends names a file, and nothing is read beyond what was asked for: the library's own downloads write where the
hub's headers say, and wait for as long as it sends. Used on the host and on the guest, in a process of its own on either.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pytest_glasshouse.errors import GlasshouseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: How long a hub may take to connect, and for every next piece, in seconds.
ANSWER_S = 30.0
_WHOLE, _PARTIAL = 200, 206
_ASKS_WHO = (401, 403)
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PIECE_BYTES = 1 << 16
_CODE = re.compile(r"[A-Za-z]{1,40}")

#: By the hub's word for an error: a stable code, and what the user reads.
_KNOWN = {
    "GatedRepo": ("gated", "the model is gated: the hub asks for a token that may read it"),
    "RepoNotFound": ("absent", "the hub knows no such model, or asks for a token that may read it"),
    #: To whoever shows no token, a hub does not tell whether a private model exists.
    "RepoNotFound 401": ("hidden", "the hub knows no such model, or asks for a token that may read it"),
    "RevisionNotFound": ("absent", "the hub knows the model and no such revision of it"),
    "EntryNotFound": ("absent", "the hub does not have a file of the model"),
    "DisabledRepo": ("absent", "the hub has disabled the model"),
}


class HubError(GlasshouseError):
    """A hub did not give what was asked for. `passing`: it may, if it is asked again after `retry_after_s`."""

    def __init__(self, code: str, detail: str, *, passing: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.code = code
        self.passing = passing
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, kw_only=True)
class HubAnswer:
    """An answer of a hub: the bytes from `start` on, as they come."""

    start: int
    pieces: Iterator[bytes]


def file_url(endpoint: str, repo: str, commit: str, name: str) -> str:
    """Where a file of a model is."""
    return f"{endpoint}/{quote(repo)}/resolve/{quote(commit, safe='')}/{quote(name)}"


def info_url(endpoint: str, repo: str, revision: str | None) -> str:
    """Where a model is described, every file with its size and digest."""
    at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    return f"{endpoint}/api/models/{quote(repo)}{at}?blobs=true"


def in_clear(url: str) -> bool:
    """Whether others could read what is sent there: a token is not."""
    parts = urlsplit(url)
    return parts.scheme != "https" and parts.hostname not in _LOOPBACK


@contextlib.contextmanager
def asked(url: str, *, token: str | None, start: int = 0, end: int | None = None) -> Iterator[HubAnswer]:
    """The bytes at `url` from `start` to `end`. Raises `HubError`; a hub that ignores the range gives them from 0.

    `ModuleNotFoundError` where `huggingface_hub` is not installed.
    """
    from huggingface_hub import utils

    if token is not None and in_clear(url):
        raise HubError("in-clear", "a token is not sent to a hub whose address does not begin with https://")
    client: Any = utils
    headers = {**client.build_hf_headers(token=token or False), "Accept-Encoding": "identity"}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    with contextlib.ExitStack() as stack:
        with _named_errors():
            status, answered, pieces, at = _sent(stack, client.get_session(), url, headers)
        yield HubAnswer(start=_start(status, answered, start, redirected=_host(at) != _host(url)), pieces=_named(pieces))


def _host(url: str) -> str:
    return urlsplit(url).netloc.lower()


def _named(pieces: Iterator[bytes]) -> Iterator[bytes]:
    with _named_errors():
        yield from pieces


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Exceptions of the libraries that speak HTTP become `HubError`, without their texts: links in these are signed."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError | ValueError) and not _is_network(error):
            raise  # of this program
        raise HubError("unreachable", f"the connection to the hub failed ({type(error).__name__})", passing=True) from None


def _start(status: int, headers: Mapping[str, str], start: int, *, redirected: bool) -> int:
    """From where on an answer has the file. Raises `HubError` for an answer without the file."""
    if status not in (_WHOLE, _PARTIAL):
        raise _refused(status, headers, redirected=redirected)
    if str(headers.get("Content-Encoding", "")) not in ("", "identity"):
        raise HubError("malformed", "the hub sent packed what it was asked to send as it is", passing=True)
    if status == _PARTIAL and not str(headers.get("Content-Range", "")).startswith(f"bytes {start}-"):
        raise HubError("malformed", "the hub sent another range than it was asked for", passing=True)
    return start if status == _PARTIAL else 0


def _sent(
    stack: contextlib.ExitStack, session: Any, url: str, headers: Mapping[str, str]
) -> tuple[int, Mapping[str, str], Iterator[bytes], str]:
    """Status, headers, body, last address: newer versions of the library speak through httpx, older ones through requests."""
    if hasattr(session, "stream"):
        answer = stack.enter_context(session.stream("GET", url, headers=headers, timeout=ANSWER_S, follow_redirects=True))
        # As they arrive: a piece that is not yet full is lost where the connection ends.
        return answer.status_code, answer.headers, answer.iter_raw(), str(answer.url)
    answer = stack.enter_context(session.get(url, headers=headers, timeout=ANSWER_S, stream=True, allow_redirects=True))
    return answer.status_code, answer.headers, answer.raw.stream(_PIECE_BYTES, decode_content=False), str(answer.url)


def _is_network(error: Exception) -> bool:
    """Whether an exception of a library that speaks HTTP says that the connection failed."""
    return type(error).__module__.partition(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "requests"}


def _refused(status: int, headers: Mapping[str, str], *, redirected: bool) -> HubError:
    word = str(headers.get("X-Error-Code", ""))
    if (known := _KNOWN.get(f"{word} {status}") or _KNOWN.get(word)) is not None:
        return HubError(*known)
    if status in _ASKS_WHO and redirected:
        # The hub let us in: it is its link, which is signed for a short time, that the other host does not take.
        return HubError("refused", f"the host that the hub names for the file answered with status {status}", passing=True)
    if status in _ASKS_WHO:
        return HubError("gated", "the hub asks for a token that may read the model")
    after = str(headers.get("Retry-After", ""))
    seconds = float(after) if re.fullmatch(r"[0-9]{1,6}", after) else 0.0
    named = f" ({word})" if _CODE.fullmatch(word) else ""
    code = "busy" if status in _PASSING else "refused"
    return HubError(code, f"the hub answered with status {status}{named}", passing=status in _PASSING, retry_after_s=seconds)


def whole(url: str, *, token: str | None, limit: int) -> bytes:
    """All bytes at `url`. Raises `HubError` for more than `limit`."""
    with asked(url, token=token) as answer:
        content = bytearray()
        for piece in answer.pieces:
            content += piece
            if len(content) > limit:
                raise HubError("malformed", f"expected at most {limit} bytes from the hub")
    return bytes(content)


def part(url: str, *, token: str | None, start: int, end: int) -> bytes:
    """The bytes from `start` to `end` at `url`. Raises `HubError` where the hub gives fewer."""
    with asked(url, token=token, start=start, end=end) as answer:
        if answer.start != start:
            raise HubError("malformed", "expected a hub that answers range requests")
        content = bytearray()
        for piece in answer.pieces:
            content += piece
            if len(content) >= end - start:
                break
    if len(content) < end - start:
        raise HubError("cut", "the hub's answer ended early", passing=True)
    return bytes(content[: end - start])
