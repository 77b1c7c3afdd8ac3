"""A provider's listing, read page by page, and whether it may be taken for the whole.

What was seen counts, whatever else there may be: it is ended, adopted, shown. Only a listing of which nothing can be missing
shows that something does *not* exist. So no form of paging is ever guessed: one that is not among these leaves a doubt.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast
from urllib.parse import parse_qsl, urljoin, urlsplit

from pytest_glasshouse.errors import GlasshouseError, IntegrityError, ProviderError
from pytest_glasshouse.providers.http_api import ApiReply, UnusableError
from pytest_glasshouse.providers.lease import NAME_PREFIX
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.providers.base import Instance
    from pytest_glasshouse.wire.canonical import Json

#: Limits of one listing: pages, entries, and seconds after which no further page is asked for.
MOST_PAGES = 50
MOST_ENTRIES = 10_000
MOST_S = 120.0

#: How an answer names the next page, in small letters without `_`, and by which parameter that page is asked for.
_CURSORS = {
    "nextcursor": "cursor", "cursor": "cursor", "endcursor": "after", "nexttoken": "nextToken", "nextpagetoken": "pageToken",
    "continuationtoken": "continuationToken", "nextmarker": "marker",
}  # fmt: skip
#: Those that may be told on the last page too, where only `_MORE` says that it is the last.
_POSITIONS = {"cursor", "endcursor"}
_LINKS = {"next", "nexturl", "nextlink", "nextpageurl", "odata.nextlink"}
_MORE = {"hasmore", "hasnext", "hasnextpage", "more", "truncated", "istruncated"}
_TOTALS = {"total", "totalcount", "totalitems", "totalresults", "totalinstances", "totalpods"}
_COUNTS = {"count", "returned"}
_PAGE, _PAGES = {"page", "currentpage"}, {"totalpages", "pages", "pagecount", "lastpage"}
_LIMIT = {"limit", "perpage", "pagesize"}
#: What says nothing about further pages.
_INERT = {
    "previous", "prev", "prevcursor", "previouscursor", "prevurl", "previousurl", "startcursor", "haspreviouspage", "hasprevious",
    "hasprev", "first", "last", "self", "requestid", "traceid", "success",
    "order", "orderby", "sort", "sortby", "direction", "object", "kind", "timestamp", "version", "apiversion",
}  # fmt: skip
_HOLDERS = {"pagination", "paging", "pageinfo", "page", "meta", "metadata", "links", "cursors"}
_ELSEWHERE = ("items", "data", "results")
_LINK = re.compile(r"<([^<>]{1,2048})>([^,<]{0,256})")
_LONGEST = 2048


class Listing(tuple["Instance", ...]):  # noqa: SLOT001  (a tuple's subclass has none that hold anything)
    """Instances that a provider shows. `doubt` says why there may be more; empty where there cannot. `cause` is what failed."""

    doubt: str
    cause: GlasshouseError | None

    def __new__(cls, found: Iterable[Instance] = (), *, doubt: str = "", cause: GlasshouseError | None = None) -> Self:
        made = super().__new__(cls, found)
        made.doubt, made.cause = doubt, cause
        return made

    @property
    def complete(self) -> bool:
        """Whether what it does not show does not exist."""
        return not self.doubt


def doubt_in(shown: Sequence[Instance]) -> str:
    """Why `shown` may be a part of the whole; empty where it is the whole, as a process table is."""
    return shown.doubt if isinstance(shown, Listing) else ""


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What one page says of the others."""

    query: dict[str, str] | None
    total: int | None
    doubts: tuple[str, ...]


