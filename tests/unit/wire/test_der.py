"""One value has one spelling; every other is refused, and nothing runs past the end."""

from __future__ import annotations

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.tamper.fake_certificates import number, value
from pytest_glasshouse.wire import der


@pytest.mark.parametrize("given", [0, 1, 127, 128, 255, 256, -1, -128, -129, 2**64])
def test_numbers_are_read_as_they_were_written(given: int) -> None:
    assert der.read(number(given)).number() == given


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 70_000])
def test_contents_of_every_length_are_read(length: int) -> None:
    found = der.read(value(bytes(length), tag=der.OCTET_STRING))
    assert (found.tag, len(found.body)) == (der.OCTET_STRING, length)


@pytest.mark.parametrize(
    ("spelled", "dotted"),
    [("06092a864886f70d01010b", "1.2.840.113549.1.1.11"), ("0603550413", "2.5.4.19"), ("0605678105040a", "2.23.133.4.10"),
     ("0603883703", "2.999.3")],
)  # fmt: skip
def test_identifiers_are_read(spelled: str, dotted: str) -> None:
    assert der.read(bytes.fromhex(spelled)).dotted() == dotted


@pytest.mark.parametrize(
    "spelled",
    ["", "30", "3001", "308000", "30810100", "3082000100", "3084000000010000", "3f0100", "3081", "300000", "30820100"],
)
def test_another_spelling_is_refused(spelled: str) -> None:
    with pytest.raises(IntegrityError, match="der"):
        der.read(bytes.fromhex(spelled))


@pytest.mark.parametrize("spelled", ["0200", "02020001", "0202ff80", "040100"])
def test_a_number_in_another_spelling_is_refused(spelled: str) -> None:
    with pytest.raises(IntegrityError, match="not an integer"):
        der.read(bytes.fromhex(spelled)).number()


@pytest.mark.parametrize("spelled", ["0600", "060188", "040155", "0621" + "81" * 32 + "01"])
def test_an_identifier_in_another_spelling_is_refused(spelled: str) -> None:
    with pytest.raises(IntegrityError, match="not an object identifier"):
        der.read(bytes.fromhex(spelled)).dotted()


def test_other_kinds_are_told_apart() -> None:
    with pytest.raises(IntegrityError, match="not a sequence"):
        der.sequence(number(1))
    with pytest.raises(IntegrityError, match="not ASCII"):
        der.read(value(b"\xff", tag=der.UTF8_STRING)).text()
