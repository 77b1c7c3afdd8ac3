"""Loops: a few repetitions in `make test`, a hundred and more of the same in `make soak`."""

from __future__ import annotations

import functools
import os
import random
from pathlib import Path

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.invariants import judge, memory_scanned_clean
from pytest_glasshouse.legs import protected
from pytest_glasshouse.owner.sealing import read_manifest, sealing
from pytest_glasshouse.providers.local_process import list_guests
from pytest_glasshouse.tamper.testbed import TamperTestbed
from tests.rounds.conftest import carry_out, short_row

pytestmark = pytest.mark.soak

SOAK = bool(os.environ.get("SOAK"))
SEED = 20261120


def _times(few: int, many: int) -> int:
    return many if SOAK else few


def test_invariants_hold_in_rows_one_after_the_other_and_nothing_is_left(tmp_path: Path) -> None:
    """What leaks one descriptor or process a row fails a night of rows."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(_times(2, 100)):
        order = ("raw-first", "protected-first")[number % 2]
        ran = carry_out(short_row(order=order), tmp_path / str(number), torch=SOAK)
        assert [(f.invariant, f.reason) for f in judge(ran.outcome.observation) if f.finding != "held"] == []
        assert ran.cleanup.status == "proven"
        assert not ran.guest_directory.exists()
        assert not [i for i in list_guests() if i.name == ran.cleanup.allocations[0]["name"]]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


#: Here mlp on the numpy guest. Legs of torch (opened by one thread, and by several) and of lora are scanned in `test_plaintext.py`.
_WORKLOADS = ("mlp", "lora") if SOAK else ("mlp",)


@pytest.mark.parametrize("workload", _WORKLOADS)
@pytest.mark.parametrize("opening", ["one-thread", "threads"])
def test_wiped_memory_is_clean_every_time(
    workload: str, opening: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A copy that stays behind once in twenty legs is a copy that stays behind."""
    if opening == "threads":
        # Segments so small that every part has many: each of the opener's threads gets some.
        monkeypatch.setattr(protected, "sealing", functools.partial(sealing, segment=4096))
    for number in range(_times(1, 20)):
        if opening == "one-thread" and not SOAK:
            ran = request.getfixturevalue("good_run")  # which is such a row
        else:
            ran = carry_out(short_row(workload), tmp_path / str(number), torch=SOAK)
        finding = memory_scanned_clean(ran.outcome.observation)
        assert (finding.finding, ran.outcome.ended) == ("held", None), f"run {number}: {finding.reason}"


def test_change_of_any_bit_of_a_package_is_refused() -> None:
    """Every byte is bound, wherever the flip falls."""
    draw = random.Random(SEED)
    with TamperTestbed() as stage:
        attempt = stage.attempt()
        key = attempt.unseal(attempt.release())
        package, manifest = stage.sealed.package, read_manifest(stage.sealed.manifest, owner=stage.owner.public)
        attempt.open(key, package, manifest)
        for _ in range(_times(50, 5000)):
            changed = bytearray(package)
            place = draw.randrange(len(changed))
            changed[place] ^= 1 << draw.randrange(8)
            with pytest.raises(IntegrityError):
                attempt.open(key, bytes(changed), manifest)
