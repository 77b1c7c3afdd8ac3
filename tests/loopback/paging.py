"""A listing in pages, in each of the forms known from real APIs, and the false statements such a listing can make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from tests.loopback.http import Answer, Request, as_json

#: How the next page is announced.
Form = Literal[
    "cursor",  # {"pagination": {"nextCursor": ..., "hasMore": ...}}, asked for with ?cursor=
    "snake",  # next_cursor and has_more beside the entries
    "position",  # every page has a cursor; only hasMore marks the last
    "relay",  # pageInfo: endCursor and hasNextPage, asked for with ?after=
    "token",  # nextToken
    "page-token",  # next_page_token, asked for with ?pageToken=
    "link",  # a Link header with rel="next"
    "url",  # next_url, whole
    "path",  # links: {next: {href: /path?...}}
    "offset",  # offset, limit and total
    "page",  # page and totalPages
]
#: What is wrong with it. Nothing, or:
Lie = Literal[
    "",
    "repeats",  # the next page is the one that was asked for
    "endless",  # there is always one more, with nothing new on it
    "elsewhere",  # the next page is on another machine
    "fails",  # the second page is an error
    "html",  # the second page is a proxy's
    "limited",  # the second page comes with 429
    "short",  # its total counts one more than it shows
    "not-where",  # there is more, and nothing says where
    "contradicts",  # there is no more, and a next page
    "unknown",  # the next page is announced in an unknown field
    "unreadable",  # one entry is no entry
    "number",  # one entry has a number that no double holds
    "twice",  # one entry is shown on both pages
    "cut",  # the first page is as long as its limit, and has no other sign of more
    "deep",  # one entry is nested deeper than a parser's stack
]
FORMS: tuple[str, ...] = get_args(Form)
LIES: tuple[str, ...] = tuple(lie for lie in get_args(Lie) if lie)


@dataclass(kw_only=True)
class Paging:
    """`size` entries a page."""

    form: Form = "cursor"
    lie: Lie = ""
    size: int = 1


def page_of(paging: Paging, rows: list[dict[str, Any]], request: Request, *, entries: str) -> Answer:  # noqa: C901
    """One page of `rows`, as the request asks for it."""
    asked = {name: values[0] for name, values in request.query.items()}
    place = _place(paging, asked)
    lie = paging.lie
    if place and lie in {"fails", "limited"}:
        return as_json(500 if lie == "fails" else 429, {"title": "x", "status": 500, "detail": "upstream"})
    if place and lie == "html":
        return Answer(status=200, body=b"<html>", content_type="text/html")
    shown: list[Any] = rows[place : place + paging.size]
    following = place + paging.size if place + paging.size < len(rows) else None
    if lie == "endless":
        shown, following = rows[:1], place + 1
    if lie == "repeats":
        following = place or paging.size
    if lie == "twice" and place:
        shown = [*rows[:1], *shown]
    if lie == "unreadable":
        shown = [{"id": None}, *shown]
    page: dict[str, Any] = {entries: shown}
    if lie == "unknown":
        return as_json(200, {**page, "resume": "abc"})
    if lie == "cut":
        return as_json(200, {**page, "limit": paging.size})
    headers = _add_links(page, paging, place, following, len(rows) + (lie == "short"), request)
    body = json.dumps(page).encode()
    if lie == "number":
        body = body.replace(b'"cost": 0.25', b'"cost": 1e999', 1).replace(b'"num_gpus": 1', b'"num_gpus": 1e999', 1)
    if lie == "deep":
        body = body.replace(b'"image', b'"deep": ' + b"[" * 50_000 + b"]" * 50_000 + b', "image', 1)
    return Answer(status=200, body=body, headers=headers)


def _place(paging: Paging, asked: dict[str, str]) -> int:
    if paging.form == "page":
        return (int(asked.get("page", "1")) - 1) * paging.size
    names = ("cursor", "after", "after_token", "nextToken", "pageToken", "offset", "at")
    cursor = next((asked[name] for name in names if name in asked), "0")
    return int(cursor.removeprefix("at-"))


def _add_links(  # noqa: C901, PLR0912  (one branch a form)
    page: dict[str, Any], paging: Paging, place: int, following: int | None, total: int, request: Request
) -> dict[str, str]:
    more, cursor = following is not None, None if following is None else f"at-{following}"
    if paging.lie == "not-where":
        more, cursor = True, None
    if paging.lie == "contradicts":
        more = False
    where = "" if cursor is None else f"{request.path}?{urlencode({'at': cursor})}"
    if paging.lie == "elsewhere" and where:
        where = f"http://127.0.0.2:9{where}"
    counted = {"total": total} if paging.lie == "short" else {}
    match paging.form:
        case "cursor":
            page["pagination"] = {"nextCursor": cursor, "hasMore": more, **counted}
        case "snake":
            page |= {"next_cursor": cursor, "has_more": more, **counted}
        case "position":
            page["pagination"] = {"cursor": cursor or "at-the-end", "hasMore": more, **counted}
        case "relay":
            page["pageInfo"] = {"endCursor": cursor or "at-the-end", "hasNextPage": more, **counted}
        case "token":
            page |= {"nextToken": cursor, **counted}
        case "page-token":
            page |= {"next_page_token": cursor, **counted}
        case "link":
            return {"Link": f'<{where}>; rel="next", </first>; rel="first"'} if where else {}
        case "url":
            page |= {"next_url": where or None, **counted}
        case "path":
            page["_links"] = {"self": {"href": request.path}, **({"next": {"href": where}} if where else {})}
        case "offset":
            page["pagination"] = {"offset": place, "limit": paging.size, "total": total}
        case "page":
            page["meta"] = {"page": place // paging.size + 1, "totalPages": -(-total // paging.size), "pageSize": paging.size}
    return {}
