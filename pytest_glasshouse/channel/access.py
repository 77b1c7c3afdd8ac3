"""Where a guest can be reached. What reaches it is `reach` (elsewhere) or nothing at all (this machine)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class UnixAccess:
    """A guest on this machine: its agent's socket."""

    path: str


@dataclass(frozen=True, kw_only=True)
class SshAccess:
    """A guest elsewhere: where its `sshd` answers. An endpoint is never printed or published, so `repr` hides it."""

    host: str = field(repr=False)
    port: int = field(repr=False)
    user: str = "root"


Access = UnixAccess | SshAccess
