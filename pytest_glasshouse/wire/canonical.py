"""One byte form for every message: RFC 8785 on the way out, a strict parser on the way in.

Knows JSON and digests. Refuses to know what any message means, and refuses whatever two parsers could read
differently: duplicate keys, NaN, floats, integers beyond 2^53, lone surrogates, bytes after the end.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import Any, NoReturn, TypeAlias, cast

import rfc8785

from pytest_glasshouse.errors import IntegrityError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

#: The largest message this project reads by default, in bytes.
MESSAGE_LIMIT = 65_536
#: Deeper nesting than this has no use here and costs a parser its stack.
DEPTH_LIMIT = 32
#: Integers beyond this lose digits in parsers that read numbers as doubles.
INTEGER_LIMIT = 2**53 - 1
_INTEGER_CHARACTERS = len(str(-INTEGER_LIMIT))
#: The most values one text may hold. Spelled in three bytes, a value still costs a parser up to two hundred.
VALUE_LIMIT = 1_500_000
#: A JSON string, or what begins like one and does not end. Possessive, so that no text takes time by its square.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
#: A string, to its end or that of the text, or a bracket.
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CONSTANTS = {None: "null", True: "true", False: "false"}
#: Numbers below 1e-6 have an exponent in ECMAScript; those up to here have one in Python too.
_LAST_EXPONENT = -7


class _UncertainError(Exception):
    """A value that the writer below does not know, or knows not to write as RFC 8785 says."""


def canonical(value: object) -> bytes:
    """The RFC 8785 bytes of `value`. It takes any object, because dict and list are invariant; what is not JSON is refused."""
    with contextlib.suppress(_UncertainError, UnicodeError, RecursionError):
        return _written(value).encode("utf-8")
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise IntegrityError("malformed", f"no canonical form: {type(error).__name__}") from None


def _written(value: Any) -> str:
    """`value` in the form of RFC 8785, in a fifth of the time that `rfc8785` takes.

    The standard library's strings are the same (section 3.2.2.2), and so are ASCII keys in order (3.2.3). Raises
    `_UncertainError`.
    """
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        if not _ascii_names(value):
            raise _UncertainError
        members = [
            f"{encode_basestring(key)}:{encode_basestring(each) if type(each) is str else _written(each)}"
            for key, each in sorted(value.items())
        ]
        return f"{{{','.join(members)}}}"
    if kind is list or kind is tuple:
        return f"[{','.join([encode_basestring(each) if type(each) is str else _written(each) for each in value])}]"
    if value is None or kind is bool:
        return _CONSTANTS[value]
    return _number(value)


def _ascii_names(value: dict[Any, Any]) -> bool:
    try:
        return "".join(value).isascii()
    except TypeError:
        return False  # a key that is no string


def _number(value: Any) -> str:
    """A number as ECMAScript writes it (section 3.2.2.3): the shortest decimals, as in Python, with exponents below 1e-6."""
    kind = type(value)
    if kind is int or (kind is float and value.is_integer()):
        if -INTEGER_LIMIT <= value <= INTEGER_LIMIT:
            return repr(int(value))
        raise _UncertainError
    if kind is not float or not math.isfinite(value):
        raise _UncertainError
    text = repr(value)
    digits, found, exponent = text.partition("e")
    if not found:
        return text
    if int(exponent) > _LAST_EXPONENT:
        raise _UncertainError
    return f"{digits}e{int(exponent)}"


def parse_strict(data: bytes | str, *, limit: int = MESSAGE_LIMIT, floats: bool = False) -> Json:
    """The one value `data` can mean, or `IntegrityError` with reason `malformed` or `too-large`."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > limit:
        raise IntegrityError("too-large", f"{len(raw)} bytes, at most {limit}")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise IntegrityError("malformed", "it begins with a byte order mark")
    if values_in(raw) > VALUE_LIMIT:
        raise IntegrityError("too-large", f"more than {VALUE_LIMIT} values")
    try:
        text = raw.decode("utf-8")
        value: Json = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite if floats else _no_float,
            parse_int=_integer,
        )
    except IntegrityError:
        raise
    except RecursionError:
        raise IntegrityError("malformed", f"nested deeper than {DEPTH_LIMIT}") from None
    except ValueError as error:
        raise IntegrityError("malformed", f"not JSON: {type(error).__name__}") from None
    _refuse_surrogates(text)
    _refuse_depth(value)
    return value


class Unreadable:
    """What stands in a value from `parse_tolerant` where nothing could be read. No check of a type takes it for anything."""

    def __repr__(self) -> str:
        return "<unreadable>"


UNREADABLE = cast("Json", Unreadable())


