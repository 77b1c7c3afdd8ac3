"""The requests of RunPod's SDK, sent by this project's own reader: with its limits, its way through proxies, its errors.

The SDK writes the questions and takes the answers apart; between the two it calls `requests.post`, which knows no limits and,
with GraphQL, no difference between an answer and half of one. Calls of others to the same SDK go on as they did.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, cast

from pytest_glasshouse.errors import ConfigurationError, CredentialsError, NoCapacityError, ProviderError, RateLimitedError
from pytest_glasshouse.providers.base import checked_id
from pytest_glasshouse.providers.http_api import ApiClient, ApiReply, NotSentError, UnusableError
from pytest_glasshouse.providers.runpod_models import URL_VARIABLE, meaning, only_this_pool
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.secret import Secret

_MESSAGES = 5
_FORBIDDEN = 403
#: `extensions.code` of an error that is about the key, and sentences that are.
_CODES = {"FORBIDDEN", "UNAUTHENTICATED", "UNAUTHORIZED"}
_DENIED = (
    "unauthorized", "not authorized", "unauthenticated", "forbidden", "access denied", "permission", "read-only", "read only",
)  # fmt: skip


class SaidNoError(ProviderError):
    """GraphQL answered with an error; the text is its sentence, fit to be shown."""

    #: Whether what was refused was only a question.
    changed_nothing = False


class MadeAllTheSameError(UnusableError):
    """An error, and beside it something that was made; `instance_id` where its id can be read."""

    instance_id: str | None = None


class Call:
    """What one call of the SDK sends and hears. With `in_part` an answer that is half an error is taken as far as it goes."""

    def __init__(self, api: ApiClient, *, in_part: bool) -> None:
        self._api = api
        self._in_part = in_part
        #: What the errors beside an answer said.
        self.missing = ""

    def post(self, url: str, *, data: str, headers: dict[str, str]) -> Answered:
        """In place of `requests.post`."""
        if url != f"{self._api.base_url}/graphql":
            raise ConfigurationError(f"{URL_VARIABLE} changed while the provider was in use; nothing was asked")
        changes = "mutation" in json.loads(data)["query"]
        try:
            reply = self._api.request("POST", "/graphql", body=Secret(data.encode()), user_agent=headers["User-Agent"])
        except UnusableError as error:
            if changes:
                raise
            why = str(error)
        else:
            return Answered(self._read(reply, changes=changes))
        raise NotSentError(f"{why}. It was only a question; nothing was created or ended")

    def _read(self, reply: ApiReply, *, changes: bool) -> dict[str, Json]:
        if reply.undecided and not reply.succeeded:
            raise UnusableError(f"runpod: status {reply.status}")
        plain = {401, 402, 407, 410, 429}
        try:
            fields = {} if reply.status in plain else reply.fields(tolerant=not changes)
        except UnusableError:
            if reply.succeeded:
                raise
            fields = {}
        errors = fields.get("errors")
        told = list(_sentences(errors)) if errors else []
        sentence = self._api.redacted(" ".join(text for text, _ in told) or fields.get("message") or "")
        refused = bool(told) or not reply.succeeded
        # First of all: whatever the error is about, what stands beside it exists.
        if refused and self._beside(sentence or f"status {reply.status}", fields, changes=changes):
            refused = False
        if refused:
            self._refused(reply, sentence, told, changes=changes)
        return {name: value for name, value in fields.items() if name != "errors"}

    def _beside(self, sentence: str, fields: dict[str, Json], *, changes: bool) -> bool:
        """Whether what stands beside an error can be used. Raises `MadeAllTheSameError` for something that was made."""
        data = fields.get("data")
        beside = [value for value in data.values() if value] if isinstance(data, dict) else []
        if changes and beside:
            both = MadeAllTheSameError(f"runpod: an error and an answer at once: {sentence}")
            with contextlib.suppress(ProviderError):
                both.instance_id = checked_id("runpod", beside[0].get("id") if isinstance(beside[0], dict) else None)
            raise both
        if self._in_part and beside:
            self.missing = sentence
            return True
        return False

    def _refused(self, reply: ApiReply, sentence: str, told: list[tuple[str, str]], *, changes: bool) -> NoReturn:
        """Raise what an error means that stands alone."""
        if reply.status == _FORBIDDEN or any(_denies(text, code) for text, code in told):
            if changes and only_this_pool(sentence):
                raise NoCapacityError(f"runpod: this account may not use that pool: {sentence}. Nothing was created")
            raise CredentialsError(f"runpod: {sentence or '403'}. The API key is not accepted for this; check its rights")
        if not told:
            raise self._api.refusal(reply, "a request", sentence)
        if meaning(sentence) == "rate":
            raise RateLimitedError(f"runpod: {sentence}")
        error = SaidNoError(f"runpod: {sentence}")
        error.changed_nothing = not changes
        raise error


class Answered:
    """As much of a `requests.Response` as the SDK looks at."""

    status_code = 200

    def __init__(self, fields: dict[str, Json]) -> None:
        self._fields = fields

    def json(self) -> dict[str, Json]:
        """The body, without errors."""
        return self._fields


_CALL: ContextVar[Call | None] = ContextVar("_CALL", default=None)


class _Requests:
    """Stands where the SDK's module has `requests`."""

    def __init__(self, genuine: Any) -> None:
        self._genuine = genuine

    def post(self, url: str, **named: Any) -> Any:
        call = _CALL.get()
        if call is None:
            return self._genuine.post(url, **named)
        return call.post(url, data=cast("str", named["data"]), headers=cast("dict[str, str]", named["headers"]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._genuine, name)


@contextmanager
def through(api: ApiClient, *, in_part: bool = False) -> Iterator[Call]:
    """Within this block, and this thread, the SDK's requests go through `api`."""
    import runpod.api.graphql as sdk

    if not isinstance(sdk.requests, _Requests):
        sdk.requests = _Requests(sdk.requests)
    call = Call(api, in_part=in_part)
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)


def _sentences(errors: Json) -> Iterator[tuple[str, str]]:
    """Each error's text and code; one of another form counts too."""
    for one in errors[:_MESSAGES] if isinstance(errors, list) else [errors]:
        fields = one if isinstance(one, dict) else {"message": one}
        extensions = fields.get("extensions")
        yield str(fields.get("message")), str(extensions.get("code")) if isinstance(extensions, dict) else ""


def _denies(text: str, code: str) -> bool:
    return code in _CODES or any(sign in text.lower() for sign in _DENIED)
