"""A server outside is met before anything else: the pinned key, the right owner, a connection that can be trusted."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pytest_glasshouse.attestation.http import ListeningServer, listen
from pytest_glasshouse.attestation.limits import Limits
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.legs.attestation import HostAttestation, OutsideServer, check_outside, checked_url
from pytest_glasshouse.owner.keyfiles import write_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.wire.tokens import public_text
from tests.service.certificate import certificate


def context(chain: Path, private: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(chain, private)
    return made


@pytest.fixture(name="owner")
def an_owner(tmp_path: Path) -> Owner:
    owner = Owner.generate()
    write_owner(tmp_path / "owner.key", owner)
    return owner


@pytest.fixture(name="tls")
def a_tls_server(owner: Owner, tmp_path: Path) -> Iterator[ListeningServer]:
    chain, private = certificate(tmp_path)
    server = AttestationServer(owner=owner.public)
    listening = listen(server, ("127.0.0.1", 0), limits=Limits(), tls=context(chain, private))
    yield listening
    listening.close()


@pytest.fixture(name="outside")
def server_settings(tls: ListeningServer, tmp_path: Path) -> OutsideServer:
    key = public_text(tls.public_key)
    return OutsideServer(url=tls.url, key=key, owner_key=tmp_path / "owner.key", authority=tmp_path / "certificate.pem")


def test_a_server_is_reached_over_tls(outside: OutsideServer, tls: ListeningServer, owner: Owner) -> None:
    assert outside.url.startswith("https://")
    host_attestation = HostAttestation(outside)
    assert (host_attestation.place, host_attestation.owner.kid, host_attestation.server_hpke) == (
        "outside",
        owner.kid,
        tls.hpke_public,
    )
    host_attestation.close()


def test_a_certificate_of_an_unknown_authority_is_refused(outside: OutsideServer) -> None:
    with pytest.raises(ConfigurationError, match=r"did not answer: its .*certificate is not valid here"):
        check_outside(replace(outside, authority=None))


def test_a_certificate_for_another_name_is_refused(owner: Owner, tmp_path: Path) -> None:
    chain, private = certificate(tmp_path, name="192.0.2.7")
    server = AttestationServer(owner=owner.public)
    tls = listen(server, ("127.0.0.1", 0), limits=Limits(), tls=context(chain, private))
    outside = OutsideServer(url=tls.url, key=public_text(tls.public_key), owner_key=tmp_path / "owner.key", authority=chain)
    with pytest.raises(ConfigurationError, match="certificate is not valid here"):
        check_outside(outside)
    tls.close()


def test_http_to_a_tls_server_is_refused(outside: OutsideServer) -> None:
    with pytest.raises(ConfigurationError, match="nothing was started"):
        check_outside(replace(outside, url=outside.url.replace("https", "http")))


def test_another_servers_key_is_refused(outside: OutsideServer) -> None:
    """Even with the right certificate: TLS identifies the machine, the key identifies the server."""
    with pytest.raises(ConfigurationError, match="another server's"):
        check_outside(replace(outside, key=Owner.generate().public_text))


def test_another_owner_is_refused(outside: OutsideServer, owner: Owner, tmp_path: Path) -> None:
    write_owner(tmp_path / "other.key", Owner.generate())
    with pytest.raises(ConfigurationError, match=owner.kid):
        check_outside(replace(outside, owner_key=tmp_path / "other.key"))


@pytest.mark.parametrize(
    ("url", "expected"), [("https://Example.org/", "https://example.org"), ("http://[::1]:5", "http://[::1]:5")]
)
def test_a_url_is_read(url: str, expected: str) -> None:
    assert checked_url(url) == expected


def test_releases_that_were_asked_for_and_not_completed_are_outstanding(outside: OutsideServer) -> None:
    """Also when the server cannot be asked any more: a key may be out."""
    host_attestation = HostAttestation(outside)
    for nonce in ("a", "b", "c"):
        host_attestation.awaiting(nonce=nonce, sub="s", run="r", manifest="m", completion_s=60)
    host_attestation.settled("b")
    host_attestation.settled("never asked")
    assert [each["nonce"] for each in host_attestation.outstanding()] == ["a", "c"]
    assert {each["deadline"] - each["released_at"] for each in host_attestation.outstanding()} == {60}  # type: ignore[operator]
    host_attestation.close()


def test_an_embedded_server_is_not_shared(owner: Owner) -> None:
    first, second = HostAttestation(), HostAttestation()
    assert first.place == "embedded"
    assert len({first.owner.kid, second.owner.kid, owner.kid}) == 3
    first.close()
    second.close()


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (404, b"not here")])
def test_what_is_no_attestation_server_is_refused(owner: Owner, tmp_path: Path, status: int, body: bytes) -> None:
    """A URL of something else: no row is started that would end at its first request."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        serving = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        outside = OutsideServer(
            url=f"http://127.0.0.1:{other.server_port}", key=owner.public_text, owner_key=tmp_path / "owner.key"
        )
        try:
            with pytest.raises(
                ConfigurationError, match="expected an attestation server, saw something else; nothing was started"
            ):
                check_outside(outside)
        finally:
            other.shutdown()
            serving.join()
