"""Proxies and certificate authorities come from the environment: which proxy, for which hosts, and which authorities are trusted."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import os
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError
from pytest_glasshouse.http_client.exchange import AnswerLimits, NoAnswerError, exchange
from pytest_glasshouse.http_client.routes import Routes
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.providers.http_api import NotSentError
from pytest_glasshouse.providers.registry import open_runpod
from pytest_glasshouse.providers.vastai import open_vastai
from tests.loopback.http import LoopbackServer
from tests.loopback.providers import runpod, vastai
from tests.loopback.proxy import Proxy
from tests.service.certificate import certificate

PASSWORD = "pa55:w/rd@of-the-proxy"
WRONG = "wrong-password"
QUOTED = "pa55%3Aw%2Frd%40of-the-proxy"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


@pytest.fixture(name="secure")
def server_with_a_certificate_of_its_own(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Its address, and the certificate file of its authority."""
    chain, private = certificate(tmp_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "11")
            self.end_headers()
            self.wfile.write(b'{"pods": []')

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, private)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}", chain
    server.shutdown()
    server.server_close()


def _shown(error: BaseException) -> str:
    """What a traceback with local variables shows of the package: the frames of this file hold the secret themselves."""
    captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    return str(error) + "".join(f"{each.line}{each.locals}" for each in captured.stack if each.filename != __file__)


def _get(url: str, **environ: str) -> bytes:
    return exchange("GET", url, routes=Routes(environ)).body


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_private_certificate_authority_is_trusted_where_the_environment_names_it(secure: tuple[str, Path], name: str) -> None:
    url, chain = secure
    assert _get(url, **{name: str(chain)}) == b'{"pods": []'
    with pytest.raises(NoAnswerError, match="certificate is not valid here") as caught:
        _get(url)
    assert not caught.value.sent


def test_a_folder_of_certificate_authorities_is_trusted_too(secure: tuple[str, Path], tmp_path: Path) -> None:
    url, chain = secure
    folder = tmp_path / "authorities"
    folder.mkdir()
    result = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", str(chain)], capture_output=True, text=True, check=True)
    (folder / f"{result.stdout.strip()}.0").write_bytes(chain.read_bytes())
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"):
        assert _get(url, **{name: str(folder)}) == b'{"pods": []'


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_an_invalid_ca_bundle_is_a_configuration_error(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"expected a PEM file.*Nothing was asked"):
        _get("https://127.0.0.1:9/", **{name: str(path)})


def test_a_ca_bundle_that_is_replaced_is_read_again(secure: tuple[str, Path], tmp_path: Path) -> None:
    url, chain = secure
    (tmp_path / "other").mkdir()
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(certificate(tmp_path / "other")[0].read_bytes())
    os.utime(bundle, (1, 1))
    with pytest.raises(NoAnswerError):
        _get(url, SSL_CERT_FILE=str(bundle))
    bundle.write_bytes(chain.read_bytes())
    assert _get(url, SSL_CERT_FILE=str(bundle)) == b'{"pods": []'


def test_a_named_certificate_authority_is_the_only_one_trusted(secure: tuple[str, Path], tmp_path: Path) -> None:
    """Where the attestation server's certificate is given, the environment's authorities are not trusted for it."""
    url, chain = secure
    (tmp_path / "other").mkdir()
    other, _ = certificate(tmp_path / "other")
    environ = {"SSL_CERT_FILE": str(chain)}
    assert exchange("GET", url, routes=Routes(environ, authority=chain)).status == 200
    with pytest.raises(NoAnswerError, match="certificate"):
        exchange("GET", url, routes=Routes(environ, authority=other))


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_https_goes_through_a_tunnel_of_the_proxy(secure: tuple[str, Path], proxy: Proxy, name: str) -> None:
    url, chain = secure
    assert _get(f"{url}/where", SSL_CERT_FILE=str(chain), **{name: proxy.url}) == b'{"pods": []'
    assert [line.rpartition(" ")[0] for line in proxy.asked] == [f"CONNECT {url.removeprefix('https://')}"]
    assert "where" not in "".join(proxy.heads)


