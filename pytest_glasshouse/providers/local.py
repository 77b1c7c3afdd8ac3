"""The local provider: this machine's own NVIDIA GPU. Nothing is rented or simulated."""

from __future__ import annotations

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.guest import machine
from pytest_glasshouse.providers import local_process as process
from pytest_glasshouse.providers.base import Account, Instance, Launch, Offer
from pytest_glasshouse.providers.place_settings import PlaceSettings
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.canonical import sha256_hex


class LocalProvider:
    """Allocations are this machine. Raises `ConfigurationError` where there is no NVIDIA GPU."""

    name = "local"
    base_url = ""
    rents = False
    dry_run = False
    this_machine = True
    simulated = False
    poll_s = 0.05

    def __init__(self) -> None:
        found = machine.gpus()
        if not found:
            raise ConfigurationError(
                "provider local: expected an NVIDIA GPU on this machine; NVML shows none. "
                "Check nvidia-smi, or use --glasshouse-provider mock for a dry run"
            )
        self._gpu_model = found[0].model
        self._guests = process.GuestProcesses()
        self._archive = guest_archive()
        self.archive_sha256 = sha256_hex(self._archive)
        process.check_room(self._archive)

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """This machine's GPU, if it is the row's."""
        if row.gpu_model is not None and row.gpu_model != self._gpu_model:
            raise ConfigurationError(
                f"row {row.name} names {row.gpu_model}; this machine has {self._gpu_model}. "
                "Select rows for this GPU with -m, or run the row on a machine that has its GPU"
            )
        return (Offer(provider=self.name, gpu_model=self._gpu_model),)

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        """Start a guest on this machine."""
        del offer
        return self._guests.start(launch.name, self._archive)

    def get(self, instance_id: str) -> Instance | None:
        """From the process table."""
        return process.find_guest(instance_id)

    def list(self) -> tuple[Instance, ...]:
        """From the process table."""
        return process.list_guests()

    def terminate(self, instance_id: str) -> None:
        """Kill the guest and remove its directory."""
        self._guests.end(instance_id)

    def logs(self, instance_id: str) -> str:
        """What the agent printed."""
        return self._guests.logs(instance_id)

    def account(self) -> Account:
        """Nothing is paid for."""
        return Account()

    def may_create(self) -> bool:
        """There is no key."""
        return True

    def secrets(self) -> tuple[str, ...]:
        """There are none."""
        return ()

    def inject_fault(self, instance_id: str, action: str) -> None:
        """Raises `ConfigurationError`: only the mock provider plays faults."""
        raise ConfigurationError(f"provider local plays no faults; {action} on {instance_id} was asked for")


def open_local(settings: PlaceSettings) -> LocalProvider:
    """See `places.Place`."""
    del settings
    return LocalProvider()
