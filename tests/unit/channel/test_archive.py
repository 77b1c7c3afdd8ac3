from __future__ import annotations

import io
import zipfile

from pytest_glasshouse.channel.archive import ROOMS, build_archive, guest_archive
from pytest_glasshouse.providers.mock import dishonest_archive
from pytest_glasshouse.providers.mock_faults import FAULTS, GUEST_FAULTS


def _names(archive: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(archive)).namelist()


def test_same_sources_give_the_same_bytes() -> None:
    """The digest is the policy's reference value: two hosts with the same sources must expect the same."""
    assert build_archive({"x": b"1"}) == build_archive({"x": b"1"})


def test_archive_holds_the_guests_rooms_and_none_of_the_hosts() -> None:
    rooms = {name.split("/")[1] for name in _names(guest_archive()) if name.count("/") > 1}
    assert rooms == set(ROOMS)


def test_archive_holds_no_byte_code() -> None:
    """A forged .pyc runs while the source stays unchanged."""
    assert not [name for name in _names(guest_archive()) if name.endswith(".pyc")]


def test_honest_guests_archive_holds_no_fault_code() -> None:
    """A fault that can be switched on in the guest could be switched on in any guest."""
    content = b"".join(zipfile.ZipFile(io.BytesIO(guest_archive())).read(name) for name in _names(guest_archive()))
    assert b"dishonest_guest" not in content
    assert not [fault for fault in FAULTS if fault.encode() in content]


def test_dishonest_guest_is_sent_in_an_archive_with_another_digest() -> None:
    assert dishonest_archive([GUEST_FAULTS[0]]) != guest_archive()
