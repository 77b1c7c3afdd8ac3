"""One value has one byte form, and bytes that two parsers could read differently are refused."""

from __future__ import annotations

import re
from enum import StrEnum

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import canonical as c


def refused(data: bytes | str, **options: object) -> str:
    with pytest.raises(IntegrityError) as caught:
        c.parse_strict(data, **options)  # type: ignore[arg-type]
    return caught.value.reason


def test_canonical_form_sorts_and_does_not_space() -> None:
    assert c.canonical({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), 2**53, "\ud800", object(), {1: 2}, b"bytes"])
def test_what_has_no_canonical_form_is_malformed(value: object) -> None:
    with pytest.raises(IntegrityError) as caught:
        c.canonical(value)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}{}",
        b"{} x",
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1.5]",
        b"[1e3]",
        b"[9007199254740992]",
        b"[" + b"9" * 5000 + b"]",
        b"\xff",
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'["\\ud800"]',
        b'{"\\ud800":1}',
        b"[" * 40 + b"]" * 40,
        b"[" * 9000 + b"]" * 9000,
        "\ud800",
    ],
    ids=repr,
)
def test_ambiguous_bytes_are_malformed(data: bytes | str) -> None:
    assert refused(data) == "malformed"


def test_a_message_over_the_limit_is_not_parsed() -> None:
    assert refused(b"[" + b" " * c.MESSAGE_LIMIT + b"]") == "too-large"
    assert refused(b"[1,2]", limit=4) == "too-large"


def test_unambiguous_bytes_are_read() -> None:
    assert c.parse_strict('{"a":[1,"é",null,true,-9007199254740991]}') == {"a": [1, "é", None, True, -9007199254740991]}
    assert c.parse_strict(b"[" * 30 + b"]" * 30, limit=60) != []


def test_floats_are_read_only_where_asked_for() -> None:
    assert c.parse_strict("[1.5]", floats=True) == [1.5]
    assert refused("[NaN]", floats=True) == "malformed"


def test_parse_object_accepts_objects_only() -> None:
    assert c.parse_object(b"{}") == {}
    with pytest.raises(IntegrityError):
        c.parse_object(b"[]")


def test_a_digest_for_one_purpose_does_not_serve_another() -> None:
    assert len({c.tagged("a", b"x"), c.tagged("b", b"x"), c.sha256_hex(b"x")}) == 3
    assert c.tagged("a", b"x") == c.sha256_hex(b"a\nx")


def test_base64url_has_one_spelling() -> None:
    for data in (b"", b"a", b"ab", b"abc", bytes(range(256))):
        assert c.unb64u(c.b64u(data)) == data


@pytest.mark.parametrize("text", ["YQ==", "YR", "Y Q", "YQ\n", "a", "+/", "é"])
def test_another_spelling_of_base64url_is_malformed(text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        c.unb64u(text)
    assert caught.value.reason == "malformed"


def test_a_sha256_is_spelled_one_way() -> None:
    digest = c.sha256_hex(b"")
    assert c.is_sha256(digest)
    assert not any(c.is_sha256(other) for other in (digest.upper(), digest[:-1], digest + "0", "", None, 7))


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"[]," * c.VALUE_LIMIT + b"1]",
        b"[" + b'{"a":1},' * c.VALUE_LIMIT + b"1]",
        b"[" + b"1," * (c.VALUE_LIMIT + 1) + b"1]",
        b'{"a' + b'":1,"a' * c.VALUE_LIMIT + b'":1}',
        b"[" + b'"\\\\",' * (c.VALUE_LIMIT + 1) + b"1]",
        b"[" * (c.VALUE_LIMIT + 1),
    ],
    ids=["lists", "objects", "integers", "keys", "escaped texts", "depth"],
)
def test_too_many_values_are_refused_before_they_are_built(data: bytes) -> None:
    """Three bytes of text are a hundred of memory."""
    assert refused(data, limit=len(data)) == "too-large"


