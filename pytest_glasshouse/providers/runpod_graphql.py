"""The requests of RunPod's SDK, sent by this project's own client: with its limits, proxies and errors.

The SDK writes queries and reads answers; in between it calls `requests.post`, which has no limits and takes an answer with
GraphQL errors for a whole one. Other callers of the same SDK are not affected.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

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


class GraphQLError(ProviderError):
    """GraphQL answered with an error; the text is its message, redacted."""

    #: Whether a query was refused, and not a mutation.
    changed_nothing = False


class CreatedDespiteError(UnusableError):
    """An error, and beside it a pod that was made; `instance_id` where its id can be read."""

    instance_id: str | None = None


class Call:
    """One call of the SDK: its requests and answers. With `in_part` an answer with errors beside it is accepted."""

    def __init__(self, api: ApiClient, *, in_part: bool) -> None:
        self._api = api
        self._in_part = in_part
        #: The messages of errors beside an answer.
        self.missing = ""

    def post(self, url: str, *, data: str, headers: dict[str, str]) -> SdkResponse:
        """Replaces `requests.post`."""
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
            return SdkResponse(self._read(reply, changes=changes))
        raise NotSentError(f"{why}. It was a query; nothing was created or ended")

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
        problems = list(_sentences(errors)) if errors else []
        sentence = self._api.redacted(" ".join(text for text, _ in problems) or fields.get("message") or "")
        refused = bool(problems) or not reply.succeeded
        # Checked first: whatever the error is about, a pod in the data exists.
        if refused and self._beside(sentence or f"status {reply.status}", fields, changes=changes):
            refused = False
        if refused:
            self._refused(reply, sentence, problems, changes=changes)
        return {name: value for name, value in fields.items() if name != "errors"}

    def _beside(self, sentence: str, fields: dict[str, Json], *, changes: bool) -> bool:
        """Whether the data beside an error can be used. Raises `CreatedDespiteError` where a pod was made."""
        data = fields.get("data")
        beside = [value for value in data.values() if value] if isinstance(data, dict) else []
        if changes and beside:
            both = CreatedDespiteError(f"runpod: an error and an answer at once: {sentence}")
            with contextlib.suppress(ProviderError):
                both.instance_id = checked_id("runpod", beside[0].get("id") if isinstance(beside[0], dict) else None)
            raise both
        if self._in_part and beside:
            self.missing = sentence
            return True
        return False

    def _refused(self, reply: ApiReply, sentence: str, problems: list[tuple[str, str]], *, changes: bool) -> NoReturn:
        """Raise what an error without data means."""
        if reply.status == _FORBIDDEN or any(_denies(text, code) for text, code in problems):
            if changes and only_this_pool(sentence):
                raise NoCapacityError(f"runpod: this account may not use that pool: {sentence}. Nothing was created")
            raise CredentialsError(f"runpod: {sentence or '403'}. The API key is not accepted for this; check its rights")
        if not problems:
            raise self._api.refusal(reply, "a request", sentence)
        if meaning(sentence) == "rate":
            raise RateLimitedError(f"runpod: {sentence}")
        error = GraphQLError(f"runpod: {sentence}")
        error.changed_nothing = not changes
        raise error


class SdkResponse:
    """The part of `requests.Response` that the SDK uses."""

    status_code = 200

    def __init__(self, fields: dict[str, Json]) -> None:
        self._fields = fields

    def json(self) -> dict[str, Json]:
        """The body, without errors."""
        return self._fields


_CALL: ContextVar[Call | None] = ContextVar("_CALL", default=None)


class _Requests:
    """Replaces `requests` in the SDK's module."""

    def __init__(self, genuine: Any) -> None:
        self._genuine = genuine

    def post(self, url: str, **named: Any) -> Any:
        call = _CALL.get()
        if call is None:
            return self._genuine.post(url, **named)
        return call.post(url, data=named["data"], headers=named["headers"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._genuine, name)


@contextmanager
def through(api: ApiClient, *, in_part: bool = False) -> Iterator[Call]:
    """Send the SDK's requests through `api` within this block and thread."""
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
    """Each error's message and code; an error in another form counts too."""
    for one in errors[:_MESSAGES] if isinstance(errors, list) else [errors]:
        fields = one if isinstance(one, dict) else {"message": one}
        extensions = fields.get("extensions")
        yield str(fields.get("message")), str(extensions.get("code")) if isinstance(extensions, dict) else ""


def _denies(text: str, code: str) -> bool:
    return code in _CODES or any(sign in text.lower() for sign in _DENIED)
