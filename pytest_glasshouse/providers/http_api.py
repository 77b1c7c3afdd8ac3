"""One request to a provider's HTTP API, sent once, the rate limit of such requests, and the redaction of what was answered.

`web` knows how a request travels and how large an answer may be. What an answer means is each provider's business.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    CredentialsError,
    FundsError,
    GlasshouseError,
    IntegrityError,
    ProviderError,
    RateLimitedError,
)
from pytest_glasshouse.http_client.answer import Answer
from pytest_glasshouse.http_client.exchange import USUAL, AnswerLimits, NoAnswerError, exchange
from pytest_glasshouse.http_client.routes import Routes
from pytest_glasshouse.providers.base import Instance
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.printable import printable, visible
from pytest_glasshouse.wire.secret import Secret

#: Redirects: the server did not carry the request out.
_MOVED = frozenset({301, 302, 307, 308})
_USER_AGENT = "pytest-glasshouse"
_SHOWN = 240
_SHORTEST_SECRET = 6
#: Characters that are searched, and those of a line that are shown. No pattern below takes more than linear time.
_LONGEST = 20_000
_MOST = 256 * 1024
_LINE = 1_000
_SHAPES = (
    (re.compile(r"(?i)\bbearer\s++\S+"), "Bearer ***"),
    (re.compile(r"\b[a-z]++://\S+"), "<url>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"(?i)(?<![\w.-])[\w.-]+\.(?:runpod\.(?:net|io)|vast\.ai)(?::\d+)?\b"), "<host>"),
    (re.compile(r"(?<![\w-])-p\s*+\d+"), "-p ***"),
    (re.compile(r"\bssh-(?:ed25519|rsa)\s++\S+"), "<public key>"),
    # Up to the end of the text where the key has none: half a key is secret too, and the text is read once.
    (re.compile(r"(?s)-----BEGIN .*?(?:-----END [A-Z ]+-----|\Z)"), "<key>"),
)


class NotSentError(ProviderError):
    """The request was not sent: nothing was changed."""


class UnusableError(ProviderError):
    """The request was sent; the answer does not show whether it was carried out."""


@dataclass(frozen=True, kw_only=True)
class ApiReply(Answer):
    """One provider's answer, of any status."""

    provider: str

    @property
    def succeeded(self) -> bool:
        """Whether the status says so."""
        return 200 <= self.status < 300  # noqa: PLR2004

    @property
    def undecided(self) -> bool:
        """Whether the status does not show if the request was carried out: neither success, nor refusal, nor redirect."""
        refused = 400 <= self.status < 500 and self.status not in {408, 499}  # noqa: PLR2004
        return not (self.succeeded or refused or self.status in _MOVED)

    @property
    def not_found(self) -> bool:
        """Whether the API itself answered 404, with JSON. A proxy's 404 is a page, and shows nothing."""
        try:
            return self.status == 404 and bool(self.fields())  # noqa: PLR2004
        except UnusableError:
            return False

    def json(self, *, tolerant: bool = False) -> Json:
        """The body as JSON; with `tolerant`, as far as it can be read. Raises `UnusableError`."""
        try:
            return self.value(tolerant=tolerant)
        except IntegrityError as error:
            kind = printable(self.content_type or "no content type", limit=40)
            raise UnusableError(
                f"{self.provider}: status {self.status} with a body that is not JSON ({kind}; {error.detail})"
            ) from None

    def fields(self, *, tolerant: bool = False) -> dict[str, Json]:
        """The body as a JSON object. Raises `UnusableError`."""
        value = self.json(tolerant=tolerant)
        if not isinstance(value, dict):
            raise UnusableError(f"{self.provider}: status {self.status} with JSON that is not an object")
        return value


