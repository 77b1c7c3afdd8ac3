"""The host's parties of attestation: the owner of the packages and the attestation server.

The server is embedded on loopback, one per pytest process, or it is one that runs elsewhere and that several processes
share. Only the owner and the server hold data keys.
"""

from __future__ import annotations

import os
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.attestation.http import serve_embedded
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, IntegrityError, ProtocolError, RefusedError
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.owner.keyfiles import read_owner, read_public
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_MARK_REQUEST, TYP_RUN_PLAN, TYP_TALLY_QUERY
from pytest_glasshouse.wire.own_file import check_own
from pytest_glasshouse.wire.run_plan import planned_rows
from pytest_glasshouse.wire.tokens import thumbprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.run_plan import PlannedRow, TallyRecord

#: A server that restarts is back within this long.
PATIENCE_S = 60.0
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, kw_only=True)
class OutsideServer:
    """A server that this process does not run. `key` is its public key, as text or a file; `authority` vouches for its TLS."""

    url: str
    key: str
    owner_key: Path
    authority: Path | None = None


class HostAttestation:
    """Owner, server and a client to it. `close` ends what was started here and forgets every key.

    With `outside` given, raises `ConfigurationError` unless the server that answers there holds the pinned key and works
    for this owner.
    """

    def __init__(self, outside: OutsideServer | None = None) -> None:
        self._embedded = None
        self._awaited: dict[str, dict[str, Json]] = {}
        self._planned: set[str] = set()
        self.place: Literal["embedded", "outside"] = "embedded" if outside is None else "outside"
        if outside is None:
            self.owner = Owner.generate()
            self._embedded = serve_embedded(AttestationServer(owner=self.owner.public))
            self.server_key = self._embedded.public_key
            self.client = AttestationClient(self._embedded.url)
        else:
            self.owner = read_owner(outside.owner_key, what="GLASSHOUSE_OWNER_KEY")
            self.server_key = read_public(outside.key, what="GLASSHOUSE_SERVER_KEY")
            if outside.authority is not None:
                check_own(outside.authority, what="GLASSHOUSE_SERVER_CA")
            self.client = AttestationClient(
                checked_url(outside.url), authority=outside.authority, complete_retry_s=PATIENCE_S, environ=os.environ
            )
            _meet(self.client, outside.url, server=self.server_key, owner=self.owner)

    @property
    def server_hpke(self) -> str:
        """The key data keys are sealed to on their way to the server: asked for anew, it changes when a server restarts."""
        if self._embedded is not None:
            return self._embedded.hpke_public
        return self.client.published_keys(self.server_key).hpke

    def plan_run(self, run: str, rows: Sequence[PlannedRow]) -> None:
        """Register what a run is going to measure, unless this process did. Raises what the client raises."""
        planned = planned_rows(rows)
        if run in self._planned:
            return
        claims: dict[str, Json] = {"rows_sha256": sha256_hex(canonical(planned))}
        self.client.plan(self.owner.sign_request(claims, typ=TYP_RUN_PLAN, server=self.server_key, run=run), planned)
        self._planned.add(run)

    def mark(self, *, run: str, row: str, attempt: str, plan: str, round_nonce: str, nonce: str) -> str:
        """The server's time for a nonce of a round; the first of a round begins it. Raises what the client raises."""
        claims: dict[str, Json] = {"row": row, "attempt": attempt, "plan": plan, "round": round_nonce, "nonce": nonce}
        return self.client.mark(self.owner.sign_request(claims, typ=TYP_MARK_REQUEST, server=self.server_key, run=run))

    def tally(self, run: str) -> TallyRecord:
        """What the server counted of a run. Raises what the client raises."""
        query = self.owner.sign_request({}, typ=TYP_TALLY_QUERY, server=self.server_key, run=run)
        return self.client.tally(query, server=self.server_key)

    @property
    def planned(self) -> frozenset[str]:
        """The runs whose plans this process registered."""
        return frozenset(self._planned)

    def awaiting(self, *, nonce: str, sub: str, run: str, manifest: str, completion_s: int) -> None:
        """Note that a release is about to be requested: from here on a key may have been released."""
        now = int(time.time())
        self._awaited[nonce] = {
            "nonce": nonce,
            "sub": sub,
            "run": run,
            "manifest": manifest,
            "released_at": now,
            "deadline": now + completion_s,
        }

    def settled(self, nonce: str) -> None:
        """Note that the release was refused or is completed."""
        self._awaited.pop(nonce, None)

    def outstanding(self) -> list[dict[str, Json]]:
        """Releases of this process that were never completed, as the embedded server counts them, else as noted here."""
        if self._embedded is not None:
            return self._embedded.server.outstanding()
        return list(self._awaited.values())

    def outstanding_of(self, run: str) -> list[dict[str, Json]]:
        """Releases of a whole run that were never completed, whichever process requested them, as the server counts them.

        With "" of every run of this owner. Raises what the client raises when the server cannot be reached.
        """
        query = self.owner.sign_query(server=self.server_key, run=run, now=int(time.time()))
        return [*self.client.outstanding(query, server=self.server_key).releases]

    def releases(self) -> int:
        """How many data keys left the embedded server; 0 where the server is an outside one, which counts for itself."""
        return self._embedded.server.releases() if self._embedded is not None else 0

    def close(self) -> None:
        """Stop serving."""
        if self._embedded is not None:
            self._embedded.close()


def checked_url(url: str) -> str:
    """The URL of a server: https, or http to this machine, and nothing in it but host and port."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urllib.parse.urlsplit("")
    plain = (
        parts.path in {"", "/"} and not parts.query and not parts.fragment and parts.username is None and parts.password is None
    )
    if parts.scheme not in {"http", "https"} or not host or not plain:
        raise ConfigurationError("GLASSHOUSE_SERVER: expected a URL of scheme, host and port such as https://192.0.2.7:8470")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise ConfigurationError(f"GLASSHOUSE_SERVER: {host} is another machine: expected https, saw http")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


def check_outside(outside: OutsideServer) -> None:
    """Raise `ConfigurationError` unless rows can be attested there. Starts nothing."""
    HostAttestation(outside).close()


def _meet(client: AttestationClient, url: str, *, server: Ed25519PublicKey, owner: Owner) -> None:
    where = f"GLASSHOUSE_SERVER {checked_url(url)}"
    try:
        published = client.published_keys(server)
    except InfrastructureError as error:
        raise ConfigurationError(f"{where}: {error}. Start one with `glasshouse serve`; nothing was started here") from None
    except (RefusedError, ProtocolError):
        raise ConfigurationError(f"{where}: expected an attestation server, saw something else; nothing was started") from None
    except IntegrityError:
        raise ConfigurationError(
            f"{where}: expected the server key {thumbprint(server)} that GLASSHOUSE_SERVER_KEY names, saw another server's; "
            "nothing was started"
        ) from None
    if published.owner != owner.kid:
        raise ConfigurationError(
            f"{where}: it works for the owner {published.owner}, GLASSHOUSE_OWNER_KEY is {owner.kid}; start it with "
            "--owner and this owner's public key, or name that owner's key. Nothing was started"
        )
