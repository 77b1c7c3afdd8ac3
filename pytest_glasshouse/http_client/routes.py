"""The proxy and the CA certificates for a URL, from the environment.

The variables are read as `requests` reads them, so that every client of this project and a provider's SDK use the same proxies:
`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` in both spellings, `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE`; besides
these `SSL_CERT_FILE` and `SSL_CERT_DIR`. A proxy's password is shown nowhere.
"""

from __future__ import annotations

import base64
import importlib.util
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    import urllib3

_SOCKS = {"socks4", "socks4a", "socks5", "socks5h"}
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}")


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """One proxy: its `url` without credentials, and its credentials as `user:password`, or empty."""

    url: str = field(repr=False)
    credentials: str = field(repr=False, default="")


class Routes:
    """Proxies and trusted certificates. `environ` is read anew for every request; with None no variable and no proxy is used.

    With `authority`, a PEM file, only its certificates are trusted.
    """

    def __init__(self, environ: Mapping[str, str] | None, *, authority: Path | None = None) -> None:
        self._environ: Mapping[str, str] = {} if environ is None else environ
        self._authority = authority

    def pool(self, url: str) -> urllib3.PoolManager:
        """A connection pool for `url`. Raises `ConfigurationError` for variables that name no proxy or no certificates."""
        import urllib3

        trusted = self._trusted() if urlsplit(url).scheme == "https" else None
        proxy = self.proxy(url)
        if proxy is None:
            return urllib3.PoolManager(num_pools=1, ssl_context=trusted)
        if urlsplit(proxy.url).scheme in _SOCKS:
            from urllib3.contrib.socks import SOCKSProxyManager

            user, _, password = proxy.credentials.partition(":")
            return SOCKSProxyManager(proxy.url, username=user or None, password=password or None, ssl_context=trusted)
        return urllib3.ProxyManager(
            proxy.url,
            num_pools=1,
            ssl_context=trusted,
            proxy_ssl_context=self._trusted() if proxy.url.startswith("https:") else None,
            proxy_headers=urllib3.make_headers(proxy_basic_auth=proxy.credentials) if proxy.credentials else None,
        )

    def proxy(self, url: str) -> Proxy | None:
        """The proxy for `url`, or None. Raises `ConfigurationError` for a variable that is no proxy's URL."""
        proxies = _variables(self._environ)
        split = urlsplit(url)
        name = next((each for each in (split.scheme, "all") if proxies.get(each)), "")
        if not name or _bypassed(split.hostname or "", split.port, proxies.get("no", "")):
            return None
        found = _read(proxies.pop(name))
        del proxies
        if found is None:
            raise ConfigurationError(
                f"{name.upper()}_PROXY: expected the URL of a proxy, such as http://proxy.example:3128; saw something else. "
                "Nothing was asked"
            )
        if urlsplit(found.url).scheme in _SOCKS and importlib.util.find_spec("socks") is None:
            raise ConfigurationError(f"{name.upper()}_PROXY: a SOCKS proxy needs PySocks; pip install it. Nothing was asked")
        return found

    def secrets(self, url: str) -> tuple[str, ...]:
        """What no text may show: the credentials of the proxy for `url`, in each form that an answer may repeat."""
        try:
            proxy = self.proxy(url)
        except ConfigurationError:
            return ()
        if proxy is None or not proxy.credentials:
            return ()
        return (proxy.credentials, proxy.credentials.partition(":")[2], base64.b64encode(proxy.credentials.encode()).decode())

    def _trusted(self) -> ssl.SSLContext:
        source, paths = self._authorities()
        found = _context(paths, tuple(map(_stamp, paths)))
        if found is None:
            raise ConfigurationError(
                f"{source}: expected a PEM file or a directory of CA certificates; saw none there. Nothing was asked"
            )
        return found

    def _authorities(self) -> tuple[str, tuple[str, ...]]:
        """The trusted CA certificates: the variable that names them, and their files and directories."""
        if self._authority is not None:
            return "the authority", (str(self._authority),)
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            if self._environ.get(name):
                return name, (self._environ[name],)
        usual = ssl.get_default_verify_paths()
        file, folder = self._environ.get("SSL_CERT_FILE", ""), self._environ.get("SSL_CERT_DIR", "")
        own = [file or usual.openssl_cafile, *(folder or usual.openssl_capath).split(os.pathsep)]
        there = tuple(each for each in own if each == file or Path(each).exists())
        return ("SSL_CERT_FILE or SSL_CERT_DIR", there) if file or folder else ("this system's store", (*there, *_certifi()))


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Proxies by scheme (`all` for any, `no` for the hosts without one). The lower-case name wins."""
    found: dict[str, str] = {}
    for name in sorted(environ, key=str.islower):
        if name.lower().endswith("_proxy"):
            found[name.lower().removesuffix("_proxy")] = environ[name].strip()
    if "REQUEST_METHOD" in environ and "http_proxy" not in environ:
        # In a CGI script HTTP_PROXY is a request's `Proxy` header.
        found.pop("http", None)
    return found


def _bypassed(host: str, port: int | None, listed: str) -> bool:
    """Whether `NO_PROXY` names this host: by name or parent domain, with or without port, by address or network, or `*`."""
    host = host.lower().rstrip(".")
    address = _address(host)
    for entry in listed.lower().replace(" ", ",").split(","):
        name = entry.strip("[]").removeprefix(".").rstrip(".")
        if not name:
            continue
        if name in {"*", host} or (port and f"{host}:{port}" == name.replace("]", "")):
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:
                continue
        elif host.endswith("." + name.partition(":")[0]) and name.partition(":")[2] in {"", str(port)}:
            return True
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _read(text: str) -> Proxy | None:
    """The proxy that `text` names; without a scheme an http proxy. None for what is no URL of one."""
    try:
        split = urlsplit(text if "://" in text else f"http://{text}")
        host, port = split.hostname or "", split.port
    except ValueError:
        return None
    if split.scheme not in {"http", "https", *_SOCKS} or not _HOST.fullmatch(host) or split.path not in {"", "/"} or split.query:
        return None
    where = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    credentials = f"{unquote(split.username or '')}:{unquote(split.password or '')}" if split.username else ""
    if not credentials.isprintable():
        return None
    return Proxy(url=f"{split.scheme}://{where}", credentials=credentials)


def _stamp(path: str) -> int:
    """When a bundle was changed, so that a replaced one is read again."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return -1


def _certifi() -> tuple[str, ...]:
    """The certificates that `requests` trusts, where certifi is installed."""
    if importlib.util.find_spec("certifi") is None:
        return ()
    import certifi

    return (certifi.where(),)


@lru_cache(maxsize=8)
def _context(paths: tuple[str, ...], _changed: tuple[int, ...]) -> ssl.SSLContext | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        for path in paths:
            if Path(path).is_dir():
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(path)
    except (OSError, ValueError):
        return None
    return context
