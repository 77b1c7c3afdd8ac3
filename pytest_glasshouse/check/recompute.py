"""Derives one record again from its observation and compares it field by field.

The expected values come from the functions that wrote the record (`invariants`, `observation.results`, `analysis`), so that every
rule exists once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from pytest_glasshouse.analysis.costs import price
from pytest_glasshouse.analysis.covariates import covariates, disturbances
from pytest_glasshouse.analysis.extension import extension, extension_figures
from pytest_glasshouse.analysis.figures import judged_figures, row_figures
from pytest_glasshouse.analysis.lifecycle import lifecycle
from pytest_glasshouse.analysis.looks import sequential_figures
from pytest_glasshouse.analysis.null_row import null_figures
from pytest_glasshouse.analysis.planned_rounds import rounds_of
from pytest_glasshouse.analysis.record import data_order_seeds, finding_json, finding_states, turns, workload_facts
from pytest_glasshouse.analysis.row_cut import cut_figures
from pytest_glasshouse.analysis.sampling import is_current, sampled
from pytest_glasshouse.analysis.scaling import scaling
from pytest_glasshouse.analysis.sealed_row import sealed_figures
from pytest_glasshouse.errors import GlasshouseError, IntegrityError, ProtocolError
from pytest_glasshouse.invariants.revisions import IMPLAUSIBLE_BEFORE_NULL
from pytest_glasshouse.observation.document import check_observation
from pytest_glasshouse.observation.reading import (
    cache_state,
    invariant_key,
    is_sealed,
    journal_lines,
    journals,
    observed_rounds,
    parts_of_round,
    protected_of,
    stand_in,
    strict_memory,
    treatment,
)
from pytest_glasshouse.overhead.interval import overhead_pct
from pytest_glasshouse.report.fields import every_row
from pytest_glasshouse.wire.journal import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import ExcludedRow, FindingRecord, MeasuredRow, NullRow, RowFound, SealedRow
    from pytest_glasshouse.analysis.figure_fields import RoundFigures, RowFigures
    from pytest_glasshouse.invariants import Finding
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import RoundResult
    from pytest_glasshouse.overhead.null import Null
    from pytest_glasshouse.report.fields import Report
    from pytest_glasshouse.rows.leg_order import LegName

    Faults = Iterator[tuple[str, str]]

#: A rate is a quotient of two numbers of the same record, equal but for rounding.
_RELATIVE = 1e-12
#: Sentences that follow from a row's figures, compared only where this version wrote them.
_SENTENCES = ("interpretation", "verdictReason", "method")
#: Fields added together after the first reports: a row has all of them, or is older and has none.
_ADDED_FIELDS = ("estimates", "nullQualifies", "fixedCosts", "totalCost", "priceUsdPerHour")
#: Texts of a finding for people, covered by the row's seal. They are not compared, because a later version may word them
#: differently. Name, state and evidence of a finding are compared.
_FREE_TEXT = ("reason", "expected", "seen", "todo")

#: What an observation of the right types may still raise: a note that is missing, an empty list, a time of zero.
_UNDERIVABLE = (GlasshouseError, LookupError, ValueError, ArithmeticError)
#: Fields that a row has only where its observation gives them.
_OPTIONAL_FIELDS = (
    "cacheState", "covariates", "interleaving", "steady", "cut", "sequential", "scaling", "worstRound", "allocationNull",
)  # fmt: skip
_OPTIONAL_NULL_FIELDS = ("cut", "roundsMeanPct", "roundLogRatios")


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """The functions a report is derived with; None means the project's own."""

    results: Callable[[Observation], Sequence[RoundResult]] | None = None
    judge: Callable[[Observation], Sequence[Finding]] | None = None
    binding: Callable[[Report], Faults] | None = None
    devices: Callable[[Report], Faults] | None = None
    """What appraises the device evidence again; this wing does not know how. None leaves it to the server's signature."""
    typed_observations: bool = True
    """Whether observations have the form of `observation.document`; those of a test's own engine may have another."""
    sentences: bool = True
    """Whether sentences that follow from figures are compared: another version may word them differently."""
    revision: int | None = None
    """The revision of the invariants that judged the report; None for this version's own."""

    def rounds(self, observation: Observation) -> Sequence[RoundResult]:
        if self.results is not None:
            return self.results(observation)
        from pytest_glasshouse.observation.results import results

        return results(observation)

    def findings(self, observation: Observation) -> Sequence[Finding]:
        if self.judge is not None:
            return self.judge(observation)
        from pytest_glasshouse.invariants.revisions import judge_as, newest

        return judge_as(observation, newest() if self.revision is None else self.revision)

    def malformed(self, document: Report) -> Faults:
        """For each malformed observation its first value of a wrong type. Everything else here relies on the types."""
        if not self.typed_observations:
            return
        for path, _, record in every_row(document):
            try:
                check_observation(record["observation"], f"{path}.observation")
            except ProtocolError as error:
                where, _, text = str(error).partition(": ")
                yield where, text

    def binding_faults(self, document: Report) -> Faults:
        if self.binding is not None:
            return self.binding(document)
        from pytest_glasshouse.check.binding import binding_faults
        from pytest_glasshouse.check.signatures import vouching_faults

        return chain(binding_faults(document), vouching_faults(document))


