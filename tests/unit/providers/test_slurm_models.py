"""What `squeue --json` says, in the shapes of several releases, and what is no listing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_glasshouse.channel.access import JobAccess
from pytest_glasshouse.errors import IntegrityError, ProviderError
from pytest_glasshouse.providers.slurm_models import SlurmJob, jobs_from

NAME = "glasshouse-run-1-1795890000"


def listing(*jobs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"meta": {}, "errors": [], "jobs": list(jobs), **more}).encode()


def job(**fields: Any) -> dict[str, Any]:
    """As release 22.05 has it."""
    return {
        "job_id": 7, "name": NAME, "user_name": "me", "job_state": "RUNNING", "state_reason": "None", "state_description": "",
        "start_time": 1795880000, "batch_host": "n1", "nodes": "n1", "restart_cnt": 0, "suspend_time": 0, "exit_code": 0, **fields,
    }  # fmt: skip


def newer(**fields: Any) -> dict[str, Any]:
    """As releases from 23.11 on have it: lists of states, and numbers that may be unset."""

    def number(value: int | None) -> dict[str, Any]:
        return {"set": value is not None, "infinite": False, "number": value or 0}

    return job(
        job_state=["RUNNING"], start_time=number(1795880000), suspend_time=number(0), exit_code={"status": ["SUCCESS"], "return_code": number(0)},
        **fields,
    )  # fmt: skip


def only(text: bytes) -> SlurmJob:
    (found,) = jobs_from(text, user="me")
    return found


@pytest.mark.parametrize("made", [job, newer])
def test_a_running_job_has_an_address_and_counts_since_its_start(made: Any) -> None:
    access = JobAccess(job_id="7", node="n1")
    shown = only(listing(made())).instance(access)
    assert (shown.instance_id, shown.name, shown.state, shown.access, shown.started_at) == (
        "7",
        NAME,
        "running",
        access,
        1795880000,
    )


@pytest.mark.parametrize(
    ("state", "is_"),
    [
        ("PENDING", "queued"), ("CONFIGURING", "pending"), ("COMPLETING", "stopped"), ("SUSPENDED", "stopped"), ("COMPLETED", "ended"),
        ("CANCELLED", "ended"), ("TIMEOUT", "ended"), ("NODE_FAIL", "ended"), ("PREEMPTED", "ended"), ("OUT_OF_MEMORY", "ended"),
        ("REQUEUED", "lost"), ("SOMETHING_NEW", "unknown"), (["CANCELLED", "COMPLETING"], "stopped"), (["PENDING", "REQUEUED"], "lost"),
        ([], "unknown"), (None, "unknown"), (7, "unknown"),
    ],
)  # fmt: skip
def test_states_of_slurm_are_mapped_and_an_unknown_one_is_unknown(state: Any, is_: str) -> None:
    assert only(listing(job(job_state=state))).state == is_


@pytest.mark.parametrize(
    "fields", [{"restart_cnt": 1}, {"suspend_time": 1795880100}, {"restart_cnt": {"set": True, "number": 2}}]
)
@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "CONFIGURING"])
def test_a_job_that_was_requeued_or_suspended_is_lost_though_it_runs(fields: dict[str, Any], state: str) -> None:
    assert only(listing(job(job_state=state, **fields))).state == "lost"


def test_reason_and_estimated_start_of_a_waiting_job_are_shown() -> None:
    shown = only(listing(job(job_state="PENDING", state_reason="Resources", batch_host="", nodes=""))).instance(None)
    assert shown.detail.startswith("Resources, estimated start 20")
    assert shown.started_at is None


@pytest.mark.parametrize(
    ("reason", "state", "refused"),
    [("JobHeldUser", "failed", False), ("PartitionDown", "failed", False), ("PartitionTimeLimit", "failed", True), ("InvalidQOS", "failed", True),
     ("Priority", "queued", False), ("ReqNodeNotAvail", "queued", False), ("QOSMaxJobsPerUserLimit", "queued", False)],
)  # fmt: skip
def test_what_no_waiting_ends_is_not_waited_for(reason: str, state: str, *, refused: bool) -> None:
    shown = only(listing(job(job_state="PENDING", state_reason=reason))).instance(None)
    assert (shown.state, bool(shown.refused)) == (state, refused)


def test_a_reason_with_control_characters_is_printable() -> None:
    said = "bad\x1b[31m\r\nred"
    shown = only(listing(job(job_state="PENDING", state_reason="PartitionConfig", state_description=said))).instance(None)
    assert shown.detail.isprintable()
    assert shown.refused.isprintable()
    assert only(listing(job(job_state=said))).what.isprintable()


def test_jobs_of_others_and_other_jobs_are_left_out() -> None:
    """Release 22.05 lists every job of the cluster, whatever is asked for."""
    text = listing(job(), job(job_id=8, user_name="you"), job(job_id=9, name="training"), "no job", job(job_id=10, name=None))  # type: ignore[arg-type]
    assert [each.job_id for each in jobs_from(text, user="me")] == ["7"]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"no json", b"[]", b"{}", b'{"jobs": {}}',
        listing(errors=[{"description": "Failed while looking for jobs", "error": "Unspecified error"}]),
        listing(errors=["anything"]), listing(errors={"a": 1}),
        *(listing(job(job_id=number)) for number in (None, "7", -1, 0, 10**13, True, {"set": False, "number": 7})),
    ],
)  # fmt: skip
def test_what_is_no_complete_listing_is_an_error_and_not_an_empty_one(text: bytes) -> None:
    """Where its controller is down, 22.05 prints no job, an error, and exits with 0."""
    with pytest.raises(ProviderError, match=r"^slurm: ") as caught:
        jobs_from(text, user="me")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("node", ["-oProxyCommand=id", "n1 n2", "", "n1\nx", "n" * 300])
def test_a_nodes_name_that_could_be_an_option_is_no_address(node: str) -> None:
    with pytest.raises(IntegrityError):
        JobAccess(job_id="7", node=node)
