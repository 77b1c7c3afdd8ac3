"""The mock provider: a dry run of a rented allocation on this machine. Never publishable.

The guest is a real process with a real agent on a real socket; only the allocation is a stand-in. It plays faults: those of a
provider here, those of a connection in `mock_faulty_channel`, and the others in a guest module of its own, which only this
provider's policy pins.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pytest_glasshouse.channel.archive import build_archive, guest_archive
from pytest_glasshouse.errors import AmbiguousCreateError, ConfigurationError, NoCapacityError, TerminateError
from pytest_glasshouse.providers import local_process as process
from pytest_glasshouse.providers.base import Account, Instance, Launch, Offer
from pytest_glasshouse.providers.guest_python import check_imports, device_here, guest_folders
from pytest_glasshouse.providers.mock_faults import FAULTS, GUEST_FAULTS
from pytest_glasshouse.providers.place_settings import PlaceSettings
from pytest_glasshouse.rows.spec import GPU_MODELS, RowSpec
from pytest_glasshouse.wire.canonical import sha256_hex

_DISHONEST_MAIN = """import sys

sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")

import glasshouse_dishonest_guest

sys.exit(glasshouse_dishonest_guest.main({faults!r}))
"""


class MockProvider:
    """Allocations on this machine, with faults on request."""

    name = "mock"
    base_url = ""
    rents = False
    dry_run = True
    this_machine = True
    simulated = False
    poll_s = 0.05

    def __init__(self, faults: tuple[str, ...] = (), *, site_packages: Sequence[str] = (), archive: bytes | None = None) -> None:
        """`site_packages` and `archive` replace this installation's, for tests that change what the guest runs."""
        for fault in faults:
            if fault not in FAULTS:
                raise ConfigurationError(f"mock fault {fault!r}: expected one of {', '.join(sorted(FAULTS))}")
        self._faults = faults
        self._guests = process.GuestProcesses(site_packages)
        inside = [fault for fault in faults if fault in GUEST_FAULTS]
        self._archive = archive or (dishonest_archive(inside) if inside else guest_archive())
        self.archive_sha256 = sha256_hex(self._archive)
        self._folders = tuple(site_packages) or guest_folders()
        check_imports(self._folders)
        process.check_room(self._archive)

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """This machine, whatever the row names; the fault `wrong-gpu` promises what is not there."""
        if "no-capacity" in self._faults:
            raise NoCapacityError(f"mock: no capacity for {row.gpu} (fault no-capacity). Nothing was created; try again later")
        device = device_here(self._archive, self._folders)
        process.check_gpus(row, has=device.ranks)
        promised = GPU_MODELS["h100"] if "wrong-gpu" in self._faults else device.model
        return (Offer(provider=self.name, gpu_model=promised, gpus=row.gpus),)

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        """Start a guest; by the fault, its archive is damaged, the answer is lost, or it never boots."""
        del offer
        archive = _one_byte_differs(self._archive) if "attestation-reject" in self._faults else self._archive
        instance = self._guests.start(launch.name, archive, stalled="boot-stall" in self._faults)
        if "create-lost" in self._faults:
            raise AmbiguousCreateError(
                f"mock: the answer to creating {launch.name} was lost (fault create-lost)", allocation_id=launch.name
            )
        return instance

    def get(self, instance_id: str) -> Instance | None:
        """From the process table."""
        return process.find_guest(instance_id)

    def list(self) -> tuple[Instance, ...]:
        """From the process table."""
        return process.list_guests()

    def terminate(self, instance_id: str) -> None:
        """Kill the guest, unless that is the fault."""
        if "terminate-fails" in self._faults:
            raise TerminateError(f"mock: {instance_id} was not ended (fault terminate-fails)", allocation_id=instance_id)
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
        """`kill` or `reboot` the guest."""
        guest = self._guests.get(instance_id)
        {"kill": guest.kill, "reboot": guest.reboot}[action]()


def dishonest_archive(faults: list[str], replaced: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """The archive of the dishonest guest: its digest differs, and only the mock's policy expects it.

    `replaced` (path in the archive to content) takes the place of this installation's files.
    """
    source = (importlib.resources.files("pytest_glasshouse.attacks") / "dishonest_guest.py").read_bytes()
    main = _DISHONEST_MAIN.format(faults=tuple(faults)).encode()
    return build_archive({"glasshouse_dishonest_guest.py": source, "__main__.py": main, **replaced})


def _one_byte_differs(archive: bytes) -> bytes:
    # A letter of a docstring: the archive still runs, and only its digest differs.
    place = archive.index(b"Benchmark rows as tests")
    return archive[:place] + b"b" + archive[place + 1 :]


def open_mock(settings: PlaceSettings) -> MockProvider:
    """See `places.Place`."""
    return MockProvider(settings.faults)