def read_pages(
    ask: Callable[[Mapping[str, str]], ApiReply],
    read: Callable[[Json], Instance],
    *,
    entries: str,
    url: str,
    query: Mapping[str, str] | None = None,
    parameters: Mapping[str, str] | None = None,
    has_total: bool = False,
    monotonic: Callable[[], float] = time.monotonic,
) -> Listing:
    """The instances of this project in all pages below `url`. `entries` is the field that holds them.

    `ask` sends a query and refuses what is no success, `read` makes an instance of an entry. `parameters` are a provider's own
    names for what a cursor is sent as. Raises what `ask` raises for the first page, and `ProviderError` where it has no
    entries; whatever happens after that is a doubt.
    """
    found: dict[str, Instance] = {}
    doubts: list[str] = []
    cause: GlasshouseError | None = None
    asked: list[dict[str, str]] = []
    totals: set[int] = set()
    until, following = monotonic() + MOST_S, dict(query or {})
    while True:
        asked.append(following)
        try:
            reply = ask(following)
            rows, fields = _entries(reply, entries, doubts)
        except GlasshouseError as error:
            if len(asked) == 1:
                raise
            doubts.append(f"page {len(asked)} failed: {error}")
            cause = error
            break
        for row in rows:
            _take(row, read, found, doubts)
        told = _told(fields, reply.headers, url=url, asked=following, here=len(rows), seen=len(found), names=parameters or {})
        doubts += told.doubts
        totals |= set() if told.total is None else {told.total}
        if told.query is None:
            break
        following = {**(query or {}), **told.query}
        stop = _stop(following, asked, len(found), late=monotonic() >= until)
        if stop:
            doubts.append(stop)
            break
    doubts += _sums(totals, len(found), has_total=has_total)
    return listed(reply.provider, found, doubts, cause=cause)


def listed(
    provider: str, found: Mapping[str, Instance], doubts: Sequence[str], *, cause: GlasshouseError | None = None
) -> Listing:
    """The instances of this project among `found`. Raises `ProviderError`, or `cause`, for nothing at all and a doubt."""
    doubt = "; ".join(dict.fromkeys(doubts))
    if doubt and not found:
        raise cause or ProviderError(f"{provider}: the listing shows nothing, and may have more pages: {doubt}")
    return Listing((one for one in found.values() if one.name.startswith(NAME_PREFIX)), doubt=doubt, cause=cause)


def _entries(reply: ApiReply, name: str, doubts: list[str]) -> tuple[list[Json], dict[str, Json]]:
    value = reply.json(tolerant=True)
    fields = dict(value) if isinstance(value, dict) else {}
    rows = fields.pop(name, None)
    if isinstance(rows, list):
        return rows, fields
    others = [fields.pop(each) for each in _ELSEWHERE if isinstance(fields.get(each), list)]
    if isinstance(value, list) and value:
        others = [value]
    if len(others) == 1 and others[0] and isinstance(others[0], list):
        doubts.append(f"it is not in the form that has {name}")
        return others[0], fields
    raise ProviderError(f"{reply.provider}: the listing has no list of {name}; expected the form of its published API")


def _take(row: Json, read: Callable[[Json], Instance], found: dict[str, Instance], doubts: list[str]) -> None:
    try:
        one = read(row)
    except (UnusableError, IntegrityError):
        doubts.append("an entry that nobody can read")
        return
    # Null is the name of what nobody named; none at all is a listing whose names are told in another way.
    if not (isinstance(row, dict) and isinstance(row.get("name", row.get("label", 0)), str | None)):
        doubts.append("an entry whose name nobody can read")
    before = found.get(one.instance_id)
    if before is not None:
        doubts.append("an entry that is shown twice")
    if before is None or before.state == "ended":
        found[one.instance_id] = one


def _stop(following: dict[str, str], asked: list[dict[str, str]], seen: int, *, late: bool) -> str:
    """Why the next page is not asked for."""
    if following in asked:
        return "a page that leads to itself"
    if len(asked) >= MOST_PAGES:
        return f"more than {MOST_PAGES} pages"
    if seen >= MOST_ENTRIES:
        return f"more than {MOST_ENTRIES} entries"
    return f"its pages took longer than {MOST_S:g} s" if late else ""


def _sums(totals: set[int], seen: int, *, has_total: bool) -> Iterator[str]:
    if has_total and not totals:
        yield "it has no total"
    elif len(totals) > 1:
        yield "its total changed from page to page"
    elif totals and seen not in totals:
        yield f"it shows {seen} of {totals.pop()}"


