"""Rented guests: what each is launched with, the SSH connection to it, and its shutdown.

One set of keys per lease, made before the launch and forgotten with the lease. The broker sends the requests to the provider;
this module only uses its name and base URL.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.broker.pricing import DISK_GB
from pytest_glasshouse.broker.tunnel_connection import CONTACT_GRACE_S, TunnelConnection
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.pod_launch import PodKeys, new_keys, pod_environment, pod_start
from pytest_glasshouse.channel.ssh import SshFiles
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.base import Launch
from pytest_glasshouse.providers.places import boot_timeout_of
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.documentation import page

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.channel.tunnel import Route
    from pytest_glasshouse.providers.base import Provider
    from pytest_glasshouse.providers.lease import Lease

_PINNED = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]*@sha256:[0-9a-f]{64}")


class RentedConnection(TunnelConnection):
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
        super().__init__(emit=emit, archive=archive)
        self._image = image
        self._boot_timeout_s = boot_timeout_s
        self._disk_gb = disk_gb
        self._wall = wall
        self._keys: dict[str, PodKeys] = {}

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        """A pod that ends itself at the lease's deadline. Raises `ConfigurationError` where no image was chosen."""
        keys = self._keys[lease.name] = new_keys()
        boot_s = boot_timeout_of(provider.name, self._boot_timeout_s)
        environment = pod_environment(
            keys,
            deadline=lease.deadline,
            contact_by=self._wall() + boot_s + CONTACT_GRACE_S,
            ends=provider.name,
            api=provider.base_url,
        )
        self.remember(*(line for key in (keys.client_private, keys.host_private) for line in key.splitlines()[1:-1]))
        return Launch(name=lease.name, image=self.image_for(provider), env=environment, start=pod_start(), disk_gb=self._disk_gb)

    def route(self, lease: Lease) -> Route:
        """By the keys of its launch."""
        return SshFiles(self._keys[lease.name])

    def disconnect(self, lease: Lease) -> None:
        """See `Connection.disconnect`."""
        self._keys.pop(lease.name, None)
        super().disconnect(lease)

    def image_for(self, provider: Provider) -> str:
        """The image of `provider`'s guests. Raises `ConfigurationError` where none was chosen."""
        if self._image is not None:
            return self._image
        if provider.simulated:
            # Nothing is pulled there. The digest is that of the recipe an image would be built from.
            return f"simulated/glasshouse-guest@sha256:{sha256_hex(dockerfile())}"
        raise ConfigurationError(
            f"provider {provider.name}: expected the guest's image, pinned by its digest, in --glasshouse-image, "
            f"GLASSHOUSE_IMAGE or the ini glasshouse_image; saw none. See {page('guest-image')}. Nothing was rented"
        )


def dockerfile() -> bytes:
    """The recipe of this version's guest image."""
    import importlib.resources

    return (importlib.resources.files("pytest_glasshouse.channel") / "image" / "Dockerfile").read_bytes()
