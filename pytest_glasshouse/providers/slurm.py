"""Slurm: an allocation is a batch job of the site's own engine, whose queue, limits and end are Slurm's.

`sbatch` creates, `squeue --json` lists, `scancel` ends. A job's name holds run and deadline, so a lost answer is found again by
it. It is never requeued, and its own time limit is the last watchdog. Streams into it: `channel.slurm_route`.
"""

from __future__ import annotations

import getpass
import math
import re
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.access import JobAccess
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.job_launch import job_script
from pytest_glasshouse.channel.site_commands import NO_PROGRAM, SSH_FAILED, Ran, SiteCommands
from pytest_glasshouse.channel.slurm_route import SlurmRoute
from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    ConfigurationError,
    CredentialsError,
    GlasshouseError,
    IntegrityError,
    LaunchRefusedError,
    NoCapacityError,
    ProviderError,
    TerminateError,
)
from pytest_glasshouse.providers.base import Account, Instance, InstanceId, Launch, Offer, PlaceCheck, checked_id
from pytest_glasshouse.providers.lease import NAME_PREFIX, parse_name
from pytest_glasshouse.providers.listing import Listing
from pytest_glasshouse.providers.places import queue_timeout_of
from pytest_glasshouse.providers.slurm_models import LISTING_BYTES, SlurmJob, jobs_from
from pytest_glasshouse.providers.slurm_options import SlurmOptions, longest_minutes
from pytest_glasshouse.rows.spec import GPU_MODELS
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.channel.job_init import JobSettings
    from pytest_glasshouse.providers.place_settings import PlaceSettings
    from pytest_glasshouse.rows.spec import RowSpec

_CLIENT_S = 60.0
_LEAST_MINUTES = 15
#: `sbatch` waits for its controller, and sleeps and tries again where the queue is full.
_SUBMIT_S = 90.0
_FULL = "sleeping and retrying"
_JOB_ID = re.compile(r"([0-9]{1,12})(?:;[^\n]{0,64})?\n?")
#: `scontrol show config`: the controller's name and address.
_CONTROLLER = re.compile(r"^SlurmctldHost\[0\]\s*= \S*?(?:\((\S+)\))?$", re.MULTILINE)
_LOOPBACK = ("127.", "localhost", "::1")

#: Refusals of `sbatch`: nothing was created, and the user can change what was asked for.
_WRONG = {
    "Invalid partition": "the partition is unknown; set glasshouse_slurm_partition",
    "Invalid account": "the account is unknown, or may not use the partition; set glasshouse_slurm_account",
    "Invalid qos": "the QOS is unknown, or the account may not use it; set glasshouse_slurm_qos",
    "Requested node configuration is not available": "no node of the partition has that GPU; check glasshouse_slurm_gres",
    "Invalid generic resource": "the site has no such GPU; check glasshouse_slurm_gres",
    "Invalid Trackable RESource": "the site has no such GPU; check glasshouse_slurm_gres",
    "time limit is invalid": "the partition does not allow that much time; lower --glasshouse-slurm-time",
    "Invalid --time": "the time limit is not one; set --glasshouse-slurm-time",
    "unrecognized option '--container-image": "the site's sbatch has none; unset glasshouse_slurm_container_image",
    "User's group not permitted": "your group may not use the partition; set glasshouse_slurm_partition",
    "Access/permission denied": "you may not use it; ask the site",
}
#: Refusals that pass by themselves.
_BUSY = {
    "violates accounting/QOS policy": "a limit of your account or QOS is reached",
    "submit limit": "a limit of jobs is reached",
    "partition is not available": "the partition takes no jobs now",
    "Required partition not available": "the partition is down, or takes no jobs now",
}
#: Nothing was sent.
_NOT_SENT = (
    "connect failure",
    "Unable to contact slurm controller (connect",
    "Invalid authentication credential",
    "Munge",
    "munge",
)


