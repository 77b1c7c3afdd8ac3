"""Addresses of guests: a unix socket on this machine, an SSH endpoint, or a job.

Host, port and user name come from a provider and are written to a configuration of `ssh`, so each is a type that can hold
nothing else.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Self

from pytest_glasshouse.errors import IntegrityError

#: RFC 1123, section 2.1: letters, digits and dashes in labels of 1 to 63, none of which begins or ends with a dash.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
#: What a resolver reads as a number: `127.1`, `0x7f000001`. An address has one spelling here, and no host name ends in one.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LONGEST_NAME = 253
#: POSIX, Base Definitions 3.437: portable file name characters, the first of which is not a dash.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}")
#: Characters without a meaning in `ssh -L`: no colon, no backslash, no dollar sign, no bracket, no quote.
_SOCKET = re.compile(r"(?:/[A-Za-z0-9 ._@+,=%-]+)+")
_SSH_NAME = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.@:/%+\[\]-]*")
#: `sun_path` holds 108 bytes.
_LONGEST_SOCKET = 107
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_JOB = re.compile(r"[0-9]{1,12}")
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65535


class Host(str):
    """An IP address without a zone, in its usual spelling, or a host name of RFC 1123 in lower case."""

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Raises `IntegrityError` (`malformed`), whose text does not show the value: it may contain an endpoint."""
        if isinstance(text, str) and text.isascii() and 0 < len(text) <= _LONGEST_NAME:
            return super().__new__(cls, _address(text) or _name(text))
        raise IntegrityError("malformed", f"expected an IP address or a host name, saw {_kind(text)}")


class Port(int):
    """A TCP port: 1 to 65535."""

    __slots__ = ()

    def __new__(cls, number: object) -> Self:
        """From an integer. Raises `IntegrityError` (`malformed`)."""
        if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= _LAST_PORT:
            return super().__new__(cls, number)
        raise IntegrityError("malformed", f"expected a port from 1 to {_LAST_PORT}, saw {_kind(number)}")

    @classmethod
    def spelled(cls, text: object) -> Self:
        """From ASCII digits alone, or an integer."""
        return cls(int(text) if isinstance(text, str) and _PORT.fullmatch(text) else text)


class UserName(str):
    """A POSIX user name of at most 32 characters."""

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Raises `IntegrityError` (`malformed`)."""
        if isinstance(text, str) and _USER.fullmatch(text):
            return super().__new__(cls, text)
        raise IntegrityError("malformed", f"expected a user name of letters, digits, dots and dashes, saw {_kind(text)}")


class SshName(str):
    """What the user calls a host: an alias of the own configuration, `user@host`, or an `ssh://` URL. Never an option."""

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Raises `IntegrityError` (`malformed`)."""
        if isinstance(text, str) and len(text) <= _LONGEST_NAME and _SSH_NAME.fullmatch(text):
            return super().__new__(cls, text)
        raise IntegrityError("malformed", f"expected the name of a host as `ssh` takes it, saw {_kind(text)}")


class RemoteSocket(str):
    """A path as the guest reports it, such as of the agent's socket: absolute, of plain characters, without `..`."""

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Raises `IntegrityError` (`malformed`)."""
        if isinstance(text, str) and len(text) <= _LONGEST_SOCKET and _SOCKET.fullmatch(text) and ".." not in text.split("/"):
            return super().__new__(cls, text)
        raise IntegrityError("malformed", f"expected the path of a socket, saw {_kind(text)}")


@dataclass(frozen=True, kw_only=True)
class UnixAccess:
    """A guest on this machine: its agent's socket."""

    path: str


@dataclass(frozen=True, kw_only=True)
class SshAccess:
    """A remote guest: the endpoint of its `sshd`. An endpoint is never printed or published, so `repr` hides it.

    Accepts plain values and holds `Host`, `Port` and `UserName`. Raises `IntegrityError` (`malformed`).
    """

    host: str = field(repr=False)
    port: int = field(repr=False)
    user: str = "root"

    def __post_init__(self) -> None:
        for name, kind in (("host", Host), ("port", Port), ("user", UserName)):
            object.__setattr__(self, name, kind(getattr(self, name)))


class NodeName(str):
    """A node of a batch system, as its listing shows it: letters, digits, dots and dashes, no option of a program."""

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Raises `IntegrityError` (`malformed`)."""
        if isinstance(text, str) and _NODE.fullmatch(text):
            return super().__new__(cls, text)
        raise IntegrityError("malformed", f"expected the name of a node, saw {_kind(text)}")


@dataclass(frozen=True, kw_only=True)
class JobAccess:
    """A guest in a job of a batch system: the job's number and the node it runs on.

    Raises `IntegrityError` (`malformed`).
    """

    job_id: str
    node: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _JOB.fullmatch(self.job_id):
            raise IntegrityError("malformed", "expected a job's number")
        object.__setattr__(self, "node", NodeName(self.node))


@dataclass(frozen=True, kw_only=True)
class HostAccess:
    """A guest on a host of the user's own: its directory there. Which host that is, its route knows.

    Accepts a plain value and holds a `RemoteSocket`. Raises `IntegrityError` (`malformed`).
    """

    directory: str = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", RemoteSocket(self.directory))


Access = UnixAccess | SshAccess | HostAccess | JobAccess


def _address(text: str) -> str | None:
    """`text` as an IP address, or None. A zone (`fe80::1%eth0`) names an interface of this machine: refused."""
    if "%" in text:
        return None
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return str(getattr(found, "ipv4_mapped", None) or found)


def _name(text: str) -> str:
    labels = text.lower().split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or _NUMBER.fullmatch(labels[-1]):
        raise IntegrityError("malformed", f"expected an IP address or a host name, saw {_kind(text)}")
    return text.lower()


def _kind(value: object) -> str:
    """The kind of a value, without the value."""
    if isinstance(value, str):
        return f"another text, of {len(value)} characters"
    return "a number out of range" if type(value) is int else f"a value of type {type(value).__name__}"
