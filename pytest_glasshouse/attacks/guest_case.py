"""A tamper case that attacks a real guest: what it does, what it is after, and the reason it must fail with.

Knows which guests there are to attack and how to run a case on one. Refuses to know attacks: `attacks.code_injection` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pytest_glasshouse.attacks.target_guest import TargetGuest, TargetGuests
from pytest_glasshouse.tamper.result import TamperResult

#: What the attack is after: the data key; execution of planted code; memory contents; a finding that holds.
GuestAsset = Literal["key", "execution", "memory", "finding"]

#: An agent that sets one more environment variable for its legs. The policy pins its archive, so that only the variable can be
#: refused.
_INJECTING = """
import sys
from pathlib import Path

if "agent" in sys.argv:
    sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
    from pytest_glasshouse.agent import launchers, leg_process

    honest = leg_process.leg_environment
    variables = Path(sys.argv[sys.argv.index("--directory") + 1]) / "variables"

    def environment(workspace, *, strict_memory):
        more = variables.read_text().split("=", 1) if variables.exists() else ()
        return {**honest(workspace, strict_memory=strict_memory), **(dict([more]) if more else {})}

    leg_process.leg_environment = launchers.leg_environment = environment
from pytest_glasshouse.agent.main import main

sys.exit(main())
"""

#: How each guest's archive starts; `None` is the product's own start.
GUEST_MAINS: dict[str, str | None] = {"honest": None, "injecting": _INJECTING}


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """The reason the attack was refused with, and whether it obtained the asset."""

    reason: str | None
    leaked: bool


#: Carries an attack out on a guest, and undoes it.
Attack = Callable[[TargetGuest], AttackOutcome]


@dataclass(frozen=True, kw_only=True)
class GuestCase:
    """One attack on a guest. `play` carries it out and undoes it. `guest` is a name in `GUEST_MAINS`."""

    name: str
    play: Attack
    expected_reason: str
    caught_by: str
    asset: GuestAsset = "key"
    guest: str = "honest"


def run_guest_case(case: GuestCase, guests: TargetGuests) -> TamperResult:
    """Play `case` on its guest. Raises `NotPlayedError` where this machine does not allow the attack."""
    guest = guests.get(case.guest, GUEST_MAINS[case.guest])
    control_released = guest.control()
    outcome = case.play(guest)
    return TamperResult(
        name=case.name,
        expected_reason=case.expected_reason,
        seen_reason=outcome.reason,
        released=outcome.leaked,
        caught_by=case.caught_by,
        control_released=control_released,
        expected_nonce="unasked",
        seen_nonce="unasked",
    )
