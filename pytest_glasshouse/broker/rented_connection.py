"""Rented guests: what each is launched with, the SSH connection to it, and its shutdown.

One set of keys per lease, made before the launch and forgotten with the lease. The broker sends the requests to the provider;
this module only uses its name and base URL.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.broker.pricing import DISK_GB
from pytest_glasshouse.broker.timing import BOOT_TIMEOUT_S
from pytest_glasshouse.channel.access import SshAccess
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.pod_launch import PodKeys, new_keys, pod_environment, pod_start
from pytest_glasshouse.channel.ssh_session import SshSession
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.base import Launch
from pytest_glasshouse.wire.canonical import sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.providers.base import Access, Provider
    from pytest_glasshouse.providers.lease import Lease

_PINNED = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]*@sha256:[0-9a-f]{64}")
#: How much longer than the boot timeout a guest waits for the host: the host ends a late guest first.
_CONTACT_GRACE_S = 600.0


class RentedConnection:
    """Launches, connects and shuts down the rented guests of one run."""

    def __init__(
        self,
        *,
        image: str | None,
        boot_timeout_s: float | None = None,
        disk_gb: int = DISK_GB,
        emit: Callable[[str, str], None] = lambda _name, _what: None,
        wall: Callable[[], float] = time.time,
        archive: Callable[[], bytes] = guest_archive,
    ) -> None:
        """Raises `ConfigurationError` for an `image` that is not pinned by its digest; None is an error at the first launch."""
        if image is not None and not _PINNED.fullmatch(image):
            raise ConfigurationError(
                f"image {image!r}: expected one that is pinned by its digest, such as registry/name@sha256:<64 hex digits>; "
                "a tag may be another image tomorrow"
            )
        self._image = image
        self._boot_timeout_s = boot_timeout_s
        self._disk_gb = disk_gb
        self._emit = emit
        self._wall = wall
        self._archive = archive
        self._keys: dict[str, PodKeys] = {}
        self._sessions: dict[str, SshSession] = {}
        self._secrets: dict[str, None] = {}

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        """A pod that ends itself at the lease's deadline. Raises `ConfigurationError` where no image was chosen."""
        keys = self._keys[lease.name] = new_keys()
        boot_s = self._boot_timeout_s or BOOT_TIMEOUT_S.get(provider.name, 900.0)
        environment = pod_environment(
            keys,
            deadline=lease.deadline,
            contact_by=self._wall() + boot_s + _CONTACT_GRACE_S,
            ends=provider.name,
            api=provider.base_url,
        )
        self._remember(*(line for key in (keys.client_private, keys.host_private) for line in key.splitlines()[1:-1]))
        return Launch(name=lease.name, image=self.image_for(provider), env=environment, start=pod_start(), disk_gb=self._disk_gb)

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        """See `Connection.connect`."""
        if not isinstance(access, SshAccess):
            raise ConfigurationError(
                f"allocation {lease.name}: expected one that is reached over SSH, saw a guest of this machine"
            )
        session = self._sessions.get(lease.name)
        if session is None:
            keys = self._keys[lease.name]
            session = self._sessions[lease.name] = SshSession(keys, allocation=lease.name, archive=self._archive())
        path = session.connect(access, timeout_s=timeout_s, on_phase=lambda what: self._emit(lease.name, what))
        self._remember(*session.secrets())
        return path

    def shut_down(self, lease: Lease) -> None:
        """See `Connection.shut_down`."""
        session = self._sessions.get(lease.name)
        if session is not None:
            session.shut_down()

    def disconnect(self, lease: Lease) -> None:
        """See `Connection.disconnect`."""
        self._keys.pop(lease.name, None)
        session = self._sessions.pop(lease.name, None)
        if session is not None:
            session.close()

    def secrets(self) -> tuple[str, ...]:
        """Addresses and keys of every guest this run ever connected to."""
        return tuple(self._secrets)

    def _remember(self, *values: str) -> None:
        self._secrets.update(dict.fromkeys(values))

    def image_for(self, provider: Provider) -> str:
        """The image of `provider`'s guests. Raises `ConfigurationError` where none was chosen."""
        if self._image is not None:
            return self._image
        if provider.simulated:
            # Nothing is pulled there. The digest is that of the recipe an image would be built from.
            return f"simulated/glasshouse-guest@sha256:{sha256_hex(dockerfile())}"
        raise ConfigurationError(
            f"provider {provider.name}: expected the guest's image, pinned by its digest, in --glasshouse-image, "
            "GLASSHOUSE_IMAGE or the ini glasshouse_image; saw none. See docs/guest-image.md. Nothing was rented"
        )


def dockerfile() -> bytes:
    """The recipe of this version's guest image."""
    import importlib.resources

    return (importlib.resources.files("pytest_glasshouse.channel") / "image" / "Dockerfile").read_bytes()