class SlurmProvider:
    """See the module."""

    name = "slurm"
    base_url = ""
    rents = False
    dry_run = False
    this_machine = False

    def __init__(
        self, options: SlurmOptions, *, commands: SiteCommands, simulated: bool = False, queue_s: float = 0.0, poll_s: float = 5.0
    ) -> None:
        """`simulated`: a job may run on a node without a GPU, and its rows are dry runs."""
        self._options = options
        self._commands = commands
        self.simulated = simulated
        self.poll_s = poll_s
        self._queue_s = queue_s
        self._user = ""
        self._longest: int | None = None
        self.archive_sha256 = sha256_hex(guest_archive())

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """What the map says for the row's GPU; for a row that runs on any, every line of the map."""
        if row.nodes > 1 and self._options.stream == "ssh":
            raise ConfigurationError(
                f"row {row.name}: several nodes are reached by steps of the job; set glasshouse_slurm_stream to srun. "
                "Nothing was submitted"
            )
        usable = {gpu: gres for gpu, gres in self._options.gres.items() if gpu in GPU_MODELS}
        wanted = {gpu: gres for gpu, gres in usable.items() if row.gpu_model in (None, GPU_MODELS[gpu])}
        if not wanted:
            raise ConfigurationError(
                f"row {row.name} names {row.gpu}: expected a line such as "
                f'{row.gpu} = "gpu:{row.gpu}:1" in glasshouse_slurm_gres, '
                f"saw {', '.join(self._options.gres) or 'none'}; `sinfo -o %G` shows what the site has. Nothing was submitted"
            )
        return tuple(
            Offer(provider=self.name, gpu_model=GPU_MODELS[gpu], offer_id=asked, gpus=row.nodes * _gpus(asked), nodes=row.nodes)
            for gpu, gres in wanted.items()
            for asked in (_for(gres, row.gpus // row.nodes),)
        )

    def lifetime_s(self, work_s: float) -> float:
        """See `Queued`: the user's limit, or twice the work, 15 minutes at least, and what the partition allows at most."""
        minutes = self._options.time_minutes or min(max(math.ceil(work_s * 2 / 60), _LEAST_MINUTES), self._longest_minutes())
        return self._queue_s + minutes * 60.0

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        """Submit one job."""
        minutes = max(math.ceil((launch.deadline - time.time() - launch.queue_s) / 60), 1)
        settings: JobSettings = {
            "name": launch.name, "prefix": NAME_PREFIX, "deadline": launch.deadline, "contact_by": launch.contact_by,
            "lease_s": launch.lease_s, "nodes": offer.nodes,
        }  # fmt: skip
        script = job_script(settings, python=self._options.python, nodes=offer.nodes)
        arguments = self._options.arguments(launch.name, gres=offer.offer_id, minutes=minutes, nodes=offer.nodes)
        command = ["sbatch", "--parsable", *arguments]
        ran = self._commands.run(command, stdin=script.encode(), timeout_s=_SUBMIT_S, give_up_on=_FULL)
        found = _JOB_ID.fullmatch(ran.stdout.decode("ascii", errors="replace"))
        if ran.status == 0 and found is not None:
            return Instance(instance_id=found[1], name=launch.name, state="queued", raw_state="PENDING")
        raise self._refusal(ran, launch.name)

    def get(self, instance_id: str) -> Instance | None:
        """The job; None where Slurm has forgotten it, some minutes after its end."""
        wanted = checked_id(self.name, instance_id)
        return next((self._instance(job) for job in self._jobs() if job.job_id == wanted), None)

    def list(self) -> tuple[Instance, ...]:
        """The jobs of this user whose names are this project's."""
        return Listing(self._instance(job) for job in self._jobs())

    def terminate(self, instance_id: str) -> None:
        """Cancel the job."""
        try:
            wanted = InstanceId(instance_id)
        except IntegrityError as error:
            raise TerminateError(f"slurm: {error.detail}") from None
        ran = self._commands.run(["scancel", "--", str(wanted)], timeout_s=_CLIENT_S)
        gone = "Invalid job id" in ran.stderr or "already compl" in ran.stderr
        if ran.status != 0 and not gone:
            raise TerminateError(f"slurm: scancel did not end job {wanted}: {_said(ran)}", allocation_id=str(wanted))

    def logs(self, instance_id: str) -> str:
        """Nothing: a job's output would be a file on a disk of the site."""
        del instance_id
        return ""

    def account(self) -> Account:
        """Whether the controller answers."""
        self._jobs()
        return Account()

    def may_create(self) -> bool:
        """Whether Slurm would accept a job for each line of the map. Raises `CredentialsError` for one it would not."""
        for gpu, gres in self._options.gres.items():
            try:
                self._check(gres, 1)
            except ConfigurationError as error:
                raise CredentialsError(f"{gpu}: {error}") from None
        return True

    def check_offer(self, offer: Offer, *, lifetime_s: float) -> None:
        """See `Queued`: by `sbatch --test-only`. What may pass, such as a queue that is full, is no error now."""
        minutes = max(math.floor((lifetime_s - self._queue_s) / 60), 1)
        if minutes > self._longest_minutes():
            raise LaunchRefusedError(
                f"slurm: a job of {minutes} minutes is longer than the {self._longest_minutes()} that its partition allows; "
                "lower --glasshouse-slurm-time, or set glasshouse_slurm_partition. Nothing was submitted"
            )
        try:
            self._check(offer.offer_id, minutes, nodes=offer.nodes)
        except NoCapacityError:
            return

    def _check(self, gres: str, minutes: int, *, nodes: int = 1) -> None:
        arguments = self._options.arguments("glasshouse-check", gres=gres, minutes=minutes, nodes=nodes)
        command = ["sbatch", "--test-only", *arguments]
        ran = self._commands.run(command, stdin=b"#!/bin/sh\n:\n", timeout_s=_SUBMIT_S, give_up_on=_FULL)
        if ran.status != 0:
            error = self._refusal(ran, "")
            raise ProviderError(str(error)) if isinstance(error, AmbiguousCreateError) else error

    def secrets(self) -> tuple[str, ...]:
        """The login node, where it is more than a bare alias."""
        login = self._commands.login
        return (login,) if any(mark in login for mark in ".@:") else ()

    def inject_fault(self, instance_id: str, action: str) -> None:
        """Raises `ConfigurationError`: only the mock provider plays faults."""
        raise ConfigurationError(f"provider slurm plays no faults; {action} on {instance_id} was asked for")

    def checks(self) -> Iterator[PlaceCheck]:
        """See `Routed`: whether the controller answers, and whether it would take a job for each line of the map."""
        where = "the login node" if self._commands.login else "this machine"
        try:
            self._jobs()
        except ProviderError as error:
            yield PlaceCheck(mark="FAIL", what="Slurm", detail=str(error), fix="run doctor again in a minute, or ask the site")
            return
        yield PlaceCheck(mark="ok", what="Slurm", detail=f"its controller answers on {where}")
        if not self._options.gres:
            fix = 'set it to lines such as h100 = "gpu:h100:1"; `sinfo -o %G` shows what the site has'
            yield PlaceCheck(mark="FAIL", what="GPUs", detail="glasshouse_slurm_gres is empty", fix=fix)
        for gpu, gres in self._options.gres.items():
            try:
                self._check(gres, self._options.time_minutes or 1)
            except NoCapacityError as error:
                yield PlaceCheck(mark="warn", what=gpu, detail=str(error))
            except GlasshouseError as error:
                yield PlaceCheck(mark="FAIL", what=gpu, detail=str(error))
            else:
                yield PlaceCheck(mark="ok", what=gpu, detail=f"a job with {gres} would be accepted")

    def route(self, name: str) -> SlurmRoute:
        """See `Routed`."""
        return SlurmRoute(name, commands=self._commands, python=self._options.python, node_ssh=self._options.stream == "ssh")

    def node_route(self, name: str, node: int) -> SlurmRoute:
        """See `SpansNodes`: a step on that node of the job."""
        return SlurmRoute(name, commands=self._commands, python=self._options.python, node=node)

    def _longest_minutes(self) -> int:
        """What the partition allows; a day where that is more, or is not said."""
        if self._longest is None:
            ran = self._commands.run(["sinfo", "--noheader", "--format=%P|%l"], timeout_s=_CLIENT_S)
            self._longest = longest_minutes(ran.stdout.decode("utf-8", errors="replace"), self._options.partition)
        return self._longest

    def _jobs(self) -> tuple[SlurmJob, ...]:
        if not self._user:
            self._user = self._whoami()
        ran = self._commands.run(["squeue", "--json", "--me", "--states=all"], timeout_s=_CLIENT_S, limit=LISTING_BYTES)
        if ran.status != 0 or ran.cut:
            why = f"squeue printed more than {LISTING_BYTES >> 20} MiB" if ran.cut else f"squeue failed: {_said(ran)}"
            raise ProviderError(f"slurm: {why}")
        return tuple(job for job in jobs_from(ran.stdout, user=self._user) if parse_name(job.name) is not None)

    def _whoami(self) -> str:
        if not self._commands.login:
            return getpass.getuser()
        ran = self._commands.run(["id", "-un"], timeout_s=_CLIENT_S)
        name = ran.stdout.decode("ascii", errors="replace").strip()
        if ran.status != 0 or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name):
            raise ProviderError(f"slurm: the login node does not say who you are there: {_said(ran)}")
        return name

    def _instance(self, job: SlurmJob) -> Instance:
        try:
            return job.instance(JobAccess(job_id=job.job_id, node=job.node) if job.node else None)
        except IntegrityError as error:
            return job.instance(None, unusable=f"slurm: field batch_host: {error.detail}")

    def _refusal(self, ran: Ran, name: str) -> GlasshouseError:
        """What came of an `sbatch` that gave no job's number."""
        said = _said(ran)
        for table, kind in ((_WRONG, LaunchRefusedError), (_BUSY, NoCapacityError)):
            means = next((means for mark, means in table.items() if mark.lower() in ran.stderr.lower()), None)
            if means is not None:
                return kind(f"slurm: sbatch refused the job: {means} ({said}). Nothing was submitted")
        if _FULL in ran.stderr:
            return AmbiguousCreateError(
                f"slurm: its queue is full, and sbatch would wait; job {name} was not submitted as far as is known",
                allocation_id=name,
            )
        if any(mark in ran.stderr for mark in _NOT_SENT) or ran.status in (NO_PROGRAM, SSH_FAILED):
            return ProviderError(f"slurm: sbatch did not reach its controller: {said}. Nothing was submitted")
        return AmbiguousCreateError(f"slurm: the answer to submitting job {name} was lost: {said}", allocation_id=name)


def open_slurm(settings: PlaceSettings) -> SlurmProvider:
    """See `places.Place`. Raises `ConfigurationError`, and `CredentialsError` where Slurm's clients cannot be run."""
    site = settings.machines.slurm
    options = SlurmOptions.of(site, python=settings.machines.remote_python)
    commands = SiteCommands(login=options.login)
    commands.check("sbatch")
    simulated = settings.allow_simulated and _is_loopback(commands)
    queue_s = queue_timeout_of("slurm", settings.machines.queue_timeout_s)
    return SlurmProvider(options, commands=commands, simulated=simulated, queue_s=queue_s, poll_s=0.3 if simulated else 5.0)


def _is_loopback(commands: SiteCommands) -> bool:
    """Whether the controller listens on this machine alone, as that of a test does: no other machine is a node of it."""
    ran = commands.run(["scontrol", "show", "config"], timeout_s=_CLIENT_S)
    found = _CONTROLLER.search(ran.stdout.decode("utf-8", errors="replace"))
    return found is not None and str(found[1] or "").startswith(_LOOPBACK)


def _for(gres: str, gpus: int) -> str:
    """The request for a row of so many GPUs: the map's own for one, else with that number in place of the map's."""
    if gpus == 1:
        return gres
    kind, _, last = gres.rpartition(":")
    return f"{kind if last.isdigit() else gres}:{gpus}"


def _gpus(gres: str) -> int:
    """How many GPUs a request names: `gpu:h100:2` two, `gpu:h100` and `gpu` one."""
    last = gres.rpartition(":")[2]
    return int(last) if last.isdigit() else 1


def _said(ran: Ran) -> str:
    """What a client printed last, in one line."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in ran.stderr.splitlines() if line.strip()]
    if ran.status is None and not lines:
        return "it did not end in time"
    return printable(lines[-1], limit=160) if lines else f"exit {ran.status}, without a message"