def record_faults(
    record: MeasuredRow | ExcludedRow, derivation: Derivation, *, max_overhead_pct: float | None, null: Null | None = None
) -> Faults:
    """Every fault of one `rows[]` or `excludedResults[]` object, its path relative to the object.

    `null` is that of its allocation (`analysis.allocation_null`), by the report's other rows.
    """
    if "outcome" not in record:
        yield from _arithmetic_faults(record)
    yield from _state_faults(record)
    if not record["observation"]:
        if record["findings"] or record["lifecycle"]["held"] or "outcome" not in record:
            yield ".observation", "is empty, so that nothing in this record follows from it"
        return
    if "outcome" not in record:
        yield from _journal_faults(record["observation"])
    try:
        yield from _derived_faults(record, derivation, max_overhead_pct, null)
    except _UNDERIVABLE as error:
        yield ".observation", f"cannot be derived from ({type(error).__name__})"


def null_faults(record: NullRow, derivation: Derivation) -> Faults:
    """Every fault of one `nullRows[]` object, its path relative to the object."""
    observation = record["observation"]
    try:
        yield from _finding_faults(record["findings"], [finding_json(each) for each in derivation.findings(observation)])
        for place, each in enumerate(record["findings"]):
            if each["finding"] != "held":
                yield f".findings[{place}]", f"{each['invariant']} is {each['finding']}, and this is a measured row"
        rounds = derivation.rounds(observation)
        expected: dict[str, object] = {
            **null_figures(rounds, margin_pct=record["marginPct"], current=is_current(observation)),
            **cut_figures(observation, rounds),
            **turns(observation, rounds),
        }
    except _UNDERIVABLE as error:
        yield ".observation", f"cannot be derived from ({type(error).__name__})"
        return
    written: Mapping[str, object] = record
    for field in _OPTIONAL_NULL_FIELDS:
        if field in written and field not in expected:
            yield f".{field}", "nothing in the observation gives it"
    for field, value in expected.items():
        yield from differences(f".{field}", value, written.get(field))


def sealed_faults(record: SealedRow, derivation: Derivation) -> Faults:
    """Every fault of one `sealedRows[]` object, its path relative to the object."""
    yield from _state_faults(record)
    observation = record["observation"]
    yield from _journal_faults(observation)
    if not is_sealed(observation):
        yield ".observation.plan", "has no sealed base: a row that is compared with nothing must be planned as one"
    try:
        findings = derivation.findings(observation)
        yield from _finding_faults(record["findings"], [finding_json(each) for each in findings])
        yield from _lifecycle_faults(record, derivation, findings)
        expected: dict[str, object] = {
            **sealed_figures(derivation.rounds(observation)),
            "journal": journals(observation),
            "treatment": treatment(observation),
            "standIn": stand_in(observation),
            **cache_state(observation),
            **strict_memory(observation),
        }
    except _UNDERIVABLE as error:
        yield ".observation", f"cannot be derived from ({type(error).__name__})"
        return
    if "cacheState" in record and "cacheState" not in expected:
        yield ".cacheState", "nothing in the observation gives it"
    written: Mapping[str, object] = record
    for field, value in expected.items():
        if field not in _SENTENCES or derivation.sentences:
            yield from differences(f".{field}", value, written.get(field))


