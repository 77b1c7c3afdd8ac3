"""`glasshouse doctor`: what would keep rows from running here or at a provider, one line each, with the fix.

It rents nothing: whether a key may create is asked with an empty order, which providers refuse. A check that could not be made is
shown as unknown, never as fine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.errors import ConfigurationError, CredentialsError, FundsError, GlasshouseError, NoCapacityError
from pytest_glasshouse.run.exit_codes import EXIT_NO, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.providers.base import Account, Provider
    from pytest_glasshouse.providers.place_settings import OwnMachines

#: A clock that is off by more than this makes deadlines in names mean something else at the provider.
SKEW_S = 30.0
_DISK_GB = 5.0
_LOCKED_BYTES = 256 << 20

_DOCTOR = """\
Check everything a run with this provider needs: one line each, whether it is there and else how to get it.
Nothing is rented or changed. Exit 0 when nothing is missing, 1 otherwise.
"""


@dataclass(frozen=True, kw_only=True)
class DoctorLine:
    """The result of one check. `warn` prevents no row from running."""

    mark: Literal["ok", "warn", "FAIL"]
    what: str
    detail: str
    fix: str = ""


def declare(commands: Commands) -> None:
    """Add the command."""
    from pytest_glasshouse.cli.own_machines import declare_machines
    from pytest_glasshouse.providers.registry import NAMES

    doctor = commands.add_parser(
        "doctor", help="look for what would keep rows from running", description=_DOCTOR,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    doctor.add_argument(
        "--provider", choices=NAMES, default="mock", metavar="NAME",
        help=f"mock (default), {', '.join(NAMES[1:-1])} or {NAMES[-1]}",
    )  # fmt: skip
    doctor.add_argument("--allow-simulated", action="store_true", help="accept a place that is not what it stands for")
    declare_machines(doctor)
    doctor.set_defaults(run=_doctor, report_error_code=EXIT_USAGE)


def _doctor(options: argparse.Namespace) -> int:
    from pytest_glasshouse.cli.own_machines import machines_of
    from pytest_glasshouse.providers.registry import PLACES

    allowed = options.allow_simulated or os.environ.get("GLASSHOUSE_ALLOW_SIMULATED", "").lower() in ("1", "yes", "true", "on")
    place = PLACES[options.provider]
    if place.on_this_machine:
        lines = list(_here(place.name))
    elif place.rents:
        lines = list(_renting(place.name, allow_simulated=allowed))
    else:
        lines = list(_own(place.name, machines_of(options), allow_simulated=allowed))
    for line in lines:
        fix = f" -> {line.fix}" if line.fix else ""
        write_lines([f"{line.mark:4}  {line.what}: {printable(line.detail, limit=1000)}{fix}"])
    return EXIT_NO if any(line.mark == "FAIL" for line in lines) else EXIT_OK


def _here(name: str) -> Iterator[DoctorLine]:
    yield _torch()
    if name == "local":
        yield _gpu()
    yield _socket()
    yield _disk()
    yield _locks()


def _own(name: str, machines: OwnMachines, *, allow_simulated: bool) -> Iterator[DoctorLine]:
    """A place that rents nothing and knows the way to its machines: what it says of itself."""
    from pytest_glasshouse.providers.base import Routed
    from pytest_glasshouse.providers.registry import open_provider

    try:
        provider = open_provider(name, allow_simulated=allow_simulated, machines=machines)
    except ConfigurationError as error:
        yield DoctorLine(mark="FAIL", what="provider", detail=str(error))
        return
    if isinstance(provider, Routed):
        for check in provider.checks():
            yield DoctorLine(mark=check.mark, what=check.what, detail=check.detail, fix=check.fix)
    yield _asked("leftovers", lambda: _leftovers(provider))
    yield _disk()


def _renting(name: str, *, allow_simulated: bool) -> Iterator[DoctorLine]:
    from pytest_glasshouse.providers.registry import open_provider

    yield _ssh()
    try:
        provider = open_provider(name, allow_simulated=allow_simulated)
    except ConfigurationError as error:
        yield DoctorLine(mark="FAIL", what="provider", detail=str(error))
        return
    if provider.simulated:
        yield DoctorLine(mark="warn", what="base URL", detail="not the provider's own: simulated, its rows are dry runs")
    try:
        before, account, after = time.time(), provider.account(), time.time()
    except GlasshouseError as error:
        yield DoctorLine(mark="FAIL", what="key", detail=str(error), fix=_fix(error))
        return
    yield DoctorLine(mark="ok", what="key", detail="accepted")
    yield _asked("rights", lambda: _rights(provider))
    yield _balance(account)
    yield _skew(account, (before + after) / 2, (after - before) / 2)
    yield _asked("offers", lambda: _offers(provider))
    yield _asked("leftovers", lambda: _leftovers(provider))
    yield _disk()


def _asked(what: str, ask: Callable[[], DoctorLine]) -> DoctorLine:
    try:
        return ask()
    except NoCapacityError as error:
        return DoctorLine(mark="warn", what=what, detail=str(error))
    except GlasshouseError as error:
        return DoctorLine(mark="FAIL", what=what, detail=f"unknown: {error}", fix=_fix(error))


def _fix(error: GlasshouseError) -> str:
    """What to do, where the error's own text does not end with it."""
    from pytest_glasshouse.providers.http_api import NotSentError

    has_fix = isinstance(error, ConfigurationError | FundsError | NotSentError)
    return "" if has_fix else "run doctor again in a minute"


