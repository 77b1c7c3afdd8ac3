"""A provider's listing, read page by page, and whether it is known to be complete.

What it shows is used in any case: ended, adopted, reported. Only a complete listing proves that something does *not* exist. So no
form of paging is guessed: one that is not among those below leaves a doubt.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
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

#: Fields that name the next page, in lower case without `_`, and the parameter that it is requested with.
_CURSORS = {
    "nextcursor": "cursor", "cursor": "cursor", "endcursor": "after", "nexttoken": "nextToken", "nextpagetoken": "pageToken",
    "continuationtoken": "continuationToken", "nextmarker": "marker",
}  # fmt: skip
#: Those that the last page may have too, where only a field of `_MORE` shows that it is the last.
_POSITIONS = {"cursor", "endcursor"}
_LINKS = {"next", "nexturl", "nextlink", "nextpageurl", "odata.nextlink"}
_MORE = {"hasmore", "hasnext", "hasnextpage", "more", "truncated", "istruncated"}
_TOTALS = {"total", "totalcount", "totalitems", "totalresults", "totalinstances", "totalpods"}
_COUNTS = {"count", "returned"}
_PAGE, _PAGES = {"page", "currentpage"}, {"totalpages", "pages", "pagecount", "lastpage"}
_LIMIT = {"limit", "perpage", "pagesize"}
#: Fields that mean nothing for further pages.
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
    """The instances a provider shows. `doubt` is why there may be more; empty if complete. `cause` is the error behind it."""

    doubt: str
    cause: GlasshouseError | None

    def __new__(cls, found: Iterable[Instance] = (), *, doubt: str = "", cause: GlasshouseError | None = None) -> Self:
        made = super().__new__(cls, found)
        made.doubt, made.cause = doubt, cause
        return made

    @property
    def complete(self) -> bool:
        """Whether nothing exists that it does not show."""
        return not self.doubt


def doubt_in(shown: Sequence[Instance]) -> str:
    """Why `shown` may be incomplete; empty where it is complete, as a process table is."""
    return shown.doubt if isinstance(shown, Listing) else ""


@dataclass(frozen=True, kw_only=True)
class _PageInfo:
    """What one page shows of the others."""

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

    `ask` sends a query and raises for an answer that is no success, `read` makes an instance of an entry. `parameters` are a
    provider's own parameters for its cursors. Raises what `ask` raises for the first page, and `ProviderError` where it has no
    list of entries; any later error is a doubt.
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
        names, here, seen = parameters or {}, len(rows), len(found)
        info = _page_info(fields, reply.headers, url=url, asked=following, here=here, seen=seen, names=names)
        doubts += info.doubts
        totals |= set() if info.total is None else {info.total}
        if info.query is None:
            break
        following = {**(query or {}), **info.query}
        stop = _stop(following, asked, len(found), late=monotonic() >= until)
        if stop:
            doubts.append(stop)
            break
    doubts += _sums(totals, len(found), has_total=has_total)
    return own_listing(reply.provider, found, doubts, cause=cause)


def own_listing(
    provider: str, found: Mapping[str, Instance], doubts: Sequence[str], *, cause: GlasshouseError | None = None
) -> Listing:
    """The instances of this project among `found`. Raises `cause` or `ProviderError` for a doubt and no instance."""
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
        doubts.append("an entry that cannot be read")
        return
    # A name may be null; without the field, names are in a form that is not known.
    if not (isinstance(row, dict) and isinstance(row.get("name", row.get("label", 0)), str | None)):
        doubts.append("an entry whose name cannot be read")
    before = found.get(one.instance_id)
    if before is not None:
        doubts.append("an entry that is shown twice")
    if before is None or before.state == "ended":
        found[one.instance_id] = one


def _stop(following: dict[str, str], asked: list[dict[str, str]], seen: int, *, late: bool) -> str:
    """Why the next page is not requested; empty where it is."""
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


def _page_info(  # noqa: C901, PLR0912  (one branch for each form of paging)
    fields: Mapping[str, Json],
    headers: Mapping[str, str],
    *,
    url: str,
    asked: Mapping[str, str],
    here: int,
    seen: int,
    names: Mapping[str, str],
) -> _PageInfo:
    known: dict[str, tuple[str, Json]] = {}
    doubts = []
    for name, value in _flat(fields):
        plain = name.lower().replace("_", "").replace("-", "").lstrip("@")
        if plain in known and known[plain][1] != value:
            doubts.append(f"two fields {printable(name, limit=40)} that differ")
        if plain in _CURSORS or plain in _LINKS | _MORE | _TOTALS | _COUNTS | _PAGE | _PAGES | _LIMIT | {"offset"}:
            known[plain] = (name, value)
        elif value and plain not in _INERT:
            doubts.append(f"an unknown field ({printable(name, limit=40)})")
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
                doubts.append("a cursor that is neither text nor number")
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
        doubts.append("it shows that there is no more, and names a next page")
    if more and query is None:
        doubts.append("it shows that there is more, and names no next page")
    ends = ends or more is False or total is not None or pages is not None
    if query is None and limit is not None and here >= limit and not ends:
        doubts.append("it is as long as a page can be")
    if query is not None:
        query = {**{name: value for name, value in asked.items() if name not in {"cursor", "page", "offset"}}, **query}
    return _PageInfo(query=query, total=total, doubts=tuple(doubts))


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
            doubts.append(f"{printable(name, limit=40)} is no number, or differs from another field")
    return found


def _flag(known: Mapping[str, tuple[str, Json]], group: set[str], doubts: list[str]) -> bool | None:
    for name, value in (known[plain] for plain in sorted(group & set(known))):
        if isinstance(value, bool):
            return value
        if value is not None:
            doubts.append(f"{printable(name, limit=40)} is neither true nor false")
    return None


def _cursor(value: Json) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value)
    return text if len(text) <= _LONGEST and text.isprintable() and text.isascii() else None


def _linked(value: Json, url: str, doubts: list[str]) -> dict[str, str] | None:
    """The query of a next page that is named by its URL: the same host and path only, since the key is sent there."""
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
        doubts.append("a next page that is no URL")
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
        doubts.append("a next page at another URL")
        return None
    return query


def _linked_by_header(headers: Mapping[str, str], doubts: list[str]) -> Iterator[str]:
    links = headers.get("link", "")
    if len(links) > 4 * _LONGEST:
        doubts.append("a Link header that is too long")
        return
    for link in _LINK.finditer(links):
        relations = re.findall(r'rel\s*=\s*"?([^";]+)"?', link[2], re.IGNORECASE)
        if any("next" in each.lower().split() for each in relations):
            yield link[1]
