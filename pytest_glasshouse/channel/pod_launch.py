"""The launch of a rented guest: SSH keys, deadline, and the code of its first process.

One set of keys per allocation. The provider sees the launch, so its keys open this allocation alone: the host key and the
watchdog's settings. The account's key and the SSH client's private key stay here.
"""

from __future__ import annotations

import ast
import base64
import importlib.resources
import json
import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.pod_init import SETTINGS

if TYPE_CHECKING:
    from pytest_glasshouse.channel.pod_init import PodSettings

#: How long a guest runs without contact from its host: far longer than `RECONNECT_S`.
LEASE_S = 900.0
#: The variable that carries the first process's code.
CODE = "GLASSHOUSE_INIT"

#: In CPython 3.11, two threads that parse at the same time can disturb each other: `SystemError`.
_PARSING = threading.Lock()
_START = f"import os,base64,zlib;exec(zlib.decompress(base64.b64decode(os.environ['{CODE}'])).decode())"


@dataclass(frozen=True, kw_only=True)
class PodKeys:
    """The run's SSH keys for one allocation, in OpenSSH's text forms. `repr` shows the public halves."""

    client_private: str = field(repr=False)
    client_public: str
    host_private: str = field(repr=False)
    host_public: str


def new_keys() -> PodKeys:
    """Two Ed25519 key pairs: the client's and the host key."""
    client, host = _pair(), _pair()
    return PodKeys(client_private=client[0], client_public=client[1], host_private=host[0], host_public=host[1])


def pod_environment(
    keys: PodKeys,
    *,
    deadline: float,
    contact_by: float,
    ends: str,
    api: str,
    lease_s: float = LEASE_S,
) -> dict[str, str]:
    """The variables of the guest's first process; `deadline` and `contact_by` in seconds since the epoch.

    `api` is the address at which the instance ends itself, with the key the provider gave it for that.
    """
    settings: PodSettings = {
        "deadline": deadline,
        "contact_by": contact_by,
        "lease_s": lease_s,
        "host_key": keys.host_private,
        "authorized_key": keys.client_public,
        "ends": ends,
        "api": api,
    }
    code = (importlib.resources.files("pytest_glasshouse.channel") / "pod_init.py").read_bytes()
    return {
        SETTINGS: base64.b64encode(json.dumps(settings).encode()).decode(),
        CODE: base64.b64encode(zlib.compress(bare(code.decode()).encode(), 9)).decode(),
    }


def bare(source: str) -> str:
    """Python source without docstrings, comment lines and empty lines: the size of a launch is limited."""
    documentation: set[int] = set()
    with _PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documentation.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = (line for number, line in enumerate(source.splitlines(), 1) if number not in documentation)
    return "".join(f"{line}\n" for line in lines if line.strip() and not line.lstrip().startswith("#"))


def pod_start() -> tuple[str, ...]:
    """The command of the guest's first process. The image needs Python 3, and OpenSSH's server."""
    return ("python3", "-I", "-S", "-c", _START)


def _pair() -> tuple[str, str]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private.decode(), public.decode()