def _balance(account: Account) -> DoctorLine:
    if account.balance_usd is None:
        return DoctorLine(mark="warn", what="balance", detail="this API does not show it", fix="look at the provider's console")
    mark: Literal["ok", "FAIL"] = "ok" if account.balance_usd > 0 else "FAIL"
    return DoctorLine(
        mark=mark, what="balance", detail=f"{account.balance_usd:.2f} USD", fix="" if mark == "ok" else "add credit"
    )


def _skew(account: Account, here_s: float, doubt_s: float) -> DoctorLine:
    if account.server_time_s is None:
        return DoctorLine(mark="warn", what="clock", detail="the provider's answer has no time to compare with")
    # The header has whole seconds.
    skew_s = max(abs(here_s - account.server_time_s) - doubt_s - 1.0, 0.0)
    if skew_s > SKEW_S:
        fix = "set this machine's clock (NTP): deadlines of allocations are absolute"
        return DoctorLine(mark="FAIL", what="clock", detail=f"{skew_s:.0f} s away from the provider's", fix=fix)
    return DoctorLine(mark="ok", what="clock", detail=f"within {skew_s + doubt_s + 1.0:.0f} s of the provider's")


def _rights(provider: Provider) -> DoctorLine:
    try:
        known = provider.may_create()
    except CredentialsError as error:
        return DoctorLine(mark="FAIL", what="rights", detail=str(error))
    if known:
        return DoctorLine(mark="ok", what="rights", detail="the key may create allocations")
    return DoctorLine(mark="warn", what="rights", detail="unknown: only a create request shows whether this key may create")


def _offers(provider: Provider) -> DoctorLine:
    from pytest_glasshouse.rows.published import PUBLISHED_ROWS

    wanted = {row.gpu: row for row in PUBLISHED_ROWS if row.provider == provider.name}
    found, missing = [], []
    for gpu, row in sorted(wanted.items()):
        try:
            cheapest = provider.offers(row)[0]
        except NoCapacityError:
            missing.append(gpu)
            continue
        found.append(f"{gpu} {cheapest.price_usd_per_hour:.2f} USD per hour")
    if not found:
        return DoctorLine(mark="warn", what="offers", detail=f"none now for {', '.join(missing)}", fix="try later")
    return DoctorLine(
        mark="ok", what="offers", detail=", ".join(found) + (f"; none now for {', '.join(missing)}" if missing else "")
    )


