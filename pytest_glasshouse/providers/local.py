"""The local provider: this machine's own NVIDIA GPU. Nothing is rented or simulated."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers import local_process as process
from pytest_glasshouse.providers.base import Account, Instance, Launch, Offer
from pytest_glasshouse.providers.guest_python import check_imports, device_here, guest_folders
from pytest_glasshouse.providers.place_settings import PlaceSettings
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.canonical import sha256_hex


class LocalProvider:
    """Allocations are this machine. Raises `ConfigurationError` where torch has no NVIDIA GPU to train on."""

    name = "local"
    base_url = ""
    rents = False
    dry_run = False
    this_machine = True
    simulated = False
    poll_s = 0.05

    def __init__(self, *, site_packages: Sequence[str] = (), archive: bytes | None = None) -> None:
        """`site_packages` and `archive` replace this installation's, for tests that change what the guest runs."""
        self._archive = archive or guest_archive()
        folders = tuple(site_packages) or guest_folders()
        check_imports(folders)
        device = device_here(self._archive, folders)
        if device.name != "cuda":
            raise ConfigurationError(
                f"provider local: expected an NVIDIA GPU that torch can train on; {device.no_gpu}. "
                "glasshouse doctor --provider local tells more; --glasshouse-provider mock is a dry run on the CPU"
            )
        self._gpu_model, self._gpu_count = device.model, device.ranks
        self._guests = process.GuestProcesses(folders)
        self.archive_sha256 = sha256_hex(self._archive)
        process.check_room(self._archive)

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """This machine's GPU, whatever the row names; a row that names another is a dry run."""
        process.check_gpus(row, has=self._gpu_count)
        return (Offer(provider=self.name, gpu_model=self._gpu_model, gpus=row.gpus),)

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
