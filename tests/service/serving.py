"""A real `glasshouse serve` on loopback, and a stage whose server it is."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_glasshouse.attestation.ledger import ReleaseLedger
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.owner.keyfiles import write_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.tamper.testbed import TamperTestbed
from pytest_glasshouse.wire.tokens import public_key, thumbprint
from tests.limits import HANG_S


class Serving:
    """The server's process. `state` is its directory; the owner's key lies beside it."""

    def __init__(self, folder: Path, *options: str, owner: Owner | None = None) -> None:
        self.owner = owner or Owner.generate()
        self.state, self.owner_key, self.audit = folder / "state", folder / "owner.key", folder / "audit.jsonl"
        self._stderr = folder / "stderr"
        self._options = options
        self.owner_public = write_owner(self.owner_key, self.owner)
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start, the second time on the same port, and wait until it prints its address."""
        command = [
            sys.executable, "-m", "pytest_glasshouse", "serve", "--owner", str(self.owner_public), "--state", str(self.state),
            "--port", str(self.port), "--audit", str(self.audit), "--rate", "0", *self._options,
        ]  # fmt: skip
        with self._stderr.open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL)
        self.started_line = self._line()
        found = re.fullmatch(r"glasshouse serve: (https?://\S+:(\d+)) key (\S+)\n", self.started_line)
        assert found, (self.started_line, self._stderr.read_text())
        self.url, self.port, self.key = found[1], int(found[2]), found[3]

    def _line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], HANG_S)
        return self.process.stdout.readline().decode() if ready else ""

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(how)
        code = self.process.wait(HANG_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    @property
    def errors(self) -> str:
        return self._stderr.read_text()

    @contextlib.contextmanager
    def ledger(self) -> Iterator[ReleaseLedger]:
        """Its ledger, while it is down."""
        with contextlib.closing(ReleaseLedger(self.state / "ledger.sqlite3")) as ledger:
            yield ledger

    def environment(self) -> dict[str, str]:
        """The environment variables that make pytest use it."""
        return {
            **os.environ,
            "GLASSHOUSE_SERVER": self.url,
            "GLASSHOUSE_SERVER_KEY": str(self.state / "server.pub"),
            "GLASSHOUSE_OWNER_KEY": str(self.owner_key),
        }


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Serving]:
    """A server that is gone afterwards, whatever happens."""
    server = Serving(folder, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


class ServedTestbed(TamperTestbed):
    """The stage of the tamper suite, on a server that is a process of its own. Its clock is the machine's."""

    def __init__(self, server: Serving) -> None:
        self.outside = server
        super().__init__()
        self.client = AttestationClient(self.embedded.url, timeout_s=HANG_S)

    def _serve(self) -> Any:
        self.owner, self.now = self.outside.owner, int(time.time())
        self.sealed = self.seal()
        key = public_key(self.outside.key)
        client = AttestationClient(self.outside.url, timeout_s=HANG_S)
        published = client.published_keys(key)
        return SimpleNamespace(
            url=self.outside.url,
            public_key=key,
            hpke_public=published.hpke,
            # How many keys left is known to the server only; cases here are judged by its audit log.
            server=SimpleNamespace(kid=thumbprint(key), releases=lambda: 0),
            close=lambda: None,
        )

    def reconnect(self, *subs: str) -> None:
        """After a restart: the owner registers again, guests enrol again."""
        sealed = self.sealed
        self.embedded = self._serve()
        self.sealed = sealed
        self.client = AttestationClient(self.embedded.url, timeout_s=HANG_S)
        self.register(self.sealed, self.policy)
        for sub in subs:
            self.enrol(sub)
