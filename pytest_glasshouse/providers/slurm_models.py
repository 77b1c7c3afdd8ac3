"""What Slurm's `squeue --json` says of a job, as an instance.

The shape differs between releases: a state is a text or a list of texts, and a number is itself or an object that says whether
it is set. Listings of 22.05 hold every job of the cluster, whatever was asked for, and an empty list with an error beside it
where the controller did not answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError, ProviderError
from pytest_glasshouse.providers.base import Instance
from pytest_glasshouse.providers.lease import NAME_PREFIX
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.channel.access import Access
    from pytest_glasshouse.providers.base import InstanceState
    from pytest_glasshouse.wire.canonical import Json

#: A job takes some 4 KB of a listing.
LISTING_BYTES = 64 << 20
_LONGEST_ID = 12

#: Slurm's states (`man squeue`, JOB STATE CODES). One that is not among them is `unknown`.
STATES: Mapping[str, InstanceState] = MappingProxyType({
    "PENDING": "queued", "CONFIGURING": "pending", "POWER_UP_NODE": "pending", "RUNNING": "running", "SIGNALING": "running",
    "RESIZING": "running", "STAGE_OUT": "stopped", "COMPLETING": "stopped", "SUSPENDED": "stopped", "STOPPED": "stopped",
    "REQUEUED": "lost", "REQUEUE_FED": "lost", "REQUEUE_HOLD": "lost", "SPECIAL_EXIT": "lost", "RESV_DEL_HOLD": "queued",
    "COMPLETED": "ended", "CANCELLED": "ended", "FAILED": "ended", "TIMEOUT": "ended", "NODE_FAIL": "ended", "PREEMPTED": "ended",
    "BOOT_FAIL": "ended", "DEADLINE": "ended", "OUT_OF_MEMORY": "ended", "REVOKED": "ended", "LAUNCH_FAILED": "ended",
    "RECONFIG_FAIL": "ended", "EXPEDITING": "queued", "POWER_UP_NODES": "pending",
})  # fmt: skip
#: Which of several states counts: a job that is `CANCELLED` and `COMPLETING` is still there, a requeued one is lost.
_ORDER: tuple[InstanceState, ...] = ("lost", "stopped", "pending", "unknown", "running", "queued", "ended")

#: What an ended job died of, for whoever reads the reason of a row.
_MEANS = {
    "TIMEOUT": "its time limit was reached", "NODE_FAIL": "its node failed", "PREEMPTED": "another job preempted it",
    "CANCELLED": "it was cancelled", "OUT_OF_MEMORY": "it used more memory than it was given", "FAILED": "its script failed",
    "COMPLETED": "its script ended", "BOOT_FAIL": "its node did not boot", "DEADLINE": "it could not end before its deadline",
    "SUSPENDED": "it was suspended", "STOPPED": "it was stopped", "COMPLETING": "it is ending",
}  # fmt: skip
#: Reasons to wait that no waiting ends (`man squeue`, JOB REASON CODES), because of what was asked for, ...
_REFUSED = {
    "BadConstraints": "no node of the site has what it asks for; check glasshouse_slurm_gres",
    "PartitionTimeLimit": "it asks for more time than the partition allows; lower --glasshouse-slurm-time",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows; set glasshouse_slurm_partition",
    "PartitionConfig": "the partition does not allow it; check glasshouse_slurm_account, _partition and --glasshouse-slurm-time",
    "AccountNotAllowed": "the partition does not accept the account; set glasshouse_slurm_account",
    "InvalidAccount": "the account is not valid; set glasshouse_slurm_account",
    "QOSNotAllowed": "the QOS may not be used there; set glasshouse_slurm_qos",
    "InvalidQOS": "the QOS is not valid; set glasshouse_slurm_qos",
    "AssocMaxWallDurationPerJobLimit": "it asks for more time than the account allows; lower --glasshouse-slurm-time",
    "QOSMaxWallDurationPerJobLimit": "it asks for more time than the QOS allows; lower --glasshouse-slurm-time",
}
#: ... or because of what somebody did.
_HELD = {
    "JobHeldUser": "it is held; scontrol release lets it go",
    "JobHeldAdmin": "an administrator holds it; ask them",
    "PartitionDown": "the partition is down; choose another",
    "PartitionInactive": "the partition is inactive; choose another",
    "JobHoldMaxRequeue": "it was requeued too often",
    "DependencyNeverSatisfied": "it depends on a job that failed",
}


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """One job, as far as this project reads it. `start_s` is in seconds since 1970, and an estimate while it waits."""

    job_id: str
    name: str
    user: str
    states: tuple[str, ...]
    reason: str
    description: str
    start_s: float | None
    node: str
    restarts: int
    suspended: bool
    exit_code: int

    @property
    def state(self) -> InstanceState:
        """A job that ran before and runs or waits again is lost, and so is one that was suspended: its legs stood still."""
        found = {STATES.get(each, "unknown") for each in self.states} or {"unknown"}
        worst = next(each for each in _ORDER if each in found)
        return "lost" if worst not in {"ended", "stopped"} and (self.restarts or self.suspended) else worst

    @property
    def what(self) -> str:
        """The state in Slurm's words."""
        if self.state == "lost" and self.restarts:
            return "REQUEUED"
        if self.state == "lost" and self.suspended:
            return "SUSPENDED meanwhile"
        return "+".join(printable(each, limit=32) for each in self.states)

    def instance(self, access: Access | None, *, unusable: str = "") -> Instance:
        """As an instance; `access` is where its streams lead once it runs, or `unusable` says why it leads nowhere."""
        state = self.state
        waits = self.reason if state == "queued" else ""
        refused = _REFUSED.get(waits, "")
        return Instance(
            instance_id=self.job_id,
            name=self.name,
            state="failed" if refused or waits in _HELD else state,
            raw_state=self.what,
            access=access if state == "running" else None,
            detail=self._detail(),
            unusable=unusable,
            refused=f"{refused} ({self._words()})" if refused else "",
            started_at=self.start_s if state not in ("queued", "unknown") and self.node else None,
        )

    def _words(self) -> str:
        """Slurm's reason, and what it adds to that."""
        said = (self.reason, self.description.replace("_", " "))
        return ": ".join(printable(each, limit=120) for each in said if each not in ("", "None"))

    def _detail(self) -> str:
        reason = self._words()
        if self.state == "queued" and self.reason in _HELD:
            return f"{reason}: {_HELD[self.reason]}"
        if self.state == "queued":
            start = (
                "" if self.start_s is None else f"estimated start {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.start_s))}"
            )
            return ", ".join(part for part in (reason, start) if part)
        if self.state == "lost":
            return "it was requeued" if self.restarts else "it was suspended"
        means = [_MEANS[each] for each in self.states if each in _MEANS]
        code = f"exit {self.exit_code}" if "FAILED" in self.states and self.exit_code else ""
        return ", ".join(part for part in (*means, reason, code) if part) if self.state in ("ended", "stopped") else ""


