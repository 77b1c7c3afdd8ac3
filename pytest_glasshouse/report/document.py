"""The report assembled from its records: lists of rows, summary, claims, cleanup, keys and seals.

Everything is an argument: this module reads no clock, no file and no environment.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, TypeVar

from pytest_glasshouse.analysis.allocation_null import judged_by_nulls
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.invariants.revisions import newest
from pytest_glasshouse.observation.reading import observed_rounds, protected_of
from pytest_glasshouse.overhead.interval import proportion_lower_bound
from pytest_glasshouse.overhead.verdict import MIN_ROUNDS
from pytest_glasshouse.report.attempts import other_attempts
from pytest_glasshouse.report.attestation_root import attestation_root
from pytest_glasshouse.report.claims import claimed, not_claimed
from pytest_glasshouse.report.fields import protected_rows
from pytest_glasshouse.report.schema import SCHEMA_VERSION
from pytest_glasshouse.report.seal import sealed
from pytest_glasshouse.tamper.result import TamperResult
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.cleanup_status import CleanupStatus, worst_cleanup
from pytest_glasshouse.wire.tokens import public_text
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.analysis.fields import ExcludedRow, MeasuredRow, Record, RowRecord, SealedRow
    from pytest_glasshouse.report.fields import (
        CleanupRecord,
        Environment,
        Formulas,
        GeneratedBy,
        ObservedKeys,
        OutstandingRelease,
        Report,
        RowLists,
        RunAttempt,
        Subject,
        Summary,
    )
    from pytest_glasshouse.tamper.result import TamperRecord
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.cleanup_status import CleanupStatus
    from pytest_glasshouse.wire.run_plan import TallyRecord

Judged = TypeVar("Judged", "MeasuredRow", "SealedRow", "ExcludedRow")

SCHEMA_URL = "https://pytest-glasshouse.dev/schemas/report-v1.schema.json"

METHODOLOGY: Formulas = {
    "formula": "overheadPct = (1 - protectedPerSec / rawPerSec) * 100, perSec = units / elapsedSec",
    "totals": "with more than one round, units and seconds are totals over the rounds; what is printed is roundsMeanPct",
    "interval": "Student's t over the rounds' log ratios, from five rounds on blocked by who started first",
    "lifecycleBound": "one-sided 95 % Clopper-Pearson lower bound",
    "minRounds": MIN_ROUNDS,
    "invariantsRevision": newest(),
}


@dataclass(frozen=True, kw_only=True)
class AllocationCleanup:
    """The state of one allocation by the provider's listing, after the last row on it."""

    provider: str
    name: str
    provider_instance_id: str | None
    status: CleanupStatus
    reason: str