def _lifecycle_faults(record: RowFound, derivation: Derivation, findings: Sequence[Finding]) -> Faults:
    observation = record["observation"]
    waived = {each["invariant"]: each["reason"] for each in record["waived"]}

    def judged(part: Observation) -> Sequence[Finding]:
        """A row of one round equals its only round, which was judged already."""
        return findings if part == observation else derivation.findings(part)

    counted = lifecycle(observation, waived=waived, judge=judged)
    if record["lifecycle"] != counted:
        yield ".lifecycle", f"the observation gives {counted['held']} held of {counted['attempted']}"


def _arithmetic_faults(row: MeasuredRow) -> Faults:
    """Faults that follow from the figures alone."""
    yield from _rate_faults("", row)
    for place, each in enumerate(row["roundFigures"]):
        yield from _rate_faults(f".roundFigures[{place}]", each)
    rounds = [_legs(each) for each in row["roundFigures"]]
    for leg, total in _legs(row).items():
        units = sum(each[leg].units for each in rounds)
        seconds = math.fsum(each[leg].elapsed_s for each in rounds)
        if units != total.units:
            yield f".{leg}Units", f"the rounds give {units}"
        if not math.isclose(seconds, total.elapsed_s, rel_tol=1e-9):
            yield f".{leg}ElapsedSec", f"the rounds give {seconds!r}"
    count = rounds_of(row)
    if any(each["round"] != place for place, each in enumerate(row["roundFigures"], 1)) or len(row["roundFigures"]) != count:
        yield ".roundFigures", f"expected rounds 1 to {count}, each once, in order"
    if row["protectedAdapterSha256"] == row["rawAdapterSha256"]:
        yield ".rawAdapterSha256", "is the protected leg's digest too"


class _LegFigures(NamedTuple):
    units: int
    elapsed_s: float
    per_s: float


def _legs(figures: RowFigures | RoundFigures) -> dict[LegName, _LegFigures]:
    """What one leg did, by leg."""
    return {
        "protected": _LegFigures(figures["protectedUnits"], figures["protectedElapsedSec"], figures["protectedPerSec"]),
        "raw": _LegFigures(figures["rawUnits"], figures["rawElapsedSec"], figures["rawPerSec"]),
    }


def _rate_faults(path: str, figures: RowFigures | RoundFigures) -> Faults:
    for leg, given in _legs(figures).items():
        expected = given.units / given.elapsed_s
        if not math.isclose(expected, given.per_s, rel_tol=_RELATIVE):
            yield f"{path}.{leg}PerSec", f"units and seconds give {expected!r}"
    expected = overhead_pct(figures["protectedPerSec"], figures["rawPerSec"])
    if not math.isclose(expected, figures["overheadPct"], rel_tol=1e-9, abs_tol=1e-9):
        yield f"{path}.overheadPct", f"the rates give {expected:.2f}"


def _state_faults(record: MeasuredRow | SealedRow | ExcludedRow) -> Faults:
    """States that follow from the findings, and whether all findings of a measured row passed."""
    stated: Mapping[str, object] = record
    for name, value in finding_states(record["findings"]).items():
        # A sealed row has no raw leg whose state could be stated.
        if (name in stated or "protectedRounds" not in record) and stated[name] != value:
            yield f".{name}", f"the findings give {value}"
    waived = {invariant_key(each["invariant"]) for each in record["waived"]}
    names = [invariant_key(each["invariant"]) for each in record["findings"]]
    if len(set(names)) != len(names):
        yield ".findings", "an invariant is judged twice"
    if "outcome" in record:
        return
    for place, each in enumerate(record["findings"]):
        if each["finding"] == "unseen" and invariant_key(each["invariant"]) not in waived:
            yield f".findings[{place}]", f"{each['invariant']} is unseen, and this is a measured row"
        if each["finding"] != "held" and record["publishable"]:
            yield ".publishable", f"{each['invariant']} is {each['finding']}"
    if record["namedGpuModel"] not in {None, record["gpuModel"]} and record["publishable"]:
        yield ".publishable", "it did not run on the GPU it names"
    if record["standIn"] and record["publishable"]:
        yield ".publishable", "a stand-in model was trained"


def _journal_faults(observation: Observation) -> Faults:
    """Read the journals of a measured row, each of which must be a whole lifecycle. In an excluded row the findings judge that.

    Whether a journal is the one whose head was signed is the finding `journal countersigned`.
    """
    for place, observed in enumerate(observed_rounds(observation)):
        for below, part in parts_of_round(observed):
            lines = journal_lines(part)
            challenge = protected_of(part).get("challenge")
            if not lines:
                continue
            try:
                read(lines, "" if challenge is None else challenge["nonce"], head=None)
            except IntegrityError as error:
                yield f".observation.rounds[{place}]{below}.protected.journal", str(error)