def _told(  # noqa: C901, PLR0912  (one branch a form)
    fields: Mapping[str, Json],
    headers: Mapping[str, str],
    *,
    url: str,
    asked: Mapping[str, str],
    here: int,
    seen: int,
    names: Mapping[str, str],
) -> _Told:
    known: dict[str, tuple[str, Json]] = {}
    doubts = []
    for name, value in _flat(fields):
        plain = name.lower().replace("_", "").replace("-", "").lstrip("@")
        if plain in known and known[plain][1] != value:
            doubts.append(f"two that say {printable(name, limit=40)}")
        if plain in _CURSORS or plain in _LINKS | _MORE | _TOTALS | _COUNTS | _PAGE | _PAGES | _LIMIT | {"offset"}:
            known[plain] = (name, value)
        elif value and plain not in _INERT:
            doubts.append(f"a field nobody knows ({printable(name, limit=40)})")
    more = _flag(known, _MORE, doubts)
    total, count = _number(known, _TOTALS, doubts), _number(known, _COUNTS, doubts)
    page, pages = _number(known, _PAGE, doubts), _number(known, _PAGES, doubts)
    offset, limit = _number(known, {"offset"}, doubts), _number(known, _LIMIT, doubts)
    if count is not None and count not in {here, seen}:
        doubts.append(f"it counts {count} and shows {here}")
    query: dict[str, str] | None = None
    ends = False
    for plain, (name, value) in known.items():
        if plain in _CURSORS and value not in (None, "", False):
            if plain in _POSITIONS and more is False:
                continue
            cursor = _cursor(value)
            if cursor is None:
                doubts.append("a cursor that is none")
            else:
                query = {names.get(name, name if plain == "nexttoken" else _CURSORS[plain]): cursor}
        elif plain in _CURSORS or plain in _LINKS:
            if value not in (None, "", False):
                query = _linked(value, url, doubts) or query
            else:
                ends = True
    for target in _linked_by_header(headers, doubts):
        query = _linked(target, url, doubts) or query
    if query is None and pages is not None and (page or 1) < pages:
        query = {"page": str((page or 1) + 1)}
    elif query is None and offset is not None and total is not None and here and offset + here < total:
        query = {"offset": str(offset + here), **({} if limit is None else {"limit": str(limit)})}
    if more is False and query is not None:
        doubts.append("it says that there is no more, and names a next page")
    if more and query is None:
        doubts.append("it says that there is more, and not where")
    ends = ends or more is False or total is not None or pages is not None
    if query is None and limit is not None and here >= limit and not ends:
        doubts.append("it is as long as a page may be")
    if query is not None:
        query = {**{name: value for name, value in asked.items() if name not in {"cursor", "page", "offset"}}, **query}
    return _Told(query=query, total=total, doubts=tuple(doubts))


def _flat(fields: Mapping[str, Json], depth: int = 2) -> Iterator[tuple[str, Json]]:
    for name, value in fields.items():
        if isinstance(value, dict) and depth and name.lower().replace("_", "") in _HOLDERS:
            yield from _flat(value, depth - 1)
        elif isinstance(value, dict) and set(value) == {"href"}:
            yield name, value["href"]
        else:
            yield name, value


def _number(known: Mapping[str, tuple[str, Json]], group: set[str], doubts: list[str]) -> int | None:
    found: int | None = None
    for name, value in (known[plain] for plain in sorted(group & set(known))):
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0 and found in (None, value):
            found = value
        elif value is not None:
            doubts.append(f"{printable(name, limit=40)} is no number, or another")
    return found


def _flag(known: Mapping[str, tuple[str, Json]], group: set[str], doubts: list[str]) -> bool | None:
    for name, value in (known[plain] for plain in sorted(group & set(known))):
        if isinstance(value, bool):
            return value
        if value is not None:
            doubts.append(f"{printable(name, limit=40)} is neither yes nor no")
    return None


def _cursor(value: Json) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value)
    return text if len(text) <= _LONGEST and text.isprintable() and text.isascii() else None


def _linked(value: Json, url: str, doubts: list[str]) -> dict[str, str] | None:
    """The query of a next page that is told as an address: one at the same place only, for the key goes there."""
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
        doubts.append("a next page that is no address")
        return None
    try:
        here, there = urlsplit(url), urlsplit(urljoin(url, value))
        same = (here.scheme, here.hostname, here.port, here.path.rstrip("/")) == (
            there.scheme, there.hostname, there.port, there.path.rstrip("/"),
        )  # fmt: skip
        query = dict(parse_qsl(there.query, keep_blank_values=True, max_num_fields=50)) if same else {}
    except ValueError:
        query = {}
    if not query or not ("://" in value or value[0] in "/?"):
        doubts.append("a next page that is not at the same place")
        return None
    return query


def _linked_by_header(headers: Mapping[str, str], doubts: list[str]) -> Iterator[str]:
    told = headers.get("link", "")
    if len(told) > 4 * _LONGEST:
        doubts.append("a Link header that is too long")
        return
    for target, parameters in _LINK.findall(told):
        relations = re.findall(r'rel\s*=\s*"?([^";]+)"?', parameters, re.IGNORECASE)
        if any("next" in each.lower().split() for each in relations):
            yield cast("str", target)