@pytest.mark.parametrize("text", [",[{" * c.VALUE_LIMIT, '\\"' * c.VALUE_LIMIT + "," * c.VALUE_LIMIT], ids=["marks", "escapes"])
def test_brackets_and_commas_inside_a_text_are_no_values(text: str) -> None:
    """A journal is a report's text, full of commas."""
    data = b'{"a":"' + text.encode() + b'"}'

    assert isinstance(c.parse_strict(data, limit=len(data)), dict)


@pytest.mark.parametrize(
    "text",
    ['"' + '\\"' * 200_000, '["' + "\\" * 300_001, '"' * 400_001, '"a' * 200_001],
    ids=["escapes", "backslashes", "quotes", "letters"],
)
def test_unterminated_texts_take_linear_time(text: str) -> None:
    data = text.encode() + b"," * (c.VALUE_LIMIT + 1)

    assert refused(data, limit=len(data)) in {"malformed", "too-large"}


def test_refusals_name_what_was_found() -> None:
    for data, message in (
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        (b"[" * 4000 + b"]" * 4000, "nested deeper than 32"),
        (b"[" + b"9" * 40 + b"]", "an integer beyond 2^53"),
    ):
        with pytest.raises(IntegrityError, match=re.escape(message)):
            c.parse_strict(data)


def test_largest_integers_are_read() -> None:
    assert c.parse_strict(b"[9007199254740991,-9007199254740991]") == [2**53 - 1, 1 - 2**53]


def test_tolerant_reading_is_bounded_and_refuses_what_is_no_json() -> None:
    """Half a surrogate pair is replaced; a text with one that no JSON has besides is refused as any other."""
    with pytest.raises(IntegrityError, match="too-large: 5 bytes, at most 4"):
        c.parse_tolerant(b"[1,2]", limit=4)
    assert c.parse_tolerant(b'["\\ud800"]', limit=100) == ["\ufffd"]
    with pytest.raises(IntegrityError, match="malformed: not JSON"):
        c.parse_tolerant(b'["\\ud800\\q"]', limit=100)


_TEXTS = st.text(st.characters(codec="utf-8")) | st.sampled_from(
    ["\u2028", "\x7f", "\x1f", '"\\/', "\ufeff", "\U0001f600", "e\u0301"]
)
_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(_TEXTS, inner), max_leaves=12
)


@settings(max_examples=50)
@given(_VALUES)
def test_canonical_form_is_that_of_the_reference_implementation(value: object) -> None:
    assert c.canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


class _Name(StrEnum):
    FIRST = "é"


@pytest.mark.parametrize(
    "value",
    [
        -0.0, 0.0, 1.0, -1.5, 1e16, 1e21, 1e-7, 1e-5, 1e300, 2.0**53, 123456789012345680.0, 5e-324, [True, 1, 1.0],
        {"\ue000": 1, "\U0001f600": 2, "a": 3}, {"b": 1, "B": 2, "": 3}, _Name.FIRST, {_Name.FIRST: [_Name.FIRST]}, (1, (2,)),
    ],
    ids=repr,
)  # fmt: skip
def test_canonical_form_of_edges_is_that_of_the_reference_implementation(value: object) -> None:
    """Numbers by the rules of ECMAScript, keys in the order of UTF-16, and what only looks like a plain value."""
    assert c.canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [[2**53], {"a": float("inf")}, ["\ud800"], {"\ud800": 1}, {"a": {1: 2}}, [b""]], ids=repr)
def test_refusal_says_what_the_reference_implementation_says(value: object) -> None:
    with pytest.raises((rfc8785.CanonicalizationError, UnicodeError)) as reference:
        rfc8785.dumps(value)  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match=type(reference.value).__name__):
        c.canonical(value)


def test_value_that_holds_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)

    with pytest.raises(IntegrityError, match="RecursionError"):
        c.canonical(value)