def _derived_faults(
    record: MeasuredRow | ExcludedRow, derivation: Derivation, max_overhead_pct: float | None, null: Null | None
) -> Faults:
    observation = record["observation"]
    findings = derivation.findings(observation)
    yield from _finding_faults(record["findings"], [finding_json(each) for each in findings])
    yield from _lifecycle_faults(record, derivation, findings)
    if "outcome" in record:
        return
    yield from ((".observation", f"it must not be measured: {each}") for each in disturbances(observation))
    rounds = derivation.rounds(observation)
    extended = extension(observation, rounds)
    first_rounds = None if extended is None else extended.first_rounds
    sampling = sampled(observation, [each.order for each in rounds], first_rounds=first_rounds)
    figures = row_figures(rounds, sampling=sampling, usd_per_hour=price(observation))
    judgement = judged_figures(
        figures,
        order=record["order"],
        margin_pct=record["marginPct"],
        fixed_order=record["fixedOrder"],
        max_overhead_pct=max_overhead_pct,
        sampling=sampling,
        current=is_current(observation),
        null=null,
        null_first=derivation.revision is not None and derivation.revision < IMPLAUSIBLE_BEFORE_NULL,
        by_round=derivation.revision is None or derivation.revision > IMPLAUSIBLE_BEFORE_NULL,
    )
    expected: dict[str, object] = {**figures, **judgement, **extension_figures(extended, observation, rounds)}
    expected |= {**cut_figures(observation, rounds), **sequential_figures(observation, rounds)}
    if extended is None and "extension" in record:
        yield ".extension", "the plan that was signed for has no width to extend to"
    expected |= {
        "journal": journals(observation),
        "treatment": treatment(observation),
        "standIn": stand_in(observation),
        **cache_state(observation),
        **covariates(observation),
        **strict_memory(observation),
        "dataOrderSeeds": data_order_seeds(rounds),
        "workloadFacts": workload_facts(rounds),
        **turns(observation, rounds),
        **scaling(observation, rounds),
    }
    for optional in _OPTIONAL_FIELDS:
        if optional in record and optional not in expected:
            yield f".{optional}", "nothing in the observation gives it"
    written: Mapping[str, object] = record
    older = not any(name in record for name in _ADDED_FIELDS)
    for field, value in expected.items():
        if older and field in _ADDED_FIELDS:
            continue
        if field not in _SENTENCES or derivation.sentences:
            yield from differences(f".{field}", value, written.get(field))


def _finding_faults(found: Sequence[FindingRecord], expected: Sequence[FindingRecord]) -> Faults:
    written = {each["invariant"]: (place, each) for place, each in enumerate(found)}
    for finding in expected:
        if finding["invariant"] not in written:
            yield ".findings", f"{finding['invariant']} is not among them; it is {finding['finding']}"
            continue
        place, each = written.pop(finding["invariant"])
        stated: Mapping[str, object] = each
        for field, value in finding.items():
            if field not in _FREE_TEXT and stated[field] != value:
                text = f"the observation gives {value!r}" if field == "finding" else "does not follow"
                yield f".findings[{place}].{field}", text
    for name, (place, _) in written.items():
        yield f".findings[{place}]", f"{name} is no invariant of this version"


def differences(path: str, expected: object, written: object) -> Faults:
    """Where two JSON values differ; numbers are compared to nine digits."""
    if expected == written:
        return
    if isinstance(expected, dict) and isinstance(written, dict) and expected.keys() == written.keys():
        for key, value in expected.items():
            yield from differences(f"{path}.{key}", value, written[key])
    elif isinstance(expected, list | tuple) and isinstance(written, list) and len(expected) == len(written):
        for place, value in enumerate(expected):
            yield from differences(f"{path}[{place}]", value, written[place])
    elif isinstance(expected, float) and isinstance(written, int | float) and not isinstance(written, bool):
        if not math.isclose(expected, written, rel_tol=1e-9, abs_tol=1e-9):
            yield path, f"the observation gives {expected!r}"
    elif expected != written:
        yield path, "does not follow from the observation"
