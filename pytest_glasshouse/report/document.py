"""The whole report from its records: summary, claims, cleanup, keys, seals. Assembled once, from values it is given.

This module knows the shape of a document. It refuses to read a clock, a file or the environment.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.invariants.revisions import newest
from pytest_glasshouse.observation.reading import observed_rounds, protected_of
from pytest_glasshouse.overhead.interval import proportion_lower_bound
from pytest_glasshouse.overhead.verdict import MIN_ROUNDS
from pytest_glasshouse.providers.lease import CleanupStatus, worst_cleanup
from pytest_glasshouse.report.attempts import other_attempts
from pytest_glasshouse.report.claims import CLAIMS, NOT_CLAIMED
from pytest_glasshouse.report.schema import SCHEMA_VERSION
from pytest_glasshouse.report.seal import sealed
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.tokens import public_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.analysis.record import Record

SCHEMA_URL = "https://pytest-glasshouse.dev/schemas/report-v1.schema.json"
OUTCOMES = ("excluded", "failed", "error", "lost", "infrastructure")

METHODOLOGY: dict[str, Any] = {
    "formula": "overheadPct = (1 - protectedPerSec / rawPerSec) * 100, perSec = units / elapsedSec",
    "totals": "with more than one round, units and seconds are totals over the rounds",
    "interval": "Student's t over the rounds' log ratios, rounds - 1 degrees of freedom",
    "lifecycleBound": "one-sided 95 % Clopper-Pearson lower bound",
    "minRounds": MIN_ROUNDS,
    "invariantsRevision": newest(),
}


class TamperShown(Protocol):
    """What a tamper case has to show (`tamper.TamperResult`)."""

    @property
    def name(self) -> str: ...
    @property
    def expected_reason(self) -> str | None: ...
    @property
    def seen_reason(self) -> str | None: ...
    @property
    def released(self) -> bool: ...
    @property
    def caught_by(self) -> str | None: ...
    @property
    def control_released(self) -> bool: ...
    @property
    def expected_nonce(self) -> str: ...
    @property
    def seen_nonce(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class AllocationCleanup:
    """What the provider's listing said about one allocation after the last row on it."""

    provider: str
    name: str
    provider_instance_id: str | None
    status: CleanupStatus
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the run knows about itself. `created_at` is an RFC 3339 time in UTC ending in Z."""

    run_id: str
    created_at: str
    generated_by: Mapping[str, str]
    subject: Mapping[str, Any]
    environment: Mapping[str, Any]
    order: str = "row"
    provider: str = "mock"
    preset: str | None = None
    seed: int | None = None
    margin_pct: float = 1.0
    max_overhead_pct: float | None = None
    outstanding_releases: Sequence[Mapping[str, Any]] = ()
    """As the server lists them: keys that went out and whose exit evidence did not come back."""
    cleanup: tuple[AllocationCleanup, ...] = ()
    attempts: tuple[Mapping[str, Any], ...] = ()
    """Every attempt of the run, this one too; told only where there was more than one."""
    extra: Mapping[str, Any] = field(default_factory=dict)


def assemble(
    run: RunFacts,
    records: Sequence[Record],
    *,
    tamper: Sequence[TamperShown] = (),
    key: Ed25519PrivateKey,
) -> dict[str, Any]:
    """The sealed document. Rows on an allocation whose cleanup is not proven become unpublishable here.

    Raises `ReportError` when a row appears twice.
    """
    cleanup = _every_cleanup(run.cleanup, records)
    unproven = {each.name: each.status for each in cleanup if each.status != "proven"}
    settled = [{**each, "record": _after_cleanup(each["record"], unproven)} for each in records]
    _refuse_twice(settled)
    lists = {
        name: [sealed(each["record"], key=key) for each in settled if each["list"] == name]
        for name in ("rows", "excludedResults", "nullRows")
    }
    shown = [_tamper(each) for each in tamper]
    document = {
        "$schema": SCHEMA_URL,
        "schemaVersion": SCHEMA_VERSION,
        "runId": run.run_id,
        "createdAt": run.created_at,
        "generatedBy": dict(run.generated_by),
        "subject": dict(run.subject),
        "policySha256": policy_sha256(lists),
        "attestationRoot": "software",
        "environment": dict(run.environment),
        "methodology": {
            **METHODOLOGY,
            "order": run.order,
            "provider": run.provider,
            "preset": run.preset,
            "seed": run.seed,
            "marginPct": run.margin_pct,
            "maxOverheadPct": run.max_overhead_pct,
        },
        "claims": {"claimed": list(CLAIMS), "notClaimed": list(NOT_CLAIMED), "notShown": not_shown(lists)},
        "rows": lists["rows"],
        "nullRows": lists["nullRows"],
        "excludedResults": lists["excludedResults"],
        "tamper": shown,
        "summary": summary(lists, shown, [_outstanding(each) for each in run.outstanding_releases]),
        "cleanup": {
            "status": worst_cleanup([each.status for each in cleanup]),
            "allocations": [_cleanup(each) for each in cleanup],
        },
        "keys": {"report": public_text(key.public_key()), **observed_keys(lists)},
        "extra": dict(run.extra),
    }
    if len(run.attempts) > 1:
        document["attempts"] = [dict(each) for each in run.attempts]
    return sealed(document, key=key)


def summary(
    lists: Mapping[str, Sequence[Mapping[str, Any]]],
    tamper: Sequence[Mapping[str, Any]],
    outstanding: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Counts per outcome and the lifecycle's own figure, over every lifecycle begun."""
    rows, excluded, nulls = lists["rows"], lists["excludedResults"], lists.get("nullRows", ())
    outcomes = Counter(each["outcome"] for each in excluded)
    every = [*rows, *excluded]
    lifecycles = [told["lifecycle"] for each in every for told in (each, *other_attempts(each))]
    held = sum(each["held"] for each in lifecycles)
    attempted = sum(each["attempted"] for each in lifecycles)
    return {
        "selected": len(every) + len(nulls),
        "measured": len(rows),
        **{outcome: outcomes[outcome] for outcome in OUTCOMES},
        **({"nullMeasured": len(nulls), "nullQualifying": sum(each["qualifies"] for each in nulls)} if nulls else {}),
        "dryRun": sum(each["dryRun"] for each in [*every, *nulls]),
        "publishable": sum(each["publishable"] for each in rows),
        "measuredOnNamedGpu": sum(measured_on_named_gpu(each) for each in rows),
        "tamperPassed": sum(each["passed"] for each in tamper),
        "tamperAttempted": len(tamper),
        "lifecycle": {"held": held, "attempted": attempted, "lower95": proportion_lower_bound(held, attempted)},
        "outstandingReleases": list(outstanding),
    }