def jobs_from(text: bytes, *, user: str) -> tuple[SlurmJob, ...]:
    """The jobs of `user` whose names have this project's prefix. Raises `ProviderError` for what is no complete listing."""
    try:
        listing = parse_tolerant(text, limit=LISTING_BYTES)
    except IntegrityError as error:
        raise ProviderError(f"slurm: squeue --json: {error.detail}; expected a listing of jobs") from None
    if not isinstance(listing, dict) or not isinstance(listing.get("jobs"), list):
        raise ProviderError("slurm: squeue --json: expected an object with jobs")
    if errors := listing.get("errors"):
        first = errors[0] if isinstance(errors, list) else errors
        said = first.get("description") or first.get("error") if isinstance(first, dict) else first
        raise ProviderError(f"slurm: the controller does not answer squeue: {printable(said)}")
    jobs = listing["jobs"]
    assert isinstance(jobs, list)  # noqa: S101
    found = (_job(each) for each in jobs if isinstance(each, dict) and _is_ours(each, user))
    return tuple(found)


def _is_ours(job: Mapping[str, Json], user: str) -> bool:
    return str(job.get("name")).startswith(NAME_PREFIX) and job.get("user_name") in (user, None, "")


def _job(job: Mapping[str, Json]) -> SlurmJob:
    """Raises `ProviderError` for a job without a readable id: it would be neither shown nor ended."""
    number = _number(job.get("job_id"))
    if number is None or number < 1 or len(str(number)) > _LONGEST_ID:
        raise ProviderError("slurm: squeue --json: expected a job's number in job_id")
    raw = job.get("job_state")
    states = tuple(str(each) for each in raw) if isinstance(raw, list) else (str(raw),)
    start = _number(job.get("start_time"))
    node = job.get("batch_host") or job.get("nodes")
    code = job.get("exit_code")
    if isinstance(code, dict) and "return_code" in code:
        code = code["return_code"]
    return SlurmJob(
        job_id=str(number),
        name=printable(job.get("name"), limit=80),
        user=printable(job.get("user_name"), limit=80),
        states=states,
        reason=str(job.get("state_reason") or ""),
        description=str(job.get("state_description") or ""),
        start_s=float(start) if start else None,
        node=node if isinstance(node, str) else "",
        restarts=_number(job.get("restart_cnt")) or 0,
        suspended=bool(_number(job.get("suspend_time"))),
        exit_code=_number(code) or 0,
    )


def _number(value: Json) -> int | None:
    """A whole number, or one in an object of later releases; None where it is not set or infinite."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") is True and value.get("infinite") is not True else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
