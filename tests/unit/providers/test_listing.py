"""Listings in pages: each form is followed to its end, each lie leaves a doubt, and what was seen counts whatever else there is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pytest_glasshouse.errors import ProviderError, RateLimitedError
from pytest_glasshouse.providers.base import Instance, Provider
from pytest_glasshouse.providers.credentials import vast_key
from pytest_glasshouse.providers.http_api import ApiReply
from pytest_glasshouse.providers.listing import MOST_PAGES, MOST_S, Listing, doubt_in, read_pages
from pytest_glasshouse.providers.registry import open_provider
from pytest_glasshouse.providers.vastai import VastProvider
from tests.loopback.cloud import Order
from tests.loopback.faults import Fault
from tests.loopback.http import LoopbackServer
from tests.loopback.paging import FORMS, LIES, Paging
from tests.loopback.providers import runpod, vastai

URL = "https://api.example/v2/pods"


@pytest.fixture(params=["runpod", "vastai"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    make, url, key = {
        "runpod": (runpod, "RUNPOD_API_BASE_URL", "RUNPOD_API_KEY"),
        "vastai": (vastai, "VAST_URL", "VAST_API_KEY"),
    }[request.param]
    with make(pods="none") as made:
        monkeypatch.setenv(url, made.url)
        monkeypatch.setenv(key, made.cloud.account_key)
        monkeypatch.delenv("GLASSHOUSE_RUNPOD_API", raising=False)
        made.name = request.param
        yield made
        for one in made.cloud.billing():
            made.cloud.vanish(one.instance_id)


@pytest.fixture
def provider(server: LoopbackServer) -> Provider:
    for number in range(5):
        gpu = "NVIDIA RTX A4000"
        order = Order(name=f"glasshouse-run-{number}-1900000000", image="x", gpu=gpu, command=(), env={}, ports=(), disk_gb=10)
        server.cloud.create(order, None)
    if server.name == "vastai":  # without its pause between two pages
        return VastProvider(key=vast_key(os.environ), base_url=server.url, environ=os.environ, poll_s=0.0)
    return open_provider(server.name, allow_simulated=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 2, 4, 5, 100])
def test_every_form_of_paging_is_followed_to_its_end(server: LoopbackServer, provider: Provider, form: Any, size: int) -> None:
    server.cloud.paging = Paging(form=form, size=size)
    shown = provider.list()
    assert {one.instance_id for one in shown} == set(server.cloud.rented)
    # Vast.ai's listing has a total; where it has none the listing may be incomplete.
    assert doubt_in(shown) == ("" if server.name == "runpod" or form == "offset" else "it has no total")


@pytest.mark.parametrize("lie", LIES)
def test_false_paging_makes_a_listing_incomplete_and_hides_no_entry(server: LoopbackServer, provider: Provider, lie: Any) -> None:
    forms: dict[str, Any] = {"elsewhere": "url", "number": "offset", "deep": "offset"}
    server.cloud.paging = Paging(form=forms.get(lie, "cursor"), lie=lie, size=4)
    shown = provider.list()
    assert len(shown) >= (1 if lie == "endless" else 4)
    # An unreadable number or nesting makes that one field unknown, and nothing else.
    assert (doubt_in(shown) == "") == (lie in {"number", "deep"})
    if lie in {"repeats", "contradicts", "twice", "number", "deep", "unreadable", "short"}:
        assert {one.instance_id for one in shown} == set(server.cloud.rented)
    assert server.cloud.asked.count("list") <= MOST_PAGES


def test_a_next_page_elsewhere_is_never_asked_for_with_the_key(server: LoopbackServer, provider: Provider) -> None:
    with (runpod if server.name == "runpod" else vastai)(pods="none") as other:
        for target in (
            f"{other.url}/v2/pods?cursor=1",
            "//127.0.0.1:9/v2/pods?a=1",
            "http://user@127.0.0.1:9/?a=1",
            "/v1/else?a=1",
        ):
            found = _read([{"rows": [{"id": "a", "name": "glasshouse-a"}], "next_url": target}])
            assert "a next page at another URL" in found.doubt
        server.cloud.paging = Paging(form="url", lie="elsewhere", size=2)
        assert "a next page at another URL" in doubt_in(provider.list())
        assert other.requests == []


@pytest.mark.parametrize(
    "page",
    [
        {"next": "https://api.example/v2/pods?x=1"},
        {"next": "/v2/pods?x=1"},
        {"next": "?x=1"},
        {"nextLink": "https://api.example/v2/pods/?x=1"},
        {"@odata.nextLink": "https://api.example/v2/pods?x=1"},
        {"links": {"next": {"href": "?x=1"}}},
        {"_links": {"next": "?x=1", "prev": None}},
    ],
)
def test_a_next_page_given_as_a_url_of_the_same_api_is_read(page: dict[str, Any]) -> None:
    asked: list[dict[str, str]] = []
    shown = _read([{"rows": [_row("a")], **page}, {"rows": [_row("b")], "next": None}], asked=asked)
    assert ([one.instance_id for one in shown], shown.doubt, asked) == (["a", "b"], "", [{}, {"x": "1"}])


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"total": 1},
        {"pagination": {"nextCursor": None, "hasMore": False, "total": 1}},
        {"pagination": None},
        {"pagination": {}},
        {"cursor": "a", "hasMore": False},
        {"pageInfo": {"endCursor": "a", "hasNextPage": False, "hasPreviousPage": True, "startCursor": "z"}},
        {"page": 1, "totalPages": 1, "limit": 1},
        {"meta": {"page": 1, "totalPages": 1, "perPage": 1, "totalCount": 1}},
        {"limit": 2},
        {"limit": 1, "hasMore": False},
        {"limit": 1, "nextCursor": None},
        {"count": 1, "requestId": "abc", "success": True},
        {"object": "list", "pagination": {"limit": 50, "offset": 0, "order": "asc"}},
    ],
)
def test_a_listing_that_states_its_end_is_complete(page: dict[str, Any]) -> None:
    shown = _read([{"rows": [_row("a")], **page}])
    assert (len(shown), shown.doubt, shown.complete) == (1, "", True)


@pytest.mark.parametrize(
    "page",
    [
        {"total": 2},
        {"total": 0},
        {"total": "1"},
        {"total": True},
        {"total": [1]},
        {"total": 1, "totalCount": 2},
        {"count": 5},
        {"hasMore": True},
        {"hasMore": "false"},
        {"pagination": {"hasMore": True, "nextCursor": None}},
        {"pagination": {"hasMore": True, "nextCursor": ""}},
        {"pagination": [{"nextCursor": "a"}]},
        {"pagination": "more"},
        {"nextCursor": {"a": 1}},
        {"nextCursor": "\n"},
        {"nextCursor": "x" * 5000},
        {"limit": 1},
        {"resume": "abc"},
        {"scroll_id": "abc"},
        {"pagination": {"bookmark": "abc"}},
        {"meta": {"resume": "abc"}},
        {"next": "abc"},
        {"next": 2},
        {"next": [1]},
        {"truncated": True},
        {"totalPages": 2, "hasMore": False},
    ],
)
def test_a_listing_that_does_not_state_its_end_may_be_incomplete(page: dict[str, Any]) -> None:
    shown = _read([{"rows": [_row("a")], **page}, {"rows": []}])
    assert (len(shown), shown.complete) == (1, False)


def test_a_total_that_changes_between_pages_makes_a_listing_incomplete() -> None:
    """What was ended on the first page moves the second up by one: an entry between them is shown on neither."""
    pages = [
        {"rows": [_row("a"), _row("b")], "offset": 0, "limit": 2, "total": 4},
        {"rows": [_row("d")], "offset": 2, "total": 3},
    ]
    assert "total changed" in _read(pages).doubt


def test_pages_and_time_are_limited() -> None:
    endless = _read(lambda number: {"rows": [_row(str(number))], "nextCursor": f"c{number}"})
    assert (len(endless), f"more than {MOST_PAGES} pages" in endless.doubt) == (MOST_PAGES, True)
    ticks = iter(range(0, 10_000, 50))
    slow = _read(lambda number: {"rows": [_row(str(number))], "nextCursor": f"c{number}"}, monotonic=lambda: float(next(ticks)))
    assert (len(slow) <= 4, f"longer than {MOST_S:g} s" in slow.doubt) == (True, True)


def test_a_later_page_that_fails_makes_a_listing_incomplete_with_its_retry_time() -> None:
    def fails(number: int) -> dict[str, Any]:
        if number:
            raise RateLimitedError("slowly", retry_after_s=9.0)
        return {"rows": [_row("a")], "nextCursor": "b"}

    shown = _read(fails)
    assert isinstance(shown.cause, RateLimitedError)
    assert (len(shown), shown.doubt) == (1, "page 2 failed: slowly")


def test_an_empty_incomplete_listing_is_a_failed_listing() -> None:
    with pytest.raises(ProviderError, match="may have more pages"):
        _read([{"rows": [], "cursor": "a"}, {"rows": [], "cursor": "a"}])


def test_entries_under_another_name_make_a_listing_incomplete() -> None:
    for page in ({"items": [_row("a")]}, {"data": [_row("a")]}, [_row("a")]):
        shown = _read([page])
        assert (len(shown), "not in the form" in shown.doubt) == (1, True)


@pytest.mark.parametrize("server", ["runpod"], indirect=True)
def test_a_graphql_listing_beside_an_error_keeps_its_entries(
    server: LoopbackServer, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLASSHOUSE_RUNPOD_API", "sdk")
    sdk = open_provider("runpod", allow_simulated=True)
    server.cloud.faults.add(Fault(kind="half", on="list"))
    shown = sdk.list()
    assert (len(shown), "a pod could not be shown" in doubt_in(shown)) == (4, True)
    assert (len(sdk.list()), doubt_in(sdk.list())) == (5, "")


def _row(instance_id: str) -> dict[str, Any]:
    return {"id": instance_id, "name": f"glasshouse-{instance_id}"}


def _read(pages: Any, *, asked: list[dict[str, str]] | None = None, **options: Any) -> Listing:
    """What is read of pages that are answered one after the other."""
    queries: list[dict[str, str]] = [] if asked is None else asked

    def ask(query: Mapping[str, str]) -> ApiReply:
        page = pages(len(queries)) if callable(pages) else pages[len(queries)]
        queries.append(dict(query))
        return ApiReply(provider="unit", status=200, headers={}, body=json.dumps(page).encode())

    def read(row: Any) -> Instance:
        return Instance(instance_id=row["id"], name=row["name"], state="running")

    return read_pages(ask, read, entries="rows", url=URL, **options)