def test_credentials_of_a_proxy_go_to_it_and_nowhere_else(secure: tuple[str, Path]) -> None:
    url, chain = secure
    with Proxy(f"me:{PASSWORD}") as proxy:
        right, wrong = (proxy.url.replace("//", f"//me:{password}@") for password in (QUOTED, WRONG))
        assert _get(url, SSL_CERT_FILE=str(chain), HTTPS_PROXY=right) == b'{"pods": []'
        for url_ in (wrong, proxy.url):
            with pytest.raises(NoAnswerError, match="refuses its credentials") as caught:
                _get(url, SSL_CERT_FILE=str(chain), HTTPS_PROXY=url_)
            assert not caught.value.sent
            assert WRONG not in _shown(caught.value)


@pytest.mark.parametrize(
    ("host", "listed", "direct"),
    [
        ("api.runpod.io", "runpod.io", True),
        ("api.runpod.io", ".runpod.io", True),
        ("api.runpod.io", "api.runpod.io:443", True),
        ("api.runpod.io", "api.runpod.io:80", False),
        ("api.runpod.io", "RUNPOD.IO", True),
        ("api.runpod.io", "odd.example, runpod.io", True),
        ("api.runpod.io", "*", True),
        ("api.runpod.io", "unpod.io", False),
        ("api.runpod.io", "io.runpod", False),
        ("api.runpod.io", "", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("[fd00::1]", "fd00::/8", True),
        ("[fd00::1]", "[fd00::1]", True),
        ("127.0.0.1", "localhost", False),
    ],
)
def test_no_proxy_names_the_hosts_without_one(host: str, listed: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        found = Routes({"HTTPS_PROXY": "http://proxy.example:3128", name: listed}).proxy(f"https://{host}:443/")
        assert (found is None) == direct


def test_lower_case_proxy_variables_come_first_and_a_schemes_before_all_proxy() -> None:
    def where(url: str, **environ: str) -> str | None:
        found = Routes(environ).proxy(url)
        return None if found is None else found.url

    assert where("https://h/", HTTPS_PROXY="http://a:1", https_proxy="http://b:1") == "http://b:1"
    assert where("https://h/", HTTPS_PROXY="http://a:1", ALL_PROXY="http://b:1") == "http://a:1"
    assert where("http://h/", HTTPS_PROXY="http://a:1") is None
    assert where("https://h/", HTTPS_PROXY="") is None
    assert where("https://h/", HTTPS_PROXY="proxy.example:3128") == "http://proxy.example:3128"
    assert where("https://h/", HTTPS_PROXY="http://[::1]:3128/") == "http://[::1]:3128"
    assert where("http://h/", HTTP_PROXY="http://a:1", REQUEST_METHOD="GET") is None


@pytest.mark.parametrize(
    "value",
    [
        "http://",
        "ftp://proxy:1",
        f"http://me:{QUOTED}@",
        f"http://me:{QUOTED}@host:99999",
        "http://h\nX: y",
        f"//me:{QUOTED}@x/y",
    ],
)
def test_an_invalid_proxy_is_a_configuration_error_that_does_not_repeat_it(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY: expected.*Nothing was asked") as caught:
        Routes({"HTTPS_PROXY": value}).proxy("https://h/")
    assert QUOTED not in _shown(caught.value)


def test_a_socks_proxy_is_an_error_that_names_the_missing_package() -> None:
    if importlib.util.find_spec("socks") is None:
        with pytest.raises(ConfigurationError, match="PySocks"):
            Routes({"ALL_PROXY": "socks5h://127.0.0.1:9"}).proxy("https://h/")
    else:
        assert Routes({"ALL_PROXY": "socks5h://127.0.0.1:9"}).proxy("https://h/") is not None


@pytest.mark.parametrize("kind", ["rest", "sdk", "vastai"])
def test_every_provider_client_uses_the_same_proxy(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a company's proxy the one would rent and the other not be able to end it."""
    make: Any = vastai if kind == "vastai" else runpod
    with Proxy(f"me:{PASSWORD}") as proxy, make(pods="none") as server:
        provider = _open(kind, server, monkeypatch, HTTP_PROXY=proxy.url.replace("//", f"//me:{QUOTED}@"))
        assert provider.list() == ()
        assert len(proxy.asked) == len(server.requests) == 1
        assert proxy.asked[0].split()[1].startswith(server.url)
        assert {PASSWORD, f"me:{PASSWORD}"} <= set(provider.secrets())
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        direct = _open(kind, server, monkeypatch, HTTP_PROXY=proxy.url, NO_PROXY="127.0.0.1")
        assert (direct.list(), len(proxy.asked)) == ((), 1)
        refused = _open(kind, server, monkeypatch, HTTP_PROXY=proxy.url.replace("//", "//me:" + WRONG + "@"))
        before = len(server.requests)
        for ask in (refused.list, refused.account):
            with pytest.raises(NotSentError) as caught:
                ask()
            assert WRONG not in str(caught.value)
        assert len(server.requests) == before


def _open(kind: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, **environ: str) -> Any:
    own = {"VAST_API_KEY": server.cloud.account_key, "VAST_URL": server.url}
    if kind != "vastai":
        own = {"RUNPOD_API_KEY": server.cloud.account_key, "RUNPOD_API_BASE_URL": server.url, "GLASSHOUSE_RUNPOD_API": kind}
    monkeypatch.setenv("RUNPOD_API_BASE_URL", server.url)
    return (open_vastai if kind == "vastai" else open_runpod)({**own, **environ})


def test_requests_to_the_embedded_server_ignore_proxies(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are released there: no proxy may be in between. An outside server is reached through the environment's proxy."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    for environ in (None, {"HTTP_PROXY": proxy.url}):
        with pytest.raises(GlasshouseError):
            AttestationClient("http://127.0.0.1:9", environ=environ).ask("/v1/challenge", {})
        assert len(proxy.asked) == (0 if environ is None else 1)


def test_the_reaper_uses_the_proxy_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlives the run and has nothing but its environment; without the proxy it would end nothing."""
    from pytest_glasshouse.broker.lease_ledger import LEDGER, LeaseLedger
    from pytest_glasshouse.broker.reaper import Reaper
    from pytest_glasshouse.broker.timing import Timing
    from pytest_glasshouse.providers.lease import Lease
    from tests.loopback.cloud import Order

    with Proxy() as proxy, runpod(pods="none") as server:
        name = "glasshouse-proxied-1-1900000000"
        order = Order(name=name, image="x", gpu="NVIDIA RTX A4000", command=(), env={}, ports=(), disk_gb=10)
        made = server.cloud.create(order, None)
        for variable, value in {
            "RUNPOD_API_BASE_URL": server.url,
            "RUNPOD_API_KEY": server.cloud.account_key,
            "HTTP_PROXY": proxy.url,
        }.items():
            monkeypatch.setenv(variable, value)
        for variable in ("NO_PROXY", "no_proxy", "http_proxy", "GLASSHOUSE_RUNPOD_API"):
            monkeypatch.delenv(variable, raising=False)
        ledger = LeaseLedger(tmp_path / LEDGER)
        ledger.intent(Lease(name=name, provider="runpod", deadline=1_900_000_000.0), base_url=server.url)
        ledger.write("created", name=name, instance=made.instance_id)
        timing = Timing(poll_s=0.05, search_s=0.1, settle_s=0.1, give_up_s=20.0)
        reaper = Reaper.start(ledger.path, timing=timing, allow_simulated=True)
        reaper.dismiss(wait=True)
        assert server.cloud.billing() == ()
        assert len(proxy.asked) == len(server.requests)
        assert any(line.startswith("DELETE ") for line in proxy.asked)


def test_routes_and_reader_load_no_http_library_before_they_are_used() -> None:
    code = "import sys, pytest_glasshouse.http_client.exchange, pytest_glasshouse.http_client.routes; print('urllib3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_a_tunnelled_answer_has_its_deadline_too(tmp_path: Path, proxy: Proxy) -> None:
    """What is cut lies two layers below what is read."""
    chain, private = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, private)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as inside:
                inside.recv(65536)
                while not over.wait(0.05):
                    inside.sendall(b"x")

        threading.Thread(target=drip, daemon=True).start()
        routes = Routes({"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(chain)})
        with pytest.raises(NoAnswerError, match="longer than 1 s") as caught:
            exchange("GET", f"https://127.0.0.1:{listener.getsockname()[1]}/", routes=routes, limits=AnswerLimits(whole_s=1.0))
        assert caught.value.sent
        over.set()
