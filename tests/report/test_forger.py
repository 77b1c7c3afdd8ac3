"""The coherent forger: everything edited, computed again and sealed again. None of it is authentic to whoever has the keys.

Three of them, by what they hold: keys of their own for the seals; keys of their own for every party; and, beyond what
the claim needs, a publisher who lies with the true report key. What that one can do unseen is listed in SECURITY.md.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.check.check import Level, check_bytes
from pytest_glasshouse.report.bundle import bundle_bytes, report_bytes
from tests.report.conftest import RealRun
from tests.report.forger import JudgedOnce, Keys, recomputed, resigned
from tests.report.lies import LIES, Lie

SECURITY = Path(__file__).parents[2] / "SECURITY.md"
#: The same for every lie: what a lie leaves as it was is signed alike, and judged once.
_FORGERS_KEYS = Keys()


_IDS = [lie.name for lie in LIES]


@pytest.fixture(name="lie", params=LIES, ids=_IDS)
def each_lie(request: pytest.FixtureRequest) -> Lie:
    lie: Lie = request.param
    return lie


def edited(real_run: RealRun, lie: Lie) -> Any:
    document = copy.deepcopy(real_run.document)
    lie.edit(document)
    return document


#: The whole list of what a forger without any private key tries: each of them at least must come out coherent.
COHERENT = {
    "raw time scaled", "protected time scaled", "worst round dropped", "another GPU", "another margin", "another order", "another run",
    "null row by another agent", "null row invented", "another margin of a null row", "borders signed by nobody",
    "excluded row deleted", "measured row deleted", "set-up time shortened", "refusal invented", "cleanup made up",
}  # fmt: skip


def test_lie_signed_with_the_forgers_own_keys_is_not_authentic(real_run: RealRun, lie: Lie) -> None:
    """No private key but new ones: every party's tokens, every digest and seal made again. Keys found inside never count."""
    forged = resigned(edited(real_run, lie), _FORGERS_KEYS)
    found = check_bytes(report_bytes(forged), trust=real_run.trust, derivation=JudgedOnce())

    assert found.level.height < Level.AUTHENTIC.height
    if lie.name in COHERENT:  # otherwise this would only show that the forger is clumsy
        assert found.faults == ()
        assert "the report key is not one given with --trust" in found.missing


@pytest.mark.parametrize("name", ["raw time scaled", "excluded row deleted", "cleanup made up"])
def test_lie_that_only_the_report_seals_cover_is_not_authentic(real_run: RealRun, name: str) -> None:
    """Every token is genuine; the seals, and the statements in the bundle, are by a key of the forger's."""
    lie, key = next(each for each in LIES if each.name == name), Ed25519PrivateKey.generate()
    forged: Any = recomputed(edited(real_run, lie), key=key)
    found = check_bytes(bundle_bytes(forged, key=key), trust=real_run.trust, derivation=JudgedOnce())

    assert found.level.height < Level.AUTHENTIC.height


def test_publisher_who_lies_is_found_or_the_lie_is_documented(real_run: RealRun, lie: Lie) -> None:
    """The true report key seals the lie; agent, leg, owner and server have signed the truth."""
    forged = recomputed(edited(real_run, lie), key=real_run.report_key)
    found = check_bytes(report_bytes(forged), trust=real_run.trust, derivation=JudgedOnce())

    if lie.unsigned:
        assert (found.faults, found.level) == ((), Level.CONSISTENT)
        assert any(lie.unsigned in each for each in found.missing)
    elif lie.unseen:
        assert (found.faults, found.level) == ((), Level.AUTHENTIC)
        assert f"**{lie.unseen}" in SECURITY.read_text("utf-8")
    else:
        assert found.level is Level.NOTHING
        assert any(word in fault.path for word in lie.seen_at for fault in found.faults), [str(fault) for fault in found.faults]