def tamper_passed(shown: Mapping[str, Any]) -> bool:
    """The expected reason and no other; released only where nothing is refused; the nonce as stated; the control released."""
    return (
        shown["seenReason"] == shown["expectedReason"]
        and shown["released"] is (shown["expectedReason"] is None)
        and shown["seenNonce"] == shown["expectedNonce"]
        and shown["controlReleased"]
    )


def measured_on_named_gpu(row: Mapping[str, Any]) -> bool:
    """Whether a measured row ran on the GPU it names; a row for any GPU names none and a dry run is none."""
    return not row["dryRun"] and row["namedGpuModel"] in {None, row["gpuModel"]}


def counts(row: Mapping[str, Any]) -> bool:
    """Whether a measured row says anything about a GPU, to a gate and on a badge."""
    return measured_on_named_gpu(row) and not row["simulated"]


def not_shown(lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What this report does not show, from its own findings: each invariant that is unseen, with its reasons."""
    unseen: dict[str, set[str]] = {}
    for each in lists["rows"]:
        for finding in each["findings"]:
            if finding["finding"] == "unseen":
                unseen.setdefault(finding["invariant"], set()).add(finding["reason"])
    return [f"{name}: {'; '.join(sorted(reasons))}" for name, reasons in sorted(unseen.items())]


def _refuse_twice(records: Sequence[Record]) -> None:
    counted = Counter(each["record"]["rowId"] for each in records)
    twice = sorted(row_id for row_id, count in counted.items() if count > 1)
    if twice:
        raise ReportError(f"each selected row appears once; more than once: {', '.join(twice)}")


def _after_cleanup(record: Mapping[str, Any], unproven: Mapping[str, str]) -> dict[str, Any]:
    status = unproven.get(record["allocationName"] or "")
    if status is None or "publishable" not in record:
        return dict(record)
    reasons = [*record["unpublishableBecause"], f"cleanup {status}"]
    return {**record, "publishable": False, "unpublishableBecause": list(dict.fromkeys(reasons))}


def policy_sha256(lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """The digest of the policy all rounds ran under; of the sorted list of digests where there were several."""
    digests = {
        protected_of(observed).get("policySha256")
        for each in [*lists["rows"], *lists["excludedResults"]]
        for observed in observed_rounds(each["observation"])
    } - {None}
    if len(digests) <= 1:
        return next(iter(digests), None)
    return sha256_hex(canonical(sorted(map(str, digests))))


def observed_keys(lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """The server's and owner's public keys that the observations name."""
    found: dict[str, set[str]] = {"servers": set(), "owners": set()}
    for each in [*lists["rows"], *lists["excludedResults"]]:
        keys = each["observation"].get("keys") if each["observation"] else None
        for name, field_name in (("servers", "server"), ("owners", "owner")):
            if isinstance(keys, dict) and isinstance(keys.get(field_name), str):
                found[name].add(keys[field_name])
    return {name: sorted(values) for name, values in found.items()}


def _every_cleanup(cleanup: Sequence[AllocationCleanup], records: Sequence[Record]) -> list[AllocationCleanup]:
    """What was reported, and `unproven` for every allocation a record names of which nothing was reported."""
    reported = {each.name for each in cleanup}
    silent = {
        each["record"]["allocationName"]: each["record"]
        for each in records
        if each["record"]["allocationName"] is not None and each["record"]["allocationName"] not in reported
    }
    return [
        *cleanup,
        *(
            AllocationCleanup(
                provider=record["provider"],
                name=name,
                provider_instance_id=record["providerInstanceId"],
                status="unproven",
                reason="no cleanup was reported",
            )
            for name, record in silent.items()
        ),
    ]


def _tamper(shown: TamperShown) -> dict[str, Any]:
    told = {
        "name": shown.name,
        "expectedReason": shown.expected_reason,
        "seenReason": shown.seen_reason,
        "released": shown.released,
        "controlReleased": shown.control_released,
        "expectedNonce": shown.expected_nonce,
        "seenNonce": shown.seen_nonce,
        "caughtBy": shown.caught_by,
    }
    return {**told, "passed": tamper_passed(told)}


def _outstanding(release: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sub": release["sub"],
        "nonce": release["nonce"],
        "manifestSha256": release["manifest"],
        "releasedAt": release["released_at"],
        "deadline": release["deadline"],
    }


def _cleanup(each: AllocationCleanup) -> dict[str, Any]:
    return {
        "provider": each.provider,
        "name": each.name,
        "providerInstanceId": each.provider_instance_id,
        "status": each.status,
        "reason": each.reason,
    }
