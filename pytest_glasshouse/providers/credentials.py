"""A provider's API key and base URL, from the environment or the provider's own file. A key is held as a `Secret` only.

Another base URL than the provider's own makes it simulated. The key travels over https, or to this machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pytest_glasshouse.errors import ConfigurationError, CredentialsError, IntegrityError
from pytest_glasshouse.wire.bounded_file import read_toml
from pytest_glasshouse.wire.own_file import check_own
from pytest_glasshouse.wire.secret import Secret

RUNPOD_URL = "https://api.runpod.io"
VAST_URL = "https://console.vast.ai"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def runpod_key(environ: Mapping[str, str]) -> Secret:
    """`RUNPOD_API_KEY`, or the SDK's `~/.runpod/config.toml`. Raises `CredentialsError`."""
    key = environ.get("RUNPOD_API_KEY", "").strip()
    path = Path(environ.get("HOME") or os.path.expanduser("~")) / ".runpod" / "config.toml"  # noqa: PTH111
    if not key and path.is_file():
        try:
            check_own(path, what="provider runpod", secret=True)
            found = read_toml(path).get("default", {}).get("api_key", "")
        except ConfigurationError as error:
            raise CredentialsError(str(error)) from None
        except (OSError, IntegrityError, AttributeError):
            raise CredentialsError(
                "provider runpod: ~/.runpod/config.toml is not the SDK's file; expected [default] with api_key, or RUNPOD_API_KEY"
            ) from None
        key = str(found).strip()
    return _secret(key, "runpod", "RUNPOD_API_KEY, or [default] api_key in ~/.runpod/config.toml")


def vast_key(environ: Mapping[str, str]) -> Secret:
    """`VAST_API_KEY`. Raises `CredentialsError`."""
    return _secret(environ.get("VAST_API_KEY", "").strip(), "vastai", "VAST_API_KEY")


def api_url(environ: Mapping[str, str], variable: str, own: str) -> str:
    """The URL in `variable`, or the provider's own. Raises `ConfigurationError` for one that would expose the key."""
    url = environ.get(variable, "").strip().rstrip("/") or own
    split = urlsplit(url)
    secure = split.scheme == "https" or (split.scheme == "http" and split.hostname in _LOOPBACK)
    if not secure or not split.hostname or split.username or split.query or split.fragment:
        raise ConfigurationError(
            f"{variable}: expected an https URL, or http on this machine, without user, query or fragment; unset it to use "
            "the provider's own"
        )
    return url


def _secret(key: str, provider: str, where: str) -> Secret:
    if not key:
        raise CredentialsError(f"provider {provider}: no API key; expected it in {where}. Make one in the provider's console")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CredentialsError(
            f"provider {provider}: what is in {where} is not a key (spaces or control characters); paste it again"
        )
    return Secret(key.encode())
