"""Answers that no loopback server gives: each provider over a server with one scripted answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    ConfigurationError,
    CredentialsError,
    FundsError,
    GlasshouseError,
    LaunchRefusedError,
    NoCapacityError,
    ProviderError,
    RateLimitedError,
    TerminateError,
)
from pytest_glasshouse.providers.base import Provider
from pytest_glasshouse.providers.http_api import NotSentError
from pytest_glasshouse.rows import RowSpec
from tests.unit.providers.one_answer import DEEP, OneAnswer, create


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        (200, {}, AmbiguousCreateError),
        (201, {"id": ""}, AmbiguousCreateError),
        (201, {"id": 7}, AmbiguousCreateError),
        (201, [], AmbiguousCreateError),
        (201, b"", AmbiguousCreateError),
        (202, {}, AmbiguousCreateError),
        (204, b"", AmbiguousCreateError),
        (408, {}, AmbiguousCreateError),
        (504, b"<html>", AmbiguousCreateError),
        (301, b"", ProviderError),
        (303, b"", AmbiguousCreateError),
        (304, b"", AmbiguousCreateError),
        (499, {}, AmbiguousCreateError),
        (600, {}, AmbiguousCreateError),
        (999, {}, AmbiguousCreateError),
        (201, DEEP, AmbiguousCreateError),
        (201, b'{"id": "a", "id": "b"}', AmbiguousCreateError),
        (201, b'{"id": "a", "cost": NaN}', AmbiguousCreateError),
        (201, b'{"id": "a", "cost": 1e999}', AmbiguousCreateError),
        (201, b'{"id": "a", "cost": ' + b"9" * 5000 + b"}", AmbiguousCreateError),
        (201, b'{"id": "\\ud800"}', AmbiguousCreateError),
        (201, b"\xff", AmbiguousCreateError),
        (201, b"[" + b"0," * 600_000 + b"0]", AmbiguousCreateError),
        (201, "text", AmbiguousCreateError),
        (400, {"detail": "Insufficient balance"}, FundsError),
        (400, {"detail": "something else"}, NoCapacityError),
        (401, {"detail": "no"}, CredentialsError),
        (402, {"detail": "no"}, FundsError),
        (403, {"detail": "no access to this pool"}, NoCapacityError),
        (403, {"detail": "Your account cannot access the requested pool."}, NoCapacityError),
        (403, {"detail": "access denied"}, CredentialsError),
        (403, {"detail": "this API key may not deploy to that pool"}, CredentialsError),
        (403, {"detail": "permission denied: pods:write"}, CredentialsError),
        (403, {}, CredentialsError),
        (403, b"<html>", CredentialsError),
        (407, b"", NotSentError),
        (404, {"detail": "no"}, ProviderError),
        (410, {"detail": "retired"}, ProviderError),
        (422, {"detail": "no", "errors": ["$: bogus"]}, LaunchRefusedError),
        (429, b"slow", RateLimitedError),
    ],
)
def test_runpods_answers_to_a_create(
    rest: Provider, answers: OneAnswer, status: int, value: Any, expected: type[Exception]
) -> None:
    answers.answer_with(status, value)
    with pytest.raises(expected) as caught:
        create(rest)()
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        (200, {"success": True}, AmbiguousCreateError),
        (200, {}, AmbiguousCreateError),
        (200, b"<html>", AmbiguousCreateError),
        (202, {"success": True}, AmbiguousCreateError),
        (200, {"success": False, "new_contract": 5}, AmbiguousCreateError),
        (303, b"", AmbiguousCreateError),
        (999, {}, AmbiguousCreateError),
        (200, DEEP, AmbiguousCreateError),
        (200, b'{"success": true, "x": NaN}', AmbiguousCreateError),
        (400, b'{"error": "no_such_ask", "new_contract": [5]}', AmbiguousCreateError),
        (400, b'{"error": "no_such_ask", "new_contract": 1, "new_contract": 2}', AmbiguousCreateError),
        (400, {"success": False, "error": "bid", "new_contract": 5}, AmbiguousCreateError),
        (500, {"new_contract": 5}, AmbiguousCreateError),
        (503, b"", AmbiguousCreateError),
        (408, b"", AmbiguousCreateError),
        (200, {"success": False, "error": "no_such_ask"}, NoCapacityError),
        (400, {"success": False, "error": "no_such_ask"}, NoCapacityError),
        (404, {}, NoCapacityError),
        (410, {}, NoCapacityError),
        (400, {"success": False, "error": "a code nobody knows"}, NoCapacityError),
        (400, {"success": False, "error": "invalid_price"}, LaunchRefusedError),
        (400, {"success": False, "error": "insufficient_credit"}, FundsError),
        (401, {}, CredentialsError),
        (403, {}, CredentialsError),
        (403, {"error": "not_authorized", "msg": "needs instance_write"}, CredentialsError),
        (429, b"API requests too frequent", RateLimitedError),
        (302, b"", ProviderError),
    ],
)
def test_vasts_answers_to_a_create(
    vast: Provider, answers: OneAnswer, status: int, value: Any, expected: type[Exception]
) -> None:
    answers.answer_with(status, value)
    with pytest.raises(expected) as caught:
        create(vast)()
    assert type(caught.value) is expected
    if isinstance(caught.value, AmbiguousCreateError):
        made = value.get("new_contract") if isinstance(value, dict) else None
        assert caught.value.instance_id == ("5" if made == 5 else None)


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        (200, {"errors": [{"message": "Something went wrong."}]}, ProviderError),
        (200, {"data": {"gpuTypes": []}}, NoCapacityError),
        (200, {"errors": [{"message": "Unauthorized"}]}, CredentialsError),
        (200, {"errors": [{"message": "Too many requests"}]}, RateLimitedError),
        (401, {}, CredentialsError),
        (403, {"message": "forbidden"}, CredentialsError),
        (403, b"", CredentialsError),
        (200, {"errors": [{"message": "no", "extensions": {"code": "FORBIDDEN"}}]}, CredentialsError),
        (200, {"errors": [{"message": "Your API key is read only"}]}, CredentialsError),
        (200, {"data": {"gpuTypes": [{}]}, "errors": [{"message": "forbidden"}]}, CredentialsError),
        (200, {"errors": []}, AmbiguousCreateError),
        (200, {"errors": [], "data": {"gpuTypes": [None]}}, AmbiguousCreateError),
        (200, {"errors": "no"}, ProviderError),
        (200, {"errors": {"message": "no"}}, ProviderError),
        (200, [], AmbiguousCreateError),
        (200, {"data": []}, AmbiguousCreateError),
        (200, {"data": {"gpuTypes": {}}}, NoCapacityError),
        (503, b"", AmbiguousCreateError),
        (303, b"", AmbiguousCreateError),
        (402, {}, FundsError),
        (429, b"slow", RateLimitedError),
        (200, {"data": {"gpuTypes": [{}], "podFindAndDeployOnDemand": None}}, AmbiguousCreateError),
        (200, {"data": {"gpuTypes": [{}], "podFindAndDeployOnDemand": {"id": None}}}, AmbiguousCreateError),
        (200, b"<html>", AmbiguousCreateError),
    ],
)
def test_graphqls_answers_to_a_create(
    sdk: Provider, answers: OneAnswer, status: int, value: Any, expected: type[Exception]
) -> None:
    answers.answer_with(status, value)
    with pytest.raises(expected) as caught:
        create(sdk)()
    assert expected in type(caught.value).__mro__
    assert isinstance(caught.value, AmbiguousCreateError) == (expected is AmbiguousCreateError)


def test_an_allocation_is_gone_only_by_an_unambiguous_answer(
    rest: Provider, vast: Provider, sdk: Provider, answers: OneAnswer
) -> None:
    answers.answer_with(404, {"detail": "gone"})
    assert rest.get("a") is None
    assert vast.get("7") is None
    answers.answer_with(200, {"instances": None})
    assert vast.get("7") is None
    with pytest.raises(ProviderError):
        rest.get("a")
    answers.answer_with(200, {})
    with pytest.raises(ProviderError):
        vast.get("7")
    answers.answer_with(200, {"errors": [{"message": "Pod not found"}]})
    assert sdk.get("a") is None
    answers.answer_with(200, {"errors": [{"message": "Something went wrong"}]})
    with pytest.raises(ProviderError):
        sdk.get("a")


def test_a_404_of_another_server_proves_nothing_about_an_allocation(rest: Provider, vast: Provider, answers: OneAnswer) -> None:
    """A wrong address, or a proxy in between, would otherwise prove that everything is gone."""
    answers.answer_with(404, b"404 page not found")
    for provider in (rest, vast):
        with pytest.raises(ProviderError):
            provider.get("7")
        with pytest.raises(TerminateError):
            provider.terminate("7")


def test_another_allocation_than_was_asked_for_is_an_error(rest: Provider, vast: Provider, answers: OneAnswer) -> None:
    answers.answer_with(200, {"id": "other", "instances": {"id": 8}})
    for provider in (rest, vast):
        with pytest.raises(ProviderError, match="another allocation"):
            provider.get("7")


@pytest.mark.parametrize(("status", "value"), [(200, {"success": False}), (200, b""), (409, {}), (500, {}), (403, {}), (200, {})])
def test_vast_has_ended_only_the_instance_its_answer_names(vast: Provider, answers: OneAnswer, status: int, value: Any) -> None:
    answers.answer_with(status, value)
    with pytest.raises(TerminateError):
        vast.terminate("7")


def test_a_redirect_is_not_followed_with_the_key(rest: Provider, vast: Provider, answers: OneAnswer) -> None:
    answers.answer_with(302, b"", Location="https://elsewhere.example/")
    for provider in (rest, vast):
        with pytest.raises(ProviderError, match="302"):
            provider.list()


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("\xb2", None),
        ("-5", None),
        ("1.5", None),
        ("7, 7", None),
        ("0x10", None),
        ("1_0", None),
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        ("007", 7.0),
        ("999999999", 60.0),
        ("9" * 5000, 60.0),
    ],
)
def test_how_long_to_wait_is_an_ascii_number_and_no_longer_than_a_minute(
    rest: Provider, vast: Provider, sdk: Provider, answers: OneAnswer, header: str, waits: float | None
) -> None:
    """A provider that answers a billion seconds would keep an allocation running: nothing is ended while it is waited for."""
    answers.answer_with(429, {}, Retry_After=header)
    for provider in (rest, vast, sdk):
        with pytest.raises(RateLimitedError) as caught:
            provider.list()
        assert caught.value.retry_after_s == waits


@pytest.mark.parametrize(
    "header", ["", "x" * 60_000, "Fri, 99 Nov 20\xb26 00:00:00 GMT", "0", "Mon, 01 Jan 0001 00:00:00 -9999", ",,,"]
)
def test_an_unreadable_server_time_is_none(rest: Provider, answers: OneAnswer, header: str) -> None:
    answers.answer_with(200, {"pods": []}, Date=header)
    assert rest.account().server_time_s is None


def test_an_address_that_changes_in_use_is_noticed(sdk: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK reads it at every call; a simulated provider must not become the real one halfway."""
    monkeypatch.delenv("RUNPOD_API_BASE_URL")
    with pytest.raises(ConfigurationError, match="changed while"):
        sdk.list()


