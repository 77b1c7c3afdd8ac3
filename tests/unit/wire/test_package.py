"""The package's layout has one form. (Changed packages are in the tamper suite; here is what a header alone can break.)"""

from __future__ import annotations

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import floe, package
from pytest_glasshouse.wire.canonical import canonical, sha256_hex

ID = sha256_hex(b"package")
SEGMENT = 256


def a_part(name: str, data: bytes, index: int, of: int) -> tuple[str, int, bytes]:
    context = package.part_context(ID, name, index, of, len(data))
    return name, len(data), floe.encrypt(bytes(32), context, data, segment=SEGMENT)


def a_package() -> bytes:
    return package.write(ID, SEGMENT, [a_part("config", b"{}", 0, 2), a_part("train", b"x" * 1000, 1, 2)])


def with_header(header: object) -> bytes:
    raw = header if isinstance(header, bytes) else canonical(header)
    return package.MAGIC + len(raw).to_bytes(4, "big") + raw


def test_a_written_package_reads_back() -> None:
    sealed = a_package()
    header = package.parse_header(sealed)
    assert (header.package, header.segment) == (ID, SEGMENT)
    assert [(part.name, part.size) for part in header.parts] == [("config", 2), ("train", 1000)]
    assert header.body + sum(part.length for part in header.parts) == len(sealed)
    for index, (part, data) in enumerate(zip(header.parts, (b"{}", b"x" * 1000), strict=True)):
        message = sealed[header.body + part.offset :][: part.length]
        assert message[: floe.HEADER_BYTES].hex() == part.commit
        assert floe.decrypt(bytes(32), header.context(index), message) == data


def test_the_digest_is_of_the_header_bytes() -> None:
    sealed = a_package()
    header = package.parse_header(sealed)
    assert header.sha256 == sha256_hex(sealed[len(package.MAGIC) + 4 : header.body])


def test_a_package_lies_anywhere_in_memory() -> None:
    sealed = a_package()
    assert package.parse_header(memoryview(bytearray(sealed))) == package.parse_header(sealed)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"package": "short"}, "pkg-format"),
        ({"segment": 32}, "pkg-format"),
        ({"segment": 1 << 31}, "pkg-format"),
        ({"segment": "64"}, "pkg-header"),
        ({"parts": [7]}, "pkg-format"),
        ({"parts": [{}]}, "pkg-format"),
        ({"parts": {}}, "pkg-header"),
    ],
    ids=str,
)
def test_a_header_that_names_an_impossible_layout_is_refused(changes: dict[str, object], reason: str) -> None:
    header = {"format": package.FORMAT, "package": ID, "segment": SEGMENT, "parts": [], **changes}
    with pytest.raises(IntegrityError) as caught:
        package.parse_header(with_header(header))
    assert caught.value.reason == reason


@pytest.mark.parametrize("raw", [b"{}", b"[]", b"\xff", b'{"format": "glasshouse-package/1"}'], ids=repr)
def test_a_header_that_cannot_be_read_is_refused(raw: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        package.parse_header(with_header(raw))
    assert caught.value.reason == "pkg-header"


def test_a_header_that_is_not_canonical_is_refused() -> None:
    sealed = a_package()
    header = package.parse_header(sealed)
    raw = sealed[len(package.MAGIC) + 4 : header.body].replace(b'"format":', b'"format": ', 1)
    with pytest.raises(IntegrityError) as caught:
        package.parse_header(with_header(raw) + sealed[header.body :])
    assert caught.value.reason == "pkg-header"


def test_a_commitment_of_another_length_is_refused() -> None:
    name, size, message = a_part("config", b"{}", 0, 1)
    part = {"name": name, "size": size, "offset": 0, "length": len(message), "commit": message[:73].hex()}
    header = {"format": package.FORMAT, "package": ID, "segment": SEGMENT, "parts": [part]}
    with pytest.raises(IntegrityError) as caught:
        package.parse_header(with_header(header) + message)
    assert caught.value.reason == "pkg-format"
