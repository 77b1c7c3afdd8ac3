"""One request to a provider's HTTP API, sent once: no retry, no redirect, a connection of its own.

A connection of its own because a kept one may be closed by the other side just when a create goes out, and because a
signal handler may need one while another request is under way. What answers mean is the provider's business.
"""

from __future__ import annotations

import email.utils
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlencode

from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    CredentialsError,
    FundsError,
    GlasshouseError,
    ProviderError,
    RateLimitedError,
)
from pytest_glasshouse.providers.base import Instance
from pytest_glasshouse.providers.redaction import said
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.secret import Secret

CONNECT_S = 10.0
READ_S = 30.0
#: No listing of a person's allocations is as long as this.
MOST_BYTES = 16 * 1024 * 1024


class NotSentError(ProviderError):
    """The request never left this machine: nothing came of it."""


class UnusableError(ProviderError):
    """The request went out; whether anything came of it cannot be told from what came back."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer, of any status. `body` may hold what must not be shown."""

    provider: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def succeeded(self) -> bool:
        """Whether the status says so."""
        return 200 <= self.status < 300  # noqa: PLR2004

    @property
    def undecided(self) -> bool:
        """Whether the request may have been carried out all the same."""
        return self.status >= 500 or self.status == 408  # noqa: PLR2004

    @property
    def says_gone(self) -> bool:
        """Whether the API itself says that there is no such thing: a proxy's 404 is a page, and says nothing."""
        try:
            return self.status == 404 and bool(self.fields())  # noqa: PLR2004
        except UnusableError:
            return False

    def json(self) -> Json:
        """The body as JSON. Raises `UnusableError`."""
        try:
            return cast("Json", json.loads(self.body))
        except ValueError:
            kind = self.headers.get("content-type", "no content type").split(";")[0][:40]
            raise UnusableError(f"{self.provider}: status {self.status} with a body that is not JSON ({kind})") from None

    def fields(self) -> dict[str, Json]:
        """The body as a JSON object. Raises `UnusableError`."""
        value = self.json()
        if not isinstance(value, dict):
            raise UnusableError(f"{self.provider}: status {self.status} with JSON that is not an object")
        return value

    @property
    def retry_after_s(self) -> float | None:
        """How long the provider asked to be left alone, if it said so in seconds."""
        told = self.headers.get("retry-after", "")
        return float(told) if told.isdigit() else None

    @property
    def server_time_s(self) -> float | None:
        """The provider's clock, from the `Date` header."""
        try:
            return email.utils.parsedate_to_datetime(self.headers.get("date", "")).timestamp()
        except ValueError:
            return None


class ApiClient:
    """Requests to one base URL with one key."""

    def __init__(self, *, provider: str, base_url: str, key: Secret) -> None:
        self._provider = provider
        self._base_url = base_url
        self._key = key

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Secret | None = None,
        read_s: float = READ_S,
    ) -> Reply:
        """Send once and read the answer, whatever its status; `body` is JSON that no traceback shows.

        Raises `NotSentError` or `UnusableError`.
        """
        import urllib3

        url = f"{self._base_url}{path}{'?' + urlencode(query) if query else ''}"
        problem: ProviderError
        try:
            with urllib3.PoolManager(num_pools=1) as pool:
                answer = pool.request(
                    method,
                    url,
                    headers={
                        "Authorization": f"Bearer {self._key.reveal().decode()}",
                        "Accept": "application/json",
                        "Content-Type": "application/json",
                        "User-Agent": "pytest-glasshouse",
                    },
                    body=None if body is None else body.reveal(),
                    retries=False,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s),
                    preload_content=False,
                )
                data = _read(answer)
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Reply(provider=self._provider, status=answer.status, headers=headers, body=data)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            problem = NotSentError(f"{self._provider}: no connection to its API; nothing was asked. Check the network")
        except urllib3.exceptions.HTTPError as error:
            problem = _of_http_error(self._provider, error)
        # Raised out here, so that no traceback leads to frames that hold the key.
        raise problem

    def refusal(self, reply: Reply, what: str, detail: str) -> GlasshouseError:
        """The error for an answer that is not a success, where its status alone tells: `detail` is already fit to be shown."""
        text = f"{self._provider}: {what} was answered {reply.status}{': ' + detail if detail else ''}"
        match reply.status:
            case 401 | 403:
                return CredentialsError(f"{text}. The API key is not accepted for this; check its value and its rights")
            case 402:
                return FundsError(f"{text}. Add credit to the account")
            case 410:
                return ProviderError(f"{text}. This API was retired; a newer version of this tool may speak its successor")
            case 429:
                return RateLimitedError(f"{text}. Too many requests", retry_after_s=reply.retry_after_s)
        return ProviderError(text)

    def said(self, text: object) -> str:
        """`text` from the provider, fit to be shown."""
        return said(text, secrets=(self._key.reveal().decode(),))

    def secrets(self) -> tuple[str, ...]:
        """What no text may hold."""
        return (self._key.reveal().decode(),)


def asked_for(instance_id: str, answered: Instance) -> Instance:
    """`answered`, if it is what was asked for. Raises `UnusableError`."""
    if answered.instance_id != instance_id:
        raise UnusableError("the API answered with another allocation than was asked for")
    return answered


def lost_create(provider: str, name: str, why: str, *, instance_id: str | None = None) -> AmbiguousCreateError:
    """The error for a create of which nobody can tell what came of it; `why` is fit to be shown."""
    made = "" if instance_id is None else f", which names instance {instance_id}"
    return AmbiguousCreateError(
        f"{provider}: no usable answer to creating {name}{made} ({why.removeprefix(f'{provider}: ')}). It may exist and bill; "
        "it is looked for by its name, and never created again",
        allocation_id=name,
        instance_id=instance_id,
    )


def _read(answer: object) -> bytes:
    """The whole body; a stream that never ends ends with its read timeout and counts as far as it came."""
    import urllib3

    response = cast("urllib3.BaseHTTPResponse", answer)
    stream = response.headers.get("content-type", "").startswith("text/event-stream")
    data = bytearray()
    try:
        while piece := response.read1(65536) if stream else response.read(65536):
            data += piece
            if len(data) > MOST_BYTES:
                raise UnusableError(f"an answer of more than {MOST_BYTES} bytes")
    except urllib3.exceptions.ReadTimeoutError:
        if not stream:
            raise
    return bytes(data)


def _of_http_error(provider: str, error: Exception) -> ProviderError:
    import ssl

    if any(isinstance(part, ssl.SSLCertVerificationError) for part in (error, *error.args)):
        return NotSentError(
            f"{provider}: its API's certificate is not valid here; nothing was asked. Check clock and CA certificates"
        )
    return UnusableError(f"{provider}: the connection to its API broke before an answer ({type(error).__name__})")