def test_an_id_with_quotes_is_not_sent(sdk: Provider) -> None:
    with pytest.raises(ProviderError, match="not the id of a pod"):
        sdk.get('a"}) { id } #')


def test_no_answer_is_shown_with_the_key_in_it(rest: Provider, vast: Provider, answers: OneAnswer) -> None:
    """A provider may repeat the key in its error."""
    answers.answer_with(403, {"detail": "key key-of-the-test has no rights", "msg": "key key-of-the-test has no rights"})
    for provider in (rest, vast):
        with pytest.raises(GlasshouseError) as caught:
            provider.list()
        assert "key-of-the-test" not in str(caught.value)
        assert "has no rights" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        {"message": "no longer any instances available"},
        {"message": "access denied: field machine"},
        {"message": "no", "extensions": {"code": "FORBIDDEN"}},
        {"message": "Too many requests"},
    ],
)
def test_an_error_beside_a_created_pod_does_not_mean_that_it_is_gone(
    sdk: Provider, answers: OneAnswer, error: dict[str, Any]
) -> None:
    """GraphQL may answer both. Read as a refusal it would mean that nothing exists, and the pod would bill on."""
    both = {"errors": [error], "data": {"podFindAndDeployOnDemand": {"id": "pod1"}}}
    answers.script = [{"data": {"gpuTypes": [{"id": "x"}]}}, both]
    with pytest.raises(AmbiguousCreateError) as caught:
        create(sdk)()
    assert caught.value.instance_id == "pod1"


