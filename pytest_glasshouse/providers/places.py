"""The places where a GPU can be had: one line each, with everything that the other rooms ask of a place before it is opened.

It imports no provider. How to add one: docs/providers.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_glasshouse.providers.base import Provider
    from pytest_glasshouse.providers.place_settings import OwnMachines, PlaceSettings


class Place:
    """One place. `opener` is the module and the function there that makes its provider from `PlaceSettings`.

    `where` says in the header of a run what is used there. `end_by_hand` is a command with `{instance}` in it, and `console` a
    place to look where the instance's id is not known: how a person ends what is left, without this tool.
    No dataclass, which takes half a millisecond to make: every start of pytest makes this class.
    """

    def __init__(
        self,
        *,
        name: str,
        opener: str,
        where: str,
        boot_timeout_s: float,
        rents: bool = False,
        on_this_machine: bool = False,
        queue_timeout_s: float = 0.0,
        side_by_side: bool = False,
        setting: str = "",
        end_by_hand: str = "",
        console: str = "",
    ) -> None:
        self.name = name
        self.opener = opener
        self.where = where
        self.boot_timeout_s = boot_timeout_s
        #: Whether an allocation costs money: then it takes a budget and a yes, and offers have prices.
        self.rents = rents
        #: Whether its guests are processes of the machine where pytest runs: nothing of them can be left behind anywhere else.
        self.on_this_machine = on_this_machine
        #: How long to wait for a GPU that others use, unless the user says otherwise. 0: not at all.
        self.queue_timeout_s = queue_timeout_s
        #: Whether rows that run at the same time get an allocation each, though one would do: others wait in its queue, not they.
        self.side_by_side = side_by_side
        #: The field of `OwnMachines` that says which one is meant. A command that looks at every place leaves out one of which
        #: nothing is said: that its programs are on this machine does not make it the user's.
        self.setting = setting
        self.end_by_hand = end_by_hand
        self.console = console

    def is_meant_by(self, machines: OwnMachines) -> bool:
        """See `setting`; true for a place without one, whose opener finds out."""
        from pytest_glasshouse.providers.place_settings import OwnMachines

        return not self.setting or getattr(machines, self.setting) != getattr(OwnMachines(), self.setting)

    def open(self, settings: PlaceSettings) -> Provider:
        """Its provider. Raises `ConfigurationError` for what the user can fix."""
        module, _, function = self.opener.partition(":")
        provider: Provider = getattr(import_module(f"pytest_glasshouse.providers.{module}"), function)(settings)
        return provider


PLACES: dict[str, Place] = {
    place.name: place
    for place in (
        Place(name="mock", opener="mock:open_mock", where="a dry run on this machine; nothing is rented", boot_timeout_s=15.0,
              on_this_machine=True),
        Place(name="local", opener="local:open_local", where="this machine's own GPU; nothing is rented", boot_timeout_s=60.0,
              on_this_machine=True),
        Place(name="ssh", opener="ssh:open_ssh", where="GPUs of your own hosts; nothing is rented", boot_timeout_s=300.0,
              end_by_hand="on the host, end the process keeper.py of {instance}", console="the hosts of --glasshouse-host"),
        Place(name="runpod", opener="registry:open_runpod_place", where="rented", boot_timeout_s=1200.0, rents=True,
              end_by_hand='curl -X DELETE https://api.runpod.io/v2/pods/{instance} -H "Authorization: Bearer $RUNPOD_API_KEY"',
              console="the console at console.runpod.io"),
        Place(name="vastai", opener="vastai:open_vastai_place", where="rented", boot_timeout_s=900.0, rents=True,
              end_by_hand="vastai destroy instance {instance}", console="the console at cloud.vast.ai"),
        Place(name="slurm", opener="slurm:open_slurm", where="jobs of a Slurm cluster", boot_timeout_s=300.0,
              queue_timeout_s=3600.0, side_by_side=True, setting="slurm", end_by_hand="scancel {instance}",
              console="squeue --me: every job called glasshouse-..."),
    )
}  # fmt: skip

NAMES = tuple(PLACES)
#: Places whose allocations cost money.
RENTING = tuple(name for name, place in PLACES.items() if place.rents)
#: Places whose allocations outlive a run that is killed: a reaper, a watchdog and `glasshouse reap` end them.
REMOTE = tuple(name for name, place in PLACES.items() if not place.on_this_machine)


#: For a provider that is not in the table, as tests have them.
_BOOT_S = 900.0


def boot_timeout_of(name: str, asked_s: float | None) -> float:
    """How long an allocation of that place may take until it runs and has an address; a cold image alone takes minutes."""
    if asked_s is not None:
        return asked_s
    return PLACES[name].boot_timeout_s if name in PLACES else _BOOT_S


def queue_timeout_of(name: str, asked_s: float | None) -> float:
    """How long an allocation of that place may wait for a GPU that others use."""
    if asked_s is not None:
        return asked_s
    return PLACES[name].queue_timeout_s if name in PLACES else 0.0


def runs_side_by_side(name: str) -> bool:
    """See `Place.side_by_side`."""
    return name in PLACES and PLACES[name].side_by_side


def manual_stop(provider: str, instance_id: str | None) -> str:
    """How a person ends an allocation that may still exist, without this tool."""
    place = PLACES.get(provider)
    if place is None or place.on_this_machine:
        return "end its processes on this machine"
    if not instance_id or not place.end_by_hand:
        return f"end it in {place.console}"
    return f"{place.end_by_hand.format(instance=instance_id)}, or {place.console}"