def _leftovers(provider: Provider) -> DoctorLine:
    from pytest_glasshouse.providers.lease import parse_name
    from pytest_glasshouse.providers.listing import doubt_in

    shown = provider.list()
    left = [instance for instance in shown if instance.state != "ended"]
    part = f"the listing may not be the whole: {doubt_in(shown)}" if doubt_in(shown) else ""
    if not left:
        return DoctorLine(mark="FAIL" if part else "ok", what="leftovers", detail=f"unknown: {part}" if part else "none")
    now = time.time()
    over = sum(1 for each in left if (lease := parse_name(each.name)) is not None and lease.deadline < now)
    return DoctorLine(
        mark="FAIL" if over or part else "warn",
        what="leftovers",
        detail=f"{len(left)} allocations of this project exist, {over} of them past their deadline{'; ' + part if part else ''}",
        fix=f"glasshouse reap --provider {provider.name}{' --expired' if over else ' --dry-run'}",
    )


def _ssh() -> DoctorLine:
    from pytest_glasshouse.channel.ssh import preflight

    if shutil.which("ssh") is None:
        return DoctorLine(mark="FAIL", what="ssh", detail="no OpenSSH client on PATH", fix="install it (Debian: openssh-client)")
    try:
        preflight()
    except ConfigurationError as error:
        return DoctorLine(mark="FAIL", what="ssh", detail=str(error))
    return DoctorLine(mark="ok", what="ssh", detail="found, and it reads its configuration as intended")


def _torch() -> DoctorLine:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        fix = "pip install 'pytest-glasshouse[train]'"
        return DoctorLine(mark="FAIL", what="training", detail=f"{' and '.join(missing)} not installed", fix=fix)
    return DoctorLine(mark="ok", what="training", detail="torch, transformers and peft are installed")


def _gpu() -> DoctorLine:
    from pytest_glasshouse.guest import machine

    found = machine.gpus()
    if not found:
        fix = "check nvidia-smi; without a GPU use --provider mock"
        return DoctorLine(mark="FAIL", what="GPU", detail="NVML shows no NVIDIA GPU", fix=fix)
    return DoctorLine(mark="ok", what="GPU", detail=", ".join(gpu.model for gpu in found))


def _socket() -> DoctorLine:
    import socket

    from pytest_glasshouse.providers.local_process import new_directory

    try:
        directory = new_directory()
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(directory / "agent.sock"))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    except OSError as error:
        fix = "set TMPDIR to a short path that allows unix sockets"
        return DoctorLine(mark="FAIL", what="sockets", detail=f"a unix socket cannot be made: {error.strerror}", fix=fix)
    return DoctorLine(mark="ok", what="sockets", detail="a unix socket can be made")


def _disk() -> DoctorLine:
    try:
        free_gb = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    except OSError as error:
        return DoctorLine(
            mark="FAIL", what="disk", detail=f"no temporary directory: {error.strerror}", fix="point TMPDIR at a directory"
        )
    if free_gb < _DISK_GB:
        fix = "free some, or point TMPDIR elsewhere"
        return DoctorLine(mark="warn", what="disk", detail=f"{free_gb:.1f} GB free for temporary files", fix=fix)
    return DoctorLine(mark="ok", what="disk", detail=f"{free_gb:.0f} GB free for temporary files")


def _locks() -> DoctorLine:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY and limit < _LOCKED_BYTES:
        detail = f"{limit >> 20} MiB may be locked; what does not fit is recorded as `locked: false`"
        return DoctorLine(mark="warn", what="memory locks", detail=detail, fix="raise `ulimit -l`")
    return DoctorLine(
        mark="ok", what="memory locks", detail="unlimited" if limit == resource.RLIM_INFINITY else f"{limit >> 20} MiB"
    )
