"""Listings, offers and prices that no loopback server gives."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import (
    NoCapacityError,
    ProviderError,
)
from pytest_glasshouse.providers.base import Provider
from pytest_glasshouse.providers.listing import doubt_in
from pytest_glasshouse.rows import RowSpec
from tests.unit.providers.one_answer import OneAnswer


@pytest.mark.parametrize(
    "value", [{}, [], None, {"pods": None}, {"pods": [{}]}, {"pods": [None]}, {"pods": [{"id": ""}]}, b"<html>"]
)
def test_a_runpod_listing_of_another_form_is_an_error(rest: Provider, answers: OneAnswer, value: Any) -> None:
    answers.answer_with(200, value)
    with pytest.raises(ProviderError):
        rest.list()


@pytest.mark.parametrize(
    ("more", "whole"), [({"total": 0}, True), ({"next": None}, True), ({"total": 3}, False), ({"cursor": "a"}, False)]
)
def test_a_runpod_listing_with_unknown_fields_is_complete_only_if_they_cannot_announce_more(
    rest: Provider, answers: OneAnswer, more: dict[str, Any], *, whole: bool
) -> None:
    answers.answer_with(200, {"pods": [], **more})
    if whole:
        assert rest.list() == ()
    else:
        with pytest.raises(ProviderError, match="more pages"):
            rest.list()


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"instances": None, "next_token": None, "total_instances": 0},
        {"instances": []},
        {"instances": [], "total_instances": 1, "next_token": None},
        {"instances": [None], "total_instances": 1, "next_token": None},
    ],
)
def test_a_vast_listing_whose_total_does_not_match_is_an_error(vast: Provider, answers: OneAnswer, value: Any) -> None:
    answers.answer_with(200, value)
    with pytest.raises(ProviderError):
        vast.list()


@pytest.mark.parametrize("value", [{"myself": None}, {"myself": {"pods": None}}, {}, None, {"myself": {"pods": [{"id": None}]}}])
def test_a_graphql_listing_of_another_form_is_an_error(sdk: Provider, answers: OneAnswer, value: Any) -> None:
    answers.answer_with(200, {"data": value})
    with pytest.raises(ProviderError):
        sdk.list()


@pytest.mark.parametrize("price", [b"NaN", b"Infinity", b"1e999", b"1" + 400 * b"0", b"-1", b"true", b'"2.69"', b"null"])
def test_an_invalid_price_is_no_offer(rest: Provider, vast: Provider, answers: OneAnswer, price: bytes) -> None:
    """Nothing is above a budget that is compared with NaN."""
    row = RowSpec(name="h100-60s", workload="mlp", gpu="h100", order="raw-first", target_s=60)
    catalog = b'{"gpus": [{"id": "NVIDIA H100 80GB HBM3", "price": {"secure": %s}}]}'
    search = b'{"offers": [{"id": 7, "gpu_name": "H100 SXM", "num_gpus": 1, "dph_total": %s}]}'
    for provider, body in ((rest, catalog), (vast, search)):
        answers.answer_with(200, body % b"2.5")
        assert [offer.price_usd_per_hour for offer in provider.offers(row)] == [2.5]
        answers.answer_with(200, body % price)
        with pytest.raises(NoCapacityError):
            provider.offers(row)


def test_an_error_beside_a_listing_hides_none_of_its_entries(sdk: Provider, answers: OneAnswer) -> None:
    pod = {"id": "pod1", "name": "glasshouse-answers-1-1", "desiredStatus": "RUNNING"}
    answers.answer_with(200, {"errors": [{"message": "access denied: field runtime"}], "data": {"myself": {"pods": [pod]}}})
    shown = sdk.list()
    assert ([one.instance_id for one in shown], "access denied" in doubt_in(shown)) == (["pod1"], True)


@pytest.mark.parametrize("kind", ["rest", "sdk", "vast"])
def test_a_listing_without_names_is_incomplete_and_not_empty(
    rest: Provider, sdk: Provider, vast: Provider, answers: OneAnswer, kind: str
) -> None:
    answers.answer_with(200, _named_otherwise(kind))
    provider = {"rest": rest, "sdk": sdk, "vast": vast}[kind]
    assert "whose name cannot be read" in doubt_in(provider.list())


@pytest.mark.parametrize("cost", [b"NaN", b"Infinity", b"-1", b"1" + 400 * b"0", b'"2"', b"true", b"null"])
def test_a_pod_without_a_valid_cost_is_listed_without_it(rest: Provider, answers: OneAnswer, cost: bytes) -> None:
    answers.answer_with(200, b'{"pods": [{"id": "a1", "name": "glasshouse-x", "cost": %s}]}' % cost)
    assert [one.price_usd_per_hour for one in rest.list()] == [None]


@pytest.mark.parametrize("ask", [True, -1, 0, 1.5, "7/../8", "7", None, [7]])
def test_a_vast_offer_without_a_valid_id_is_left_out(vast: Provider, answers: OneAnswer, ask: Any) -> None:
    """Its number stands in the address of the create request."""
    answers.answer_with(200, {"offers": [{"id": ask, "gpu_name": "H100 SXM", "num_gpus": 1, "dph_total": 1.0}]})
    with pytest.raises(NoCapacityError):
        vast.offers(RowSpec(name="h100-60s", workload="mlp", gpu="h100", order="raw-first", target_s=60))


def _named_otherwise(kind: str) -> Any:
    row = {"id": 7 if kind == "vast" else "pod1", "title": "glasshouse-answers-1-1", "status": "RUNNING"}
    if kind == "vast":
        return {"instances": [row], "total_instances": 1}
    return {"pods": [row]} if kind == "rest" else {"data": {"myself": {"pods": [row]}}}