def test_graphql_distinguishes_an_unauthorized_pool_from_a_bad_key(sdk: Provider, answers: OneAnswer) -> None:
    answers.script = [{"data": {"gpuTypes": [{"id": "x"}]}}, {"errors": [{"message": "not authorized for this data center"}]}]
    with pytest.raises(NoCapacityError):
        create(sdk)()


@pytest.mark.parametrize("message", ["API key not found", "User does not exist", "permission to this pod was not found"])
def test_an_unknown_key_does_not_mean_that_a_pod_is_gone(sdk: Provider, answers: OneAnswer, message: str) -> None:
    answers.answer_with(200, {"errors": [{"message": message}], "data": {"pod": None}})
    with pytest.raises((ProviderError, CredentialsError)):
        sdk.get("a")
    with pytest.raises(TerminateError):
        sdk.terminate("a")


@pytest.mark.parametrize("kind", ["rest", "sdk", "vast"])
@pytest.mark.parametrize(
    "value", [None, [], "x", 5, True, {}, {"a": {}}, [[]], {"data": None}, {"gpus": [5, None, {}]}, {"offers": [{}]}]
)
def test_a_success_of_any_shape_is_a_typed_error_or_nothing(
    request: pytest.FixtureRequest, answers: OneAnswer, kind: str, value: Any
) -> None:
    provider: Provider = request.getfixturevalue(kind)
    row = RowSpec(name="h100-60s", workload="mlp", gpu="h100", order="raw-first", target_s=60)
    answers.answer_with(200, value)
    questions: list[Callable[[], object]] = [
        provider.list, provider.account, lambda: provider.get("7"), lambda: provider.offers(row), lambda: provider.terminate("7"),
    ]  # fmt: skip
    for ask in questions:
        with contextlib.suppress(GlasshouseError):
            ask()
    with pytest.raises(AmbiguousCreateError if kind != "sdk" else GlasshouseError):
        create(provider)()


