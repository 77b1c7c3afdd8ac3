"""The release gate: a pure function of a checked report, a policy and the time.

`check` has judged the report itself; its result is an argument. Rows that were not measured never pass: an excluded row fails the
gate, and a dry run is nothing to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_limits import implausible, limit_of
from pytest_glasshouse.check.check import Checked, Level
from pytest_glasshouse.invariants.revisions import newest
from pytest_glasshouse.observation.reading import observed_rounds, parts_of_round, planned_nodes, protected_of
from pytest_glasshouse.overhead.verdict import LimitVerdict, Verdict
from pytest_glasshouse.report.attempts import attempts_line, row_title
from pytest_glasshouse.report.document import counts_for_gate
from pytest_glasshouse.wire.evidence import ANTIDEBUG_PROFILE, ANTIDEBUG_VERSION
from pytest_glasshouse.wire.printable import counted, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import ExcludedRow, ListName, MeasuredRow, NullRow, RowRecord, SealedRow
    from pytest_glasshouse.report.fields import Report, Subject


#: How far the clock that dated the report may be ahead; beyond that one of the clocks is wrong.
AHEAD_S = 300
_SHORT_COMMIT = 7
#: The component of a policy that is the guest's own code. A policy that does not require it pins nothing.
_CODE = "archive"


class Ruling(StrEnum):
    """The gate's ruling; `code` is the exit code."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    NOTHING = "nothing to judge"

    @property
    def code(self) -> int:
        return {Ruling.PASSED: 0, Ruling.NOTHING: 5}.get(self, 1)


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """What must hold beyond a report without faults. Hours and percent; None requires nothing."""

    rows: tuple[str, ...] = ()
    """Patterns of row names or ids; each must match a measured row."""
    max_overhead_pct: float | None = None
    max_round_overhead_pct: float | None = None
    """What no single round may exceed: a mean hides a stall that comes in one round of ten."""
    max_margin_pct: float | None = None
    """The widest margin that a verdict may rest on."""
    min_rounds: int | None = None
    publishable: bool = False
    level: Level = Level.CONSISTENT
    commit: str | None = None
    subject_sha256: str | None = None
    max_age_h: float | None = None
    min_lifecycle: float | None = None
    """The least one-sided 95 % lower bound of the share of lifecycles that held, 0 to 1."""
    allow_dirty: bool = False
    allow_lenient_policy: bool = False


@dataclass(frozen=True, kw_only=True)
class GateObjection:
    """One reason against the report. `undecided`: more rounds could still decide it."""

    path: str
    text: str
    undecided: bool = False

    def __str__(self) -> str:
        return f"{printable(self.path)}: {printable(self.text, limit=2000)}"


