"""Did both legs do the same, real work: adapters distinct and trained, losses finite, same prologue, same surroundings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.invariants import verified as reading
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, broken, judge_rounds, unseen
from pytest_glasshouse.invariants.trust import weights_from_package

if TYPE_CHECKING:
    from pytest_glasshouse.invariants.finding import Observation

#: What the legs may differ in: everything else must be equal.
TREATMENT = ("attestation", "sealed source", "journal", "anti-debug", "zeroize")
#: Relative difference of prologue losses allowed on a GPU, whose kernels may sum in another order; none on a CPU.
GPU_LOSS_TOLERANCE = 5e-3

#: Facts of a trainer that are measurements, not settings.
_MEASURED_FACTS = ("peakMemoryBytes",)


def adapter_digests_distinct(observation: Observation) -> Finding:
    """Two separate trainings leave two adapters, each with the digest its leg told."""
    return judge_rounds("adapter digests distinct", observation, _distinct)


def _distinct(reader: EvidenceReader) -> str:
    digests = _adapters(reader)
    if len(set(digests.values())) < len(digests):
        raise broken(
            "two legs exported the same adapter",
            expected="an adapter of each leg's own",
            seen=", ".join(f"{leg}: {digest}" for leg, digest in digests.items()),
            todo="do not use this row: one leg's result was copied or neither was trained",
        )
    return " and ".join(digest[:16] for digest in digests.values())


def adapters_trained(observation: Observation) -> Finding:
    """Neither adapter is the initial one."""
    return judge_rounds("both adapters trained", observation, _trained)


def _trained(reader: EvidenceReader) -> str:
    digests, initial = _adapters(reader), reader.of_row("material", "initialSha256")
    for leg, digest in digests.items():
        if digest == initial:
            raise broken(
                f"the {leg} leg exported the initial weights",
                expected="an adapter that differs from the initial one",
                seen=f"{digest}, the initial one",
                todo="do not use this row: that leg trained nothing",
            )
    return f"{'both' if len(digests) == 2 else 'all'} differ from the initial weights"  # noqa: PLR2004


def _adapters(reader: EvidenceReader) -> dict[str, str]:
    """Each leg's adapter digest: computed from the exported bytes by the host, and as the leg itself signed or said."""
    present = reading.legs(reader)
    for leg in present:
        reader.ran(leg)
    told = {"protected": reading.head_claims(reader)["adapter"]} if "protected" in present else {}
    if not told.get("protected", "none expected"):
        raise unseen("the protected leg exported no adapter")
    told |= {leg: reader.of(leg, "callback")["adapter"] for leg in reading.raw_legs(reader)}
    for leg, digest in told.items():
        computed = reader.of(leg, "adapterSha256")
        if computed != digest:
            raise broken(
                f"the {leg} adapter that arrived is not the one the leg told of",
                expected=f"adapter {digest}",
                seen=f"adapter {computed}",
                todo="do not use this row: the adapter was changed on the way",
            )
    return told


def losses_finite(observation: Observation) -> Finding:
    """Every loss that was reported is a finite number, and no leg ended for one that was not."""
    return judge_rounds("losses finite", observation, _finite)


def _finite(reader: EvidenceReader) -> str:
    for leg in reader.of("order"):
        failed = reader.maybe(leg, "failed")
        if failed is not None and failed["reason"] == "non-finite loss":
            raise broken(
                f"the {leg} leg's loss was not finite",
                expected="finite losses",
                seen=str(failed["detail"]),
                todo="check the data and the initial weights, or lower the learning rate",
            )
    bodies = reading.ends(reader)
    for leg, body in bodies.items():
        for loss in (*body["prologue"], body["final_loss"]):
            if not math.isfinite(float(loss)):
                raise broken(
                    f"the {leg} leg reported a loss that is not finite",
                    expected="finite losses",
                    seen=loss,
                    todo="check the data and the initial weights, or lower the learning rate",
                )
    return f"final losses {' and '.join(body['final_loss'] for body in bodies.values())}"


def same_work(observation: Observation) -> Finding:
    """Same prologue losses, same plan but for the data order's seed, same surroundings but for the treatment."""
    weights = weights_from_package(observation)

    def judge(reader: EvidenceReader) -> str:
        if weights.finding == "broken":
            reader.read.append(weights.evidence)
            raise unseen("not comparable: the protected leg trained from other weights", expected="the same weights")
        return _same(reader)

    return judge_rounds("same work", observation, judge)


def _same(reader: EvidenceReader) -> str:
    """Every other leg's work is the (first) raw leg's."""
    bodies = reading.ends(reader)
    compared = [_like_raw(reader, leg, bodies[leg], bodies["raw"]) for leg in bodies if leg != "raw"]
    treatment = f"nothing differs but {', '.join(TREATMENT)}" if "protected" in bodies else "nothing differs"
    return f"{compared[0]} prologue losses agree; {treatment}"


def _like_raw(reader: EvidenceReader, leg: str, ours: dict[str, Any], raw: dict[str, Any]) -> int:
    """How many losses of the prologue were compared."""
    tolerance = 0.0 if ours["facts"]["device"] == "cpu" else GPU_LOSS_TOLERANCE
    pairs = list(zip(ours["prologue"], raw["prologue"], strict=False))
    if len(ours["prologue"]) != len(raw["prologue"]) or not pairs:
        raise broken(
            "the legs' prologues have different lengths",
            expected=f"{len(raw['prologue'])} losses",
            seen=f"{len(ours['prologue'])}",
            todo="do not use this row",
        )
    for step, (mine, theirs) in enumerate(pairs, 1):
        if not math.isclose(float(mine), float(theirs), rel_tol=tolerance, abs_tol=0.0):
            raise broken(
                f"the legs did different work: prologue losses differ at step {step}",
                expected=f"loss {theirs} (raw)",
                seen=f"loss {mine} ({leg})",
                todo="do not use this row: data, weights or arithmetic differ",
            )
    for name, mine, theirs in _settings(reader, leg, ours, raw):
        if mine != theirs:
            raise broken(
                f"the legs' {name} differ beyond the treatment",
                expected=f"raw: {theirs}",
                seen=f"{leg}: {mine}",
                todo="do not use this row: a difference that is no protection was measured",
            )
    return len(pairs)


def _settings(reader: EvidenceReader, leg: str, body: dict[str, Any], raw: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    ours, theirs = dict(reader.of(leg, "trainingPlan")), dict(reader.of("raw", "trainingPlan"))
    if ours.pop("order_seed") == theirs.pop("order_seed"):
        raise broken(
            "the legs took their batches in the same order",
            expected="a data order of each leg's own",
            seen="one seed twice",
            todo="do not use this row: the legs' adapters cannot be told apart",
        )
    found = [("training plan", ours, theirs)]
    names = sorted(body["context"].keys() | raw["context"].keys())
    found += [(name.replace("_", " "), body["context"].get(name), raw["context"].get(name)) for name in names]
    facts = [{k: v for k, v in each["facts"].items() if k not in _MEASURED_FACTS} for each in (body, raw)]
    images = [reader.of(each, "images") for each in (leg, "raw")]
    found += [("workload facts", facts[0], facts[1]), ("loaded code", images[0], images[1])]
    caches = [reader.maybe(each, "cache") for each in (leg, "raw")]
    return [*found, ("cache state", caches[0], caches[1])]
