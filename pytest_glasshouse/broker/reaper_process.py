"""The reaper process: ends a run's allocations where the run cannot. It runs in a session of its own.

It waits for the end of its standard input, which only the run's process holds open, and for the deadlines in the run's ledger.
After either it ends what the ledger leaves open, and exits once that is proven. It survives a SIGKILL of the run; where it is
killed too, the guest's own watchdog and `glasshouse reap --expired` remain.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.broker.cleanup_proof import Termination
from pytest_glasshouse.broker.lease_ledger import LeaseLedger, read
from pytest_glasshouse.broker.timing import RENTED, Clock, Timing, timing_of
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.place_settings import OwnMachines
from pytest_glasshouse.providers.registry import open_provider
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.providers.base import Provider
    from pytest_glasshouse.providers.lease import Lease

_INTERVAL_S = 1.0
#: Where no timing was given: decides how long this process goes on, and when it takes a lease for overdue.
_DEFAULT = RENTED
_LONGEST_PAUSE_S = 60.0


class LedgerReaper:
    """Ends what one ledger leaves open."""

    def __init__(self, path: Path, *, timing: Timing | None, allow_simulated: bool, clock: Clock) -> None:
        self._path = path
        self._timing = timing
        self._allow_simulated = allow_simulated
        self._clock = clock
        self._providers: dict[str, Provider] = {}
        self._settled: set[str] = set()
        self._last_logged = ""

    def open_leases(self) -> list[Lease]:
        """The leases that the ledger does not prove to be over, less those about which no more can be learned."""
        return [lease for lease in read(self._path)[0].values() if not lease.over and lease.name not in self._settled]

    def overdue(self) -> list[Lease]:
        """The leases past their deadline whose run still lives: it is frozen, or its clock is wrong."""
        now, patience_s = self._clock.wall(), (self._timing or _DEFAULT).overdue_s
        return [lease for lease in self.open_leases() if now > lease.deadline + patience_s]

    def end(self, leases: Sequence[Lease]) -> bool:
        """Try to end these and prove it; return whether there is nothing more to do.

        A failure is logged once, and the caller tries again. What no listing ever showed can be ended and never proven.
        """
        bases = read(self._path)[1]
        mine = []
        for lease in leases:
            try:
                self._check(lease, bases[lease.name])
            except Exception as error:  # noqa: BLE001  (a key or an SDK that is gone: logged, and tried again)
                self._log(f"{lease.name}: {error}")
                continue
            lease.ambiguous = lease.ambiguous or not lease.instance_ids
            mine.append(lease)
        timings = {name: self._timing_of(provider) for name, provider in self._providers.items()}
        termination = Termination(
            mine, providers=self._providers, timings=timings, clock=self._clock, ledger=LeaseLedger(self._path)
        )
        try:
            verdicts = termination.prove()
        except Exception as error:  # noqa: BLE001  (this process must survive any error)
            self._log(f"{type(error).__name__}: {error}")
            return False
        for verdict in verdicts:
            self._log(f"{verdict.lease.name}: {verdict.status}: {verdict.reason}")
        self._settled |= {verdict.lease.name for verdict in verdicts if verdict.final}
        return len(mine) == len(leases) and all(verdict.final for verdict in verdicts)

    def _check(self, lease: Lease, base: str) -> None:
        if self._provider(lease.provider).base_url != base:
            raise ConfigurationError("expected the base URL it was created at, saw another one; set that one again")

    def _provider(self, name: str) -> Provider:
        if name not in self._providers:
            self._providers[name] = open_provider(
                name, allow_simulated=self._allow_simulated, machines=OwnMachines.from_environment(os.environ)
            )
        return self._providers[name]

    def _timing_of(self, provider: Provider) -> Timing:
        return self._timing or timing_of(provider)

    def _log(self, text: str) -> None:
        if text != self._last_logged:
            self._last_logged = text
            sys.stderr.write(f"{int(self._clock.wall())} {printable(text, limit=1000)}\n")
            sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Wait, end, prove. Exits with 0 once everything is proven, with 1 where the time for it is over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--timing", default="")
    parser.add_argument("--allow-simulated", action="store_true")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    timing = Timing.from_json(options.timing) if options.timing else None
    reaper = LedgerReaper(options.ledger, timing=timing, allow_simulated=options.allow_simulated, clock=Clock())
    with contextlib.suppress(OSError):
        os.write(1, b"+")
    os.close(1)
    _wait_for_the_run(reaper)
    return _finish(reaper, timing)


def _wait_for_the_run(reaper: LedgerReaper) -> None:
    while True:
        ready, _, _ = select.select([0], [], [], _INTERVAL_S)
        if ready and not os.read(0, 64):
            return
        if overdue := reaper.overdue():
            reaper.end(overdue)


def _finish(reaper: LedgerReaper, timing: Timing | None) -> int:
    grace_s = (timing or _DEFAULT).grace_s
    pause_s = 1.0
    while leases := reaper.open_leases():
        if reaper.end(leases):
            continue
        if time.time() > max(lease.deadline for lease in leases) + grace_s:
            return 1
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