def test_a_huge_error_text_of_a_provider_is_masked_in_linear_time(rest: Provider, answers: OneAnswer) -> None:
    """Megabytes of it, in the shapes that make a pattern walk back and forth, took minutes."""
    for piece in ("a.", "ssh ", "-----BEGIN A", "bearer ", "1.1.1.", "a-"):
        answers.answer_with(400, {"detail": piece * (1_000_000 // len(piece))})
        with pytest.raises(NoCapacityError) as caught:
            create(rest)()
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("named", ["../billing", "a b", 'x"', "a\nb", "a/b", "\uff17", "a" * 65, "."])
def test_a_runpod_create_that_answers_an_invalid_id_is_ambiguous(
    rest: Provider, sdk: Provider, answers: OneAnswer, named: str
) -> None:
    """It is searched for by its name; its id is put into no URL and no ledger."""
    answers.answer_with(201, {"id": named, "status": "RUNNING"})
    with pytest.raises(AmbiguousCreateError, match="not the id of a pod") as caught:
        create(rest)()
    assert caught.value.instance_id is None
    assert str(caught.value).isprintable()
    answers.answer_with(200, {"data": {"gpuTypes": [{}], "podFindAndDeployOnDemand": {"id": named}}})
    with pytest.raises(AmbiguousCreateError, match="not the id of a pod"):
        create(sdk)()


@pytest.mark.parametrize("status", [200, 400, 404, 500])
@pytest.mark.parametrize("named", ["../7", "7/..", -7, 7.5, True, [7], {"id": 7}, "\uff17", 2**64])
def test_a_vast_create_that_answers_an_invalid_id_is_ambiguous(
    vast: Provider, answers: OneAnswer, status: int, named: Any
) -> None:
    """Also in a refusal: what it names was made."""
    answers.answer_with(status, {"success": status == 200, "error": "no_such_ask", "new_contract": named})
    with pytest.raises(AmbiguousCreateError) as caught:
        create(vast)()
    assert caught.value.instance_id is None