class ApiClient:
    """Requests to one base URL with one key, by proxies and certificates of `environ` (by default this process's)."""

    def __init__(self, *, provider: str, base_url: str, key: Secret, environ: Mapping[str, str] | None = None) -> None:
        self._provider = provider
        self.base_url = base_url
        self._key = key
        self._routes = Routes(os.environ if environ is None else environ)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Secret | None = None,
        limits: AnswerLimits = USUAL,
        user_agent: str = _USER_AGENT,
    ) -> ApiReply:
        """Send once and return the answer, whatever its status; `body` is JSON that no traceback shows.

        Raises `NotSentError`, `UnusableError`, or `ConfigurationError` for an environment that names no usable proxy or
        certificates; nothing was sent then.
        """
        url = f"{self.base_url}{path}{'?' + urlencode(query) if query else ''}"
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": user_agent}
        try:
            answer = exchange(method, url, routes=self._routes, limits=limits, headers=headers, key=self._key, body=body)
        except NoAnswerError as error:
            sent, why, advice = error.sent, str(error), error.advice
        else:
            return ApiReply(provider=self._provider, status=answer.status, headers=answer.headers, body=answer.body)
        if sent:
            raise UnusableError(f"{self._provider}: its API gave no usable answer: {why}")
        raise NotSentError(f"{self._provider}: {why}; nothing was asked. {advice}")

    def fetch_without_key(self, url: str, *, limits: AnswerLimits) -> Answer | None:
        """The answer from another URL, requested without the key; None where there is none."""
        try:
            return exchange("GET", url, routes=self._routes, limits=limits, headers={"User-Agent": _USER_AGENT})
        except GlasshouseError:
            return None

    def refusal(self, reply: ApiReply, what: str, detail: str) -> GlasshouseError:
        """The error for an answer that is no success, by its status alone; `detail` is redacted already."""
        text = f"{self._provider}: {what} was answered {reply.status}{': ' + detail if detail else ''}"
        match reply.status:
            case 401 | 403:
                return CredentialsError(f"{text}. The API key is not accepted for this; check its value and its rights")
            case 402:
                return FundsError(f"{text}. Add credit to the account")
            case 407:
                return NotSentError(f"{text}. The proxy refused, and nothing was asked; check HTTP_PROXY")
            case 410:
                return ProviderError(f"{text}. This API was retired; a newer version of this tool may speak its successor")
            case 429:
                return RateLimitedError(f"{text}. Too many requests", retry_after_s=reply.retry_after_s)
        return ProviderError(text)

    def redacted(self, text: object) -> str:
        """`text` from the provider as one short line, without this client's secrets."""
        return redact_line(text, secrets=self.secrets())

    def secrets(self) -> tuple[str, ...]:
        """What no text may show: the key, and the credentials of the proxy."""
        return (self._key.reveal().decode(), *self._routes.secrets(self.base_url))


def same_instance(instance_id: str, answered: Instance) -> Instance:
    """`answered`, if it has the id that was asked for. Raises `UnusableError`."""
    if answered.instance_id != instance_id:
        raise UnusableError("the API answered with another allocation than was asked for")
    return answered


def ambiguous_create(provider: str, name: str, why: str, *, instance_id: str | None = None) -> AmbiguousCreateError:
    """The error for a create request that may have been carried out; `why` is redacted already."""
    made = "" if instance_id is None else f", which names instance {instance_id}"
    return AmbiguousCreateError(
        f"{provider}: no usable answer to creating {name}{made} ({why.removeprefix(f'{provider}: ')}). It may exist and bill; "
        "it is looked for by its name, and never created again",
        allocation_id=name,
        instance_id=instance_id,
    )


class Throttle:
    """A rate limiter: one call per `interval_s`, for all threads together. No lock is held while a thread waits."""

    def __init__(
        self, interval_s: float, *, monotonic: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._interval_s, self._monotonic, self._sleep = interval_s, monotonic, sleep
        self._lock = threading.Lock()
        self._next = float("-inf")

    def wait(self) -> None:
        """Return when this call may be made."""
        with self._lock:
            now = self._monotonic()
            turn = max(self._next, now)
            self._next = turn + self._interval_s
        if turn > now:
            self._sleep(turn - now)


def redact_log(text: str, *, secrets: Iterable[str] = ()) -> str:
    """The end of a log without secrets, keys and addresses. Lines stay lines, of visible characters only."""
    text = _without(text[-_MOST:], secrets)[-_LONGEST:]
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return "\n".join(visible(line)[:_LINE] for line in text.split("\n"))


def redact_line(text: object, *, secrets: Iterable[str] = ()) -> str:
    """`text` from a provider as one short line for a message, without secrets, keys and addresses."""
    line = _without(str(text)[:_MOST], secrets)[:_LONGEST]
    for shape, instead in _SHAPES:
        line = shape.sub(instead, line)
    return printable(line, limit=_SHOWN)


def _without(text: str, secrets: Iterable[str]) -> str:
    """`text` without secrets. Called before the text is cut, or half a secret could be left."""
    text = "".join(letter for letter in text if letter.isprintable() or letter.isspace())
    for secret in sorted((one for one in secrets if len(one) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