class ListedRelease(TypedDict):
    """A key that was released and whose exit evidence did not come back, as the server lists it."""

    sub: str
    nonce: str
    manifest: str
    released_at: int
    deadline: int


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The facts of the run itself. `created_at` is an RFC 3339 time in UTC ending in Z."""

    run_id: str
    created_at: str
    generated_by: GeneratedBy
    subject: Subject
    environment: Environment
    order: str = "row"
    provider: str = "mock"
    preset: str | None = None
    seed: int | None = None
    margin_pct: float = 1.0
    max_overhead_pct: float | None = None
    outstanding_releases: Sequence[Mapping[str, object]] = ()
    """As the server lists them."""
    tallies: Sequence[TallyRecord] = ()
    """What each attestation server of the run counted, signed by it."""
    cleanup: tuple[AllocationCleanup, ...] = ()
    attempts: tuple[RunAttempt, ...] = ()
    """Every attempt of the run, this one too; in the report only where there was more than one."""
    extra: Mapping[str, Json] = field(default_factory=dict)


def assemble(
    run: RunFacts,
    records: Sequence[Record],
    *,
    tamper: Sequence[TamperResult] = (),
    key: Ed25519PrivateKey,
) -> Report:
    """The sealed report. Rows on an allocation whose cleanup is not proven become unpublishable here.

    Measured rows are judged by the null of their allocation, which none of them has alone.

    Raises `ReportError` when a row appears twice.
    """
    records = judged_by_nulls(records)
    cleanup = _every_cleanup(run.cleanup, records)
    unproven = {each.name: each.status for each in cleanup if each.status != "proven"}
    _refuse_twice([each["record"] for each in records])
    lists: RowLists = {
        "rows": [sealed(_after_cleanup(each["record"], unproven), key=key) for each in records if each["list"] == "rows"],
        "excludedResults": [
            sealed(_after_cleanup(each["record"], unproven), key=key) for each in records if each["list"] == "excludedResults"
        ],
        "nullRows": [sealed(each["record"], key=key) for each in records if each["list"] == "nullRows"],
    }
    sealed_rows = [sealed(_after_cleanup(each["record"], unproven), key=key) for each in records if each["list"] == "sealedRows"]
    if sealed_rows:
        lists["sealedRows"] = sealed_rows
    played = [each.to_json() for each in tamper]
    root = attestation_root(lists)
    document: Report = {
        "$schema": SCHEMA_URL,
        "schemaVersion": SCHEMA_VERSION,
        "runId": run.run_id,
        "createdAt": run.created_at,
        "generatedBy": run.generated_by,
        "subject": run.subject,
        "policySha256": policy_sha256(lists),
        "attestationRoot": root,
        "environment": run.environment,
        "methodology": {
            **METHODOLOGY,
            "order": run.order,
            "provider": run.provider,
            "preset": run.preset,
            "seed": run.seed,
            "marginPct": run.margin_pct,
            "maxOverheadPct": run.max_overhead_pct,
        },
        "claims": {"claimed": list(claimed(root)), "notClaimed": list(not_claimed(root)), "notShown": not_shown(lists)},
        "rows": lists["rows"],
        "nullRows": lists["nullRows"],
        "excludedResults": lists["excludedResults"],
        "tamper": played,
        "summary": summary(lists, played, [_outstanding(each) for each in run.outstanding_releases]),
        "cleanup": {
            "status": worst_cleanup([each.status for each in cleanup]),
            "allocations": [_cleanup(each) for each in cleanup],
        },
        "keys": {"report": public_text(key.public_key()), **observed_keys(lists)},
        "extra": dict(run.extra),
    }
    if "sealedRows" in lists:
        document["sealedRows"] = lists["sealedRows"]
    if run.tallies:
        document["tallies"] = list(run.tallies)
    if len(run.attempts) > 1:
        document["attempts"] = list(run.attempts)
    return sealed(document, key=key)


def summary(
    lists: RowLists,
    tamper: Sequence[TamperRecord],
    outstanding: Sequence[OutstandingRelease],
) -> Summary:
    """Counts per outcome, and over every lifecycle begun in how many all invariants held."""
    rows, excluded, nulls = lists["rows"], lists["excludedResults"], lists["nullRows"]
    outcomes = Counter(each["outcome"] for each in excluded)
    without_raw, every = lists.get("sealedRows", []), protected_rows(lists)
    lifecycles = [each["lifecycle"] for each in every]
    lifecycles += [attempt["lifecycle"] for each in every for attempt in other_attempts(each)]
    held = sum(each["held"] for each in lifecycles)
    attempted = sum(each["attempted"] for each in lifecycles)
    counts: Summary = {
        "selected": len(every) + len(nulls),
        "measured": len(rows),
        "excluded": outcomes["excluded"],
        "failed": outcomes["failed"],
        "error": outcomes["error"],
        "lost": outcomes["lost"],
        "infrastructure": outcomes["infrastructure"],
        "dryRun": sum(each["dryRun"] for each in every) + sum(each["dryRun"] for each in nulls),
        "publishable": sum(each["publishable"] for each in (*rows, *without_raw)),
        "measuredOnNamedGpu": sum(measured_on_named_gpu(each) for each in rows),
        "tamperPassed": sum(each["passed"] for each in tamper),
        "tamperAttempted": len(tamper),
        "lifecycle": {"held": held, "attempted": attempted, "lower95": proportion_lower_bound(held, attempted)},
        "outstandingReleases": list(outstanding),
    }
    if without_raw:
        counts["sealedMeasured"] = len(without_raw)
    if nulls:
        counts["nullMeasured"], counts["nullQualifying"] = len(nulls), sum(each["qualifies"] for each in nulls)
    return counts


def measured_on_named_gpu(row: MeasuredRow | SealedRow) -> bool:
    """Whether a measured row ran on the GPU it names; a row for any GPU names none and a dry run is none."""
    return not row["dryRun"] and row["namedGpuModel"] in {None, row["gpuModel"]}


def counts_for_gate(row: MeasuredRow | SealedRow) -> bool:
    """Whether a gate and a badge count a measured row: it ran on a GPU, rented from a provider that is not simulated."""
    return measured_on_named_gpu(row) and not row["simulated"]


def not_shown(lists: RowLists) -> list[str]:
    """What the findings leave unseen: each such invariant with its reasons."""
    unseen: dict[str, set[str]] = {}
    for each in (*lists["rows"], *lists.get("sealedRows", ())):
        for finding in each["findings"]:
            if finding["finding"] == "unseen":
                unseen.setdefault(finding["invariant"], set()).add(finding["reason"])
    return [f"{name}: {'; '.join(sorted(reasons))}" for name, reasons in sorted(unseen.items())]


def _refuse_twice(rows: Sequence[RowRecord]) -> None:
    counted = Counter(each["rowId"] for each in rows)
    twice = sorted(row_id for row_id, count in counted.items() if count > 1)
    if twice:
        raise ReportError(f"each selected row appears once; more than once: {', '.join(twice)}")


def _after_cleanup(row: Judged, unproven: Mapping[str, str]) -> Judged:
    status = unproven.get(row["allocationName"] or "")
    if status is None:
        return row
    changed = row.copy()
    changed["publishable"] = False
    changed["unpublishableBecause"] = list(dict.fromkeys([*row["unpublishableBecause"], f"cleanup {status}"]))
    return changed


def policy_sha256(lists: RowLists) -> str | None:
    """The digest of the policy all rounds ran under; of the sorted list of digests where there were several."""
    digests = {
        protected_of(observed).get("policySha256")
        for each in protected_rows(lists)
        for observed in observed_rounds(each["observation"])
    } - {None}
    if len(digests) <= 1:
        return next(iter(digests), None)
    return sha256_hex(canonical(sorted(map(str, digests))))


def observed_keys(lists: RowLists) -> ObservedKeys:
    """The servers' and the owners' public keys that the observations name."""
    keys = [each["observation"]["keys"] for each in protected_rows(lists) if "keys" in each["observation"]]
    return {"servers": sorted({each["server"] for each in keys}), "owners": sorted({each["owner"] for each in keys})}


def _every_cleanup(cleanup: Sequence[AllocationCleanup], records: Sequence[Record]) -> list[AllocationCleanup]:
    """The cleanups that were reported, and `unproven` for every other allocation that a record names."""
    reported = {each.name for each in cleanup}
    unreported: dict[str, AllocationCleanup] = {}
    for each in records:
        row = each["record"]
        if row["allocationName"] is not None and row["allocationName"] not in reported:
            unreported[row["allocationName"]] = AllocationCleanup(
                provider=row["provider"] or "",
                name=row["allocationName"],
                provider_instance_id=row["providerInstanceId"],
                status="unproven",
                reason="no cleanup was reported",
            )
    return [*cleanup, *unreported.values()]


def _outstanding(release: Mapping[str, object]) -> OutstandingRelease:
    listed = check_typed(release, ListedRelease, "outstanding release")
    return {
        "sub": listed["sub"],
        "nonce": listed["nonce"],
        "manifestSha256": listed["manifest"],
        "releasedAt": listed["released_at"],
        "deadline": listed["deadline"],
    }


def _cleanup(each: AllocationCleanup) -> CleanupRecord:
    return {
        "provider": each.provider,
        "name": each.name,
        "providerInstanceId": each.provider_instance_id,
        "status": each.status,
        "reason": each.reason,
    }