@dataclass(frozen=True, kw_only=True)
class Gated:
    """The ruling, all objections, and how many rows were judged. `notes` say what a requirement did not apply to."""

    ruling: Ruling
    objections: tuple[GateObjection, ...]
    judged: int
    selected: int
    level: Level
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The ruling as one line of text."""
        rows = f"{self.judged} of {self.selected} rows judged"
        if self.ruling is Ruling.PASSED:
            return f"GATE PASSED: {rows}, report {self.level.value}"
        first = f"; first: {self.objections[0]}" if self.objections else ""
        return f"GATE {self.ruling.value.upper()}: {counted(len(self.objections), 'objection')}, {rows}{first}"


def gate(document: Report, checked: Checked, policy: GatePolicy, *, now: datetime) -> Gated:
    """Judge a report that validates. `checked` is what `check` found in it; `now` is in UTC."""
    judged = [(place, row) for place, row in enumerate(document["rows"]) if counts_for_gate(row)]
    without_raw = [(place, row) for place, row in enumerate(document.get("sealedRows", ())) if counts_for_gate(row)]
    # Unmeasured rows come before what is missing because of them, so that the first objection is the cause.
    objections = [
        *(GateObjection(path=fault.path, text=fault.text) for fault in checked.faults),
        *_excluded(document),
        *_dry(document),
        *_missing(document, policy),
        *_level(checked, policy),
        *_unlimited(judged, without_raw, policy),
        *_run(document, policy, now),
        *_tried_again(document),
        *(each for place, row in judged for each in _row(f"$.rows[{place}]", row, policy, document["nullRows"])),
        *(each for place, row in without_raw for each in _sealed(f"$.sealedRows[{place}]", row, policy)),
    ]
    return Gated(
        ruling=_ruling(document, checked, objections, [*judged, *without_raw]),
        objections=tuple(objections),
        judged=len(judged) + len(without_raw),
        selected=document["summary"]["selected"],
        level=checked.level,
        notes=(*_notes(document, [row for _, row in without_raw], policy), *_if_run_again(objections)),
    )


def _ruling(document: Report, checked: Checked, objections: Sequence[GateObjection], judged: Sequence[object]) -> Ruling:
    broken = not checked.sound or any(each["outcome"] == "failed" for each in document["excludedResults"])
    if not judged and not broken and not document["summary"]["outstandingReleases"]:
        return Ruling.NOTHING
    if not objections:
        return Ruling.PASSED
    return Ruling.INCONCLUSIVE if all(each.undecided for each in objections) else Ruling.FAILED


def _level(checked: Checked, policy: GatePolicy) -> Iterator[GateObjection]:
    if checked.sound and checked.level.height < policy.level.height:
        why = checked.missing[0] if checked.missing else "nothing more is shown"
        yield GateObjection(path="$", text=f"it is {checked.level.value}, and {policy.level.value} was required: {why}")


def _run(document: Report, policy: GatePolicy, now: datetime) -> Iterator[GateObjection]:
    summary, subject = document["summary"], document["subject"]
    for place, each in enumerate(summary["outstandingReleases"]):
        text = f"a key was released for {each['sub']} and its exit evidence did not come back"
        yield GateObjection(path=f"$.summary.outstandingReleases[{place}]", text=text)
    if document["cleanup"]["status"] != "proven":
        yield GateObjection(
            path="$.cleanup.status", text=f"cleanup is {document['cleanup']['status']}: an allocation may still exist"
        )
    for place, case in enumerate(document["tamper"]):
        if not case["passed"]:
            yield GateObjection(path=f"$.tamper[{place}]", text=f"tamper case {case['name']} was not refused as expected")
    lower = summary["lifecycle"]["lower95"]
    if policy.min_lifecycle is not None and (lower is None or lower < policy.min_lifecycle):
        seen = "nothing was begun" if lower is None else f"at least {lower:.3f}"
        yield GateObjection(
            path="$.summary.lifecycle.lower95", text=f"{seen} of lifecycles held; {policy.min_lifecycle:g} was required"
        )
    revision = document["methodology"].get("invariantsRevision", 1)
    if revision < newest() and not policy.allow_lenient_policy:
        yield GateObjection(
            path="$.methodology.invariantsRevision",
            text=f"revision {revision} of the invariants judged it, which asks less than revision {newest()}; run the rows again",
        )
    yield from _subject(subject, policy)
    if policy.max_age_h is not None:
        yield from _age(document["createdAt"], policy.max_age_h, now)


def _subject(subject: Subject, policy: GatePolicy) -> Iterator[GateObjection]:
    if subject["dirty"] and not policy.allow_dirty:
        yield GateObjection(
            path="$.subject.dirty",
            text="the tree had changes, or test files that ran, that no commit names; commit them and run again",
        )
    commit = subject["gitCommit"]
    if commit is not None and subject["dirty"] is None and not policy.allow_dirty:
        yield GateObjection(
            path="$.subject.dirty", text="whether the tree had changes is not known: git did not answer; run again"
        )
    if policy.commit is not None and not _same_commit(policy.commit, commit):
        seen = "no commit" if commit is None else f"commit {commit[:12]}"
        yield GateObjection(path="$.subject.gitCommit", text=f"the report judges {seen}, not {policy.commit[:12]}")
    digest = subject["wheelSha256"]
    if policy.subject_sha256 is not None and digest != policy.subject_sha256:
        seen = "no file" if digest is None else f"a file with digest {digest[:16]}"
        yield GateObjection(path="$.subject.wheelSha256", text=f"the report judges {seen}, not {policy.subject_sha256[:16]}")


def _same_commit(wanted: str, seen: str | None) -> bool:
    return seen is not None and len(wanted) >= _SHORT_COMMIT and seen.startswith(wanted.lower())


def _age(created_at: str, max_age_h: float, now: datetime) -> Iterator[GateObjection]:
    age_s = (now - datetime.fromisoformat(created_at).astimezone(UTC)).total_seconds()
    if age_s > max_age_h * 3600:
        yield GateObjection(path="$.createdAt", text=f"it is {age_s / 3600:.1f} h old; at most {max_age_h:g} h were allowed")
    elif age_s < -AHEAD_S:
        yield GateObjection(path="$.createdAt", text=f"it is from {-age_s / 3600:.1f} h in the future; compare the clocks")


def _excluded(document: Report) -> Iterator[GateObjection]:
    for place, each in enumerate(document["excludedResults"]):
        text = f"{each['name']} ({each['order']}) was not measured: {each['outcome']}: {each['reason']}"
        yield GateObjection(path=f"$.excludedResults[{place}]", text=text)


def _dry(document: Report) -> Iterator[GateObjection]:
    measured: list[tuple[str, MeasuredRow | SealedRow]] = [
        *((f"$.rows[{place}]", row) for place, row in enumerate(document["rows"])),
        *((f"$.sealedRows[{place}]", row) for place, row in enumerate(document.get("sealedRows", ()))),
    ]
    for path, row in measured:
        if not counts_for_gate(row):
            named = row["namedGpuModel"]
            about = "any GPU" if named is None else f"the {named} it names"
            yield GateObjection(path=path, text=f"{row['name']} is {_instead(row)}: it says nothing about {about}")


def _instead(row: MeasuredRow | SealedRow) -> str:
    """What a row that does not count is."""
    return "a dry run" if row["dryRun"] else "simulated" if row["simulated"] else f"measured on {row['gpuModel']}"


def _missing(document: Report, policy: GatePolicy) -> Iterator[GateObjection]:
    measured: list[MeasuredRow | SealedRow] = [*document["rows"], *document.get("sealedRows", ())]
    if not measured and not document["excludedResults"]:
        yield GateObjection(path="$.rows", text="the report has no row")
    for pattern in policy.rows:
        rows = [row for row in measured if _matches(row, pattern)]
        if any(counts_for_gate(row) for row in rows):
            continue
        instead = [f"{row['name']}, which is {_instead(row)}" for row in rows]
        instead += [f"{row['name']}, which is {row['outcome']}" for row in document["excludedResults"] if _matches(row, pattern)]
        if instead:
            text = f"{pattern!r} is required and matched only by {'; '.join(dict.fromkeys(instead))}"
        else:
            text = f"no row matches {pattern!r}, which is required"
        yield GateObjection(path="$.rows", text=text)


def _matches(row: MeasuredRow | SealedRow | ExcludedRow, pattern: str) -> bool:
    return any(fnmatchcase(each, pattern) for each in (row["name"], row["rowId"]))


def _tried_again(document: Report) -> Iterator[GateObjection]:
    """Whatever the policy: rows that were tried until a result came out do not pass."""
    names: tuple[ListName, ...] = ("rows", "sealedRows", "nullRows", "excludedResults")
    for name in names:
        rows: Sequence[RowRecord] = document.get(name, ())
        for place, row in enumerate(rows):
            if attempts := attempts_line(row):
                yield GateObjection(
                    path=f"$.{name}[{place}].attempts", text=f"{row_title(row)} needed more than one attempt: {attempts}"
                )


def _row(path: str, row: MeasuredRow, policy: GatePolicy, nulls: Sequence[NullRow]) -> Iterator[GateObjection]:
    if reason := implausible(row, nulls):
        text = f"{row['name']}: {Verdict.IMPLAUSIBLE_NEGATIVE.value}: {reason}"
        yield GateObjection(path=f"{path}.verdict", text=text)
    yield from _of_any(path, row, policy, measured=len(row["roundFigures"]))  # those of an extension too
    yield from _overhead(path, row, policy, nulls)
    worst = max(row["roundFigures"], key=lambda each: each["overheadPct"])
    if policy.max_round_overhead_pct is not None and worst["overheadPct"] > policy.max_round_overhead_pct:
        yield GateObjection(
            path=f"{path}.roundFigures[{worst['round'] - 1}].overheadPct",
            text=f"{row['name']}: round {worst['round']} has {worst['overheadPct']:+.2f} %; at most "
            f"{policy.max_round_overhead_pct:g} % was allowed for any round",
        )
    if policy.max_margin_pct is not None and row["marginPct"] > policy.max_margin_pct:
        text = (
            f"{row['name']} was judged with a margin of {row['marginPct']:g} %; at most {policy.max_margin_pct:g} % was allowed"
        )
        yield GateObjection(path=f"{path}.marginPct", text=text)


def _sealed(path: str, row: SealedRow, policy: GatePolicy) -> Iterator[GateObjection]:
    """A row without a raw leg: everything but an overhead."""
    yield from _of_any(path, row, policy, measured=len(row["protectedRounds"]))


def _unlimited(judged: Sequence[object], without_raw: Sequence[object], policy: GatePolicy) -> Iterator[GateObjection]:
    """A limit on overhead does not apply to a row without a raw leg, so a report of such rows only shows nothing about it."""
    if policy.max_overhead_pct is not None and without_raw and not judged:
        text = f"no row has an overhead to be at most {policy.max_overhead_pct:g} %: the base of every judged row is sealed"
        yield GateObjection(path="$.rows", text=text)


def _notes(document: Report, without_raw: Sequence[SealedRow], policy: GatePolicy) -> tuple[str, ...]:
    limit = document["methodology"]["maxOverheadPct"] if policy.max_overhead_pct is None else policy.max_overhead_pct
    if limit is None or not without_raw:
        return ()
    names = ", ".join(printable(row["name"]) for row in without_raw)
    return (
        f"the limit on overhead does not apply to {names}: the base is sealed, so there is no raw leg; judged by the lifecycle",
    )


def _if_run_again(objections: Sequence[GateObjection]) -> Iterator[str]:
    if any(each.path.endswith(".overheadPct") for each in objections):
        yield "another run is another try, and not the same one: of rows exactly at their limit, 1 try passes 5 %, 3 tries 14 %"


def _of_any(path: str, row: MeasuredRow | SealedRow, policy: GatePolicy, *, measured: int) -> Iterator[GateObjection]:
    if policy.publishable and not row["publishable"]:
        because = "; ".join(row["unpublishableBecause"])
        yield GateObjection(path=f"{path}.publishable", text=f"{row['name']} is not publishable: {because}")
    if policy.min_rounds is not None and measured < policy.min_rounds:
        text = f"{row['name']} has {counted(measured, 'round')}; at least {policy.min_rounds} were required"
        yield GateObjection(path=f"{path}.rounds", text=text)
    if not policy.allow_lenient_policy:
        yield from (GateObjection(path=path, text=f"{row['name']}: {why}") for why in _lenient(row))


def _lenient(row: MeasuredRow | SealedRow) -> list[str]:
    """In what a measured row's attestation policy asks for less than this project does, each reason once.

    A report follows from its own data whatever its policy allowed, so this is the gate's question and not a fault.
    """
    found = [f"waives {each['invariant']}: {each['reason']}" for each in row["waived"]]
    for observed in observed_rounds(row["observation"]):
        for _, part in parts_of_round(observed):
            policy, nodes = protected_of(part).get("policy"), planned_nodes(row["observation"])
            found += _lenient_policy(policy, nodes) if isinstance(policy, dict) else ["its policy is not in the report"]
    return list(dict.fromkeys(found))


def _lenient_policy(policy: Mapping[str, object], nodes: int) -> Iterator[str]:
    components = policy.get("components")
    code = components.get(_CODE) if isinstance(components, dict) else None
    if not isinstance(code, dict) or not isinstance(code.get("required"), str):
        yield "its policy does not require the guest's code to be known"
    antidebug = policy.get("antidebug")
    if isinstance(antidebug, dict):
        version = antidebug.get("version")
        if antidebug.get("profile") != ANTIDEBUG_PROFILE or not isinstance(version, int) or version < ANTIDEBUG_VERSION:
            yield "its policy accepts another anti-debug profile than this project's"
    limit = policy.get("release_limit")
    if isinstance(limit, int) and limit > nodes:
        yield f"its policy lets a key be released {limit} times" + ("" if nodes == 1 else f", on {nodes} nodes")


def _overhead(path: str, row: MeasuredRow, policy: GatePolicy, nulls: Sequence[NullRow]) -> Iterator[GateObjection]:
    # The limit that the run was given applies unless the policy has another one, stricter or milder.
    limit = limit_of(row, policy.max_overhead_pct, null_rows=nulls)
    if limit is None or limit.passed:
        return
    shown = "no bound" if limit.upper95_pct is None else f"upper bound {limit.upper95_pct:+.2f} %"
    yield GateObjection(
        path=f"{path}.overheadPct",
        text=f"{row['name']}: {limit.verdict.value} of {limit.limit_pct:g} %: {limit.reason} ({shown})",
        undecided=limit.verdict is LimitVerdict.INCONCLUSIVE and not implausible(row, nulls),
    )