def parse_tolerant(data: bytes, *, limit: int) -> Json:
    """Untrusted JSON, where one unreadable part must not hide the others.

    `UNREADABLE` stands for each object with a key twice, each number that no double or 53 bits can hold, and whatever is
    nested deeper than `DEPTH_LIMIT`; letters that are no UTF-8 become U+FFFD. Raises `IntegrityError` for what is no JSON
    besides, or too large.
    """
    if len(data) > limit:
        raise IntegrityError("too-large", f"{len(data)} bytes, at most {limit}")
    if values_in(data) > VALUE_LIMIT:
        raise IntegrityError("too-large", f"more than {VALUE_LIMIT} values")
    try:
        value: Json = json.loads(
            _shallow(data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")),
            object_pairs_hook=lambda pairs: found if len(found := dict(pairs)) == len(pairs) else UNREADABLE,
            parse_constant=lambda _text: UNREADABLE,
            parse_float=lambda text: value if math.isfinite(value := float(text)) else UNREADABLE,
            parse_int=_integer_or_unreadable,
        )
    except (ValueError, RecursionError) as error:
        raise IntegrityError("malformed", f"not JSON: {type(error).__name__}") from None
    return value


def _integer_or_unreadable(text: str) -> Json:
    short = len(text) <= _INTEGER_CHARACTERS
    return int(text) if short and abs(int(text)) <= INTEGER_LIMIT else UNREADABLE


def _shallow(text: str) -> str:
    """`text` with NaN, which is no JSON, in place of what is nested too deep, and no string that cannot be encoded."""
    kept, done, depth = [], 0, 0
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark in "[{":
            depth += 1
            if depth == DEPTH_LIMIT:
                kept.append(text[done : found.start()])
        elif mark in "]}":
            if depth == DEPTH_LIMIT:
                kept.append("NaN")
                done = found.end()
            depth -= 1
        elif depth < DEPTH_LIMIT and _SURROGATE.search(mark):
            kept += [text[done : found.start()], _encoded(mark)]
            done = found.end()
    # What is still too deep at the end was never closed: no JSON either way.
    return "".join([*kept, text[done:]]) if depth < DEPTH_LIMIT else ""


def _encoded(literal: str) -> str:
    """A string without half surrogate pairs. Raises `ValueError` for one that no JSON has."""
    return json.dumps(json.loads(literal).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def parse_object(data: bytes | str, *, limit: int = MESSAGE_LIMIT) -> dict[str, Json]:
    """`parse_strict` for a message that must be a JSON object."""
    value = parse_strict(data, limit=limit)
    if not isinstance(value, dict):
        raise IntegrityError("malformed", "not a JSON object")
    return value


def values_in(raw: bytes) -> int:
    """About how many values there are in a JSON text: what separates or opens them, outside its strings."""
    marks = (b",", b"[", b"{")
    most = sum(raw.count(mark) for mark in marks)
    if most <= VALUE_LIMIT:
        return most
    count = end = 0
    for text in _TEXT.finditer(raw):
        count += sum(raw.count(mark, end, text.start()) for mark in marks)
        end = text.end()
        if count > VALUE_LIMIT:
            return count
    return count + sum(raw.count(mark, end) for mark in marks)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise IntegrityError("malformed", "a key appears twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise IntegrityError("malformed", f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise IntegrityError("malformed", "a number beyond what a double holds")
    return value


def _integer(text: str) -> int:
    if len(text) > _INTEGER_CHARACTERS or abs(int(text)) > INTEGER_LIMIT:
        raise IntegrityError("malformed", "an integer beyond 2^53")
    return int(text)


def _no_float(_text: str) -> NoReturn:
    raise IntegrityError("malformed", "a float where only integers are")


def _refuse_depth(value: Json) -> None:
    """Refuse what is nested deeper than the limit. Iterative, so it has no depth itself."""
    level = _filled([value])
    for _ in range(DEPTH_LIMIT - 1):
        if not level:
            return
        level = [each for one in level for each in _filled(one.values() if isinstance(one, dict) else one)]
    if level:
        raise IntegrityError("malformed", f"nested deeper than {DEPTH_LIMIT}")


def _filled(values: Iterable[Json]) -> list[dict[str, Json] | list[Json]]:
    return [each for each in values if isinstance(each, dict | list) and each]


def _refuse_surrogates(text: str) -> None:
    """Refuse half a surrogate pair, which only an escape can spell: no other reader need make the same text of it."""
    if _SURROGATE.search(text) is None:
        return
    for found in _MARK.finditer(text):
        if len(found[0]) > 1 and _SURROGATE.search(found[0]):
            try:
                json.loads(found[0]).encode("utf-8")
            except UnicodeEncodeError:
                raise IntegrityError("malformed", "a lone surrogate") from None


def sha256_hex(data: bytes | memoryview) -> str:
    """SHA-256 as bare lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def tagged(domain: str, data: bytes) -> str:
    """SHA-256 over `domain`, a newline and `data`: a digest made for one purpose never serves another."""
    return hashlib.sha256(domain.encode("ascii") + b"\n" + data).hexdigest()


def is_sha256(value: object) -> bool:
    """Whether `value` is spelled as this project spells a SHA-256: 64 lower-case hex digits."""
    return isinstance(value, str) and len(value) == 64 and all(digit in "0123456789abcdef" for digit in value)  # noqa: PLR2004


def b64u(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64u(text: str) -> bytes:
    """The bytes `text` spells. Padding, another alphabet and a tail with stray bits are `malformed`: one spelling per value."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise IntegrityError("malformed", "not base64url") from None
    if b64u(data) != text:
        raise IntegrityError("malformed", "base64url in another spelling")
    return data
