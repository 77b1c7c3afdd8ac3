"""`glasshouse reap`: find allocations of this project that a provider still lists, and end them.

It needs no ledger: an allocation's name holds its run and its deadline. A listing that fails never counts as empty.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError, CredentialsError, GlasshouseError, NotSetUpError
from pytest_glasshouse.run.exit_codes import EXIT_CLEANUP, EXIT_NO, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.providers.base import Instance, Provider
    from pytest_glasshouse.providers.lease import Lease, ParsedName


_REAP = """\
List the allocations of this project that a provider still has, then end them and prove that they are gone. Without
--expired that includes allocations of runs that are still going on, so it asks first; --expired takes only those whose
deadline, which is part of their name, is over: no run uses them any more, and a scheduled job may end them unasked.

exit codes: 0 nothing is left; 1 something is left and was not to be ended; 10 something may be left; 4 wrong usage
"""


@dataclass(frozen=True, kw_only=True)
class FoundAllocation:
    """One allocation a provider lists. `named` is None where its name has this project's prefix but no run and no deadline."""

    provider: Provider
    instance: Instance
    named: ParsedName | None

    def expired(self, now: float) -> bool:
        """Whether the deadline in its name is over."""
        return self.named is not None and now > self.named.deadline


def declare(commands: Commands) -> None:
    """Add the command."""
    from pytest_glasshouse.cli.own_machines import declare_machines
    from pytest_glasshouse.providers.registry import REMOTE

    reap = commands.add_parser(
        "reap",
        help="end allocations that were left behind",
        description=_REAP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    reap.add_argument(
        "--provider", action="append", choices=REMOTE, metavar="NAME",
        help=f"{' or '.join(REMOTE)}; repeatable (default: every one there is a key, a host or a GLASSHOUSE_SLURM_... for)",
    )  # fmt: skip
    reap.add_argument("--expired", action="store_true", help="only those whose deadline is over; asks nothing")
    reap.add_argument("--run", dest="run_id", metavar="RUN", help="only those of this run")
    reap.add_argument("--dry-run", action="store_true", help="list them and end nothing")
    reap.add_argument("--yes", action="store_true", help="end them without asking")
    reap.add_argument("--allow-simulated", action="store_true", help="accept a place that is not what it stands for")
    declare_machines(reap)
    reap.set_defaults(run=_reap, report_error_code=EXIT_USAGE)


def _reap(options: argparse.Namespace) -> int:
    doubts: list[str] = []
    found = list(_find(_providers(options), doubts))
    now = time.time()
    if options.run_id:
        found = [each for each in found if each.named is not None and each.named.run_id == options.run_id]
    mine = [each for each in found if each.named is not None and (not options.expired or each.expired(now))]
    for each in found:
        _write(_line(each, now, selected=each in mine))
    for doubt in doubts:
        _write(doubt)
    if doubts:
        problem = f"{len(mine)} found to end, but not every listing could be read: something may be left that costs money"
        _write(f"{problem}. Run it again, or look at the provider's console")
    elif not mine:
        _write("nothing to end")
    if not mine:
        return EXIT_CLEANUP if doubts else EXIT_OK
    if options.dry_run or not (options.expired or options.yes or _confirmed(len(mine))):
        _write(f"{len(mine)} left and not ended{'' if options.dry_run else '; --yes ends them'}")
        return EXIT_CLEANUP if doubts else EXIT_NO
    return max(_end(mine), EXIT_CLEANUP if doubts else EXIT_OK)


def _providers(options: argparse.Namespace) -> list[Provider]:
    from pytest_glasshouse.cli.own_machines import machines_of
    from pytest_glasshouse.providers.registry import PLACES, REMOTE, open_provider

    allowed = options.allow_simulated or os.environ.get("GLASSHOUSE_ALLOW_SIMULATED", "").lower() in ("1", "yes", "true", "on")
    machines = machines_of(options)
    opened = []
    for name in options.provider or [each for each in REMOTE if PLACES[each].is_meant_by(machines)]:
        try:
            opened.append(open_provider(name, allow_simulated=allowed, machines=machines))
        except (CredentialsError, NotSetUpError):
            if options.provider:
                raise
    if not opened:
        expected = "RUNPOD_API_KEY, VAST_API_KEY, --host or --provider slurm"
        raise ConfigurationError(f"no provider to look at: expected {expected}, saw none")
    return opened


def _find(providers: list[Provider], doubts: list[str]) -> Iterator[FoundAllocation]:
    from pytest_glasshouse.providers.lease import parse_name

    for provider in providers:
        for instance in _listed(provider, doubts):
            if instance.state != "ended":
                yield FoundAllocation(provider=provider, instance=instance, named=parse_name(instance.name))


def _listed(provider: Provider, doubts: list[str]) -> list[Instance]:
    """What it lists, asked up to three times until it is whole. Whatever was seen counts; a doubt that remains is added."""
    from pytest_glasshouse.broker.timing import timing_of
    from pytest_glasshouse.errors import ProviderError
    from pytest_glasshouse.providers.listing import doubt_in

    poll_s = timing_of(provider).poll_s
    found: dict[str, Instance] = {}
    doubt = ""
    for pause_s in (poll_s, poll_s * 3, 0.0):
        try:
            shown = provider.list()
        except GlasshouseError as error:
            doubt = f"its listing failed, so what is left is not known: {error}"
            if not isinstance(error, ProviderError):
                break
        else:
            found |= {one.instance_id: one for one in shown}
            doubt = doubt_in(shown) and f"its listing may not be the whole, so more may be left: {doubt_in(shown)}"
            if not doubt:
                return list(shown)
        time.sleep(pause_s)
    doubts.append(f"{provider.name}: {doubt}")
    return list(found.values())


def _line(found: FoundAllocation, now: float, *, selected: bool) -> str:
    instance = found.instance
    price = "" if instance.price_usd_per_hour is None else f", {instance.price_usd_per_hour:.2f} USD per hour"
    if found.named is None:
        state = "its name has no run and no deadline; left alone"
    else:
        until = datetime.fromtimestamp(found.named.deadline, UTC)
        over = "expired" if found.expired(now) else "until"
        state = f"run {found.named.run_id}, {over} {until:%Y-%m-%d %H:%M:%S} UTC{'' if selected else '; left alone'}"
    shown = f"{printable(instance.instance_id, limit=64)}  {printable(instance.name, limit=80)}  {instance.state}"
    return f"{found.provider.name} {shown}{price}  {state}"


def _confirmed(count: int) -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input(f"glasshouse reap: end {'it' if count == 1 else f'these {count}'}? [yes/no] ").strip().lower() in ("y", "yes")


def _end(mine: list[FoundAllocation]) -> int:
    from pytest_glasshouse.broker.cleanup_proof import Termination
    from pytest_glasshouse.broker.timing import Clock, timing_of
    from pytest_glasshouse.providers.registry import manual_stop

    providers = {each.provider.name: each.provider for each in mine}
    timings = {p.name: timing_of(p) for p in providers.values()}
    leases = list({each.instance.name: _lease(each, mine) for each in mine}.values())
    verdicts = Termination(leases, providers=providers, timings=timings, clock=Clock(), ledger=None).prove()
    for verdict in verdicts:
        done = "ended" if verdict.status == "proven" else verdict.status.upper()
        _write(f"{done}: {printable(verdict.lease.name)}: {printable(verdict.reason, limit=1000)}")
        if verdict.status != "proven":
            for instance_id in sorted(verdict.lease.instance_ids):
                _write(f"  by hand: {manual_stop(verdict.lease.provider, instance_id)}")
    return EXIT_OK if all(verdict.status == "proven" for verdict in verdicts) else EXIT_CLEANUP


def _lease(found: FoundAllocation, mine: list[FoundAllocation]) -> Lease:
    from pytest_glasshouse.providers.lease import Lease

    same = {each.instance.instance_id for each in mine if each.instance.name == found.instance.name}
    return Lease(
        name=found.instance.name,
        provider=found.provider.name,
        intent_at=time.time(),
        deadline=float(found.named.deadline if found.named else 0),
        instance_ids=same,
        seen_listed=True,
    )


def _write(line: str) -> None:
    write_lines([f"glasshouse reap: {line}"])
