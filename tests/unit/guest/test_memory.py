"""Memory for secrets is wiped on demand, and never shown, dumped or inherited."""

from __future__ import annotations

import os

import pytest

from pytest_glasshouse.guest.memory import Arena, Exposure, LockedSecret, wipe_bytes


def test_wiping_leaves_zeros_and_views_stay_valid() -> None:
    arena = Arena(10_000)
    view = arena.view[100:200]
    arena.view[:] = os.urandom(10_000)
    arena.wipe()
    assert bytes(arena.view) == bytes(10_000)
    assert bytes(view) == bytes(100)


def test_closing_wipes_first_even_while_a_view_is_held() -> None:
    arena = Arena(64)
    view = arena.view[:16]
    arena.view[:] = b"x" * 64
    arena.close()
    assert bytes(view) == bytes(16)
    assert not arena.closed
    view.release()
    arena.close()
    assert arena.closed
    arena.wipe()  # nothing to wipe any more, and no crash


def test_a_secret_takes_the_value_and_leaves_the_original_empty() -> None:
    original = os.urandom(32)
    copy = bytes(bytearray(original))
    secret = LockedSecret.take(original)
    assert bytes(secret.view) == copy
    assert original == bytes(32)
    assert len(secret) == 32


def test_shared_bytes_are_not_wiped() -> None:
    """One-byte objects belong to the interpreter."""
    wipe_bytes(b"")
    one = bytes([65])
    wipe_bytes(one)
    assert one == b"A"


def test_a_secret_is_not_shown() -> None:
    assert "wonder" not in repr(LockedSecret.take(bytes(bytearray(b"wonderwall"))))


def test_an_empty_arena_is_possible_and_a_negative_one_is_not() -> None:
    assert bytes(Arena(0).view) == b""
    with pytest.raises(ValueError, match="size"):
        Arena(-1)


def test_the_mapping_is_kept_out_of_dumps_and_children() -> None:
    """The kernel's flags: `dd` (not dumped), `dc` (not copied on fork), `lo` where locking was granted."""
    arena = Arena(1 << 21)
    flags = ""
    with open("/proc/self/smaps", encoding="ascii") as maps:  # noqa: PTH123
        inside = False
        for line in maps:
            head = line.split(" ", 1)[0]
            if "-" in head and not line.startswith("VmFlags"):
                low, _, high = head.partition("-")
                inside = int(low, 16) <= arena._address < int(high, 16)
            elif inside and line.startswith("VmFlags"):
                flags = line
    if not flags:
        pytest.skip("this kernel does not show VmFlags")
    assert {"dd", "dc"} <= set(flags.split())
    assert arena.locked == ("lo" in flags.split())


def test_exposure_adds_bytes_times_seconds_and_keeps_the_peak() -> None:
    """Plaintext that stays twice as long counts twice."""
    now = [0]
    exposure = Exposure(lambda: now[0])
    for after_s, by in ((5, 100), (2, 50), (1, -100), (4, -50), (9, 0)):
        now[0] += after_s * 1_000_000_000
        exposure.change(by)
    assert exposure.to_json() == {"exposure_byte_s": 100 * 2 + 150 * 1 + 50 * 4, "exposure_peak_bytes": 150}
