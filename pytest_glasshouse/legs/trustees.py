"""Who the host brings along: the owner of the packages and the attestation server, embedded on loopback.

One of each per pytest process. Both hold data keys, and nobody else on the host does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.trust.client import AttestationClient
from pytest_glasshouse.trust.http import serve_embedded
from pytest_glasshouse.trust.owner import Owner
from pytest_glasshouse.trust.server import AttestationServer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from pytest_glasshouse.wire.canonical import Json


class Trustees:
    """Owner, embedded server and a client to it. `close` stops the server and forgets every key."""

    def __init__(self) -> None:
        self.owner = Owner.generate()
        self._server = AttestationServer(owner=self.owner.public)
        self._handle = serve_embedded(self._server)
        self.client = AttestationClient(self._handle.url)

    @property
    def server_key(self) -> Ed25519PublicKey:
        """The key results and receipts are signed with."""
        return self._server.public_key

    @property
    def server_hpke(self) -> str:
        """The key data keys are sealed to on their way to the server."""
        return self._server.hpke_public

    def outstanding(self) -> list[dict[str, Json]]:
        """Releases that were never completed."""
        return self._server.outstanding()

    def close(self) -> None:
        """Stop serving."""
        self.client.close()
        self._handle.close()
