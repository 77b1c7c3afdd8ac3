"""Invariants of the work: adapters distinct and trained, losses finite, same prologue, same settings of all legs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_glasshouse.invariants import rank_checks, verified
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, broken, judge_rounds, unseen
from pytest_glasshouse.invariants.trust import weights_from_package

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.observation.document import Observation, TrainingPlanRecord
    from pytest_glasshouse.observation.trained import Trained
    from pytest_glasshouse.rows.leg_order import Role

    Setting = tuple[str, object, object]

#: What the legs may differ in: everything else must be equal.
TREATMENT = ("attestation", "sealed source", "journal", "anti-debug", "zeroize")
#: Relative difference of prologue losses allowed on a GPU, whose kernels may sum in another order; none on a CPU.
GPU_LOSS_TOLERANCE = 5e-3

#: Facts of a trainer that are measurements, not settings.
_MEASURED_FACTS = ("peakMemoryBytes",)


def adapter_digests_distinct(observation: Observation) -> Finding:
    """Separate trainings leave separate adapters, in whatever round, each with the digest that its leg reported."""
    before: dict[str, str] = {}

    def judge(reader: EvidenceReader) -> str:
        held = distinct(reader)
        for leg, digest in _adapters(reader).items():
            if digest in before:
                raise broken(
                    f"the {leg} leg exported the adapter of {before[digest]}",
                    expected="an adapter of each leg's and round's own",
                    seen=digest,
                    todo="do not use this row: one leg's result was copied, or nothing was trained",
                )
            before[digest] = f"the {leg} leg in round {reader.notes['round']}"
        return held

    # Every node exports the one adapter, which `both adapters trained` compares.
    return judge_rounds("adapter digests distinct", observation, judge, of_node=distinct)


def distinct(reader: EvidenceReader) -> str:
    """One round's adapters differ."""
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
    return judge_rounds("both adapters trained", observation, _trained, of_rank=rank_checks.one_adapter, of_node=_trained_on_node)


def _trained_on_node(reader: EvidenceReader) -> str:
    held = _trained(reader)
    rank_checks.one_adapter_over_nodes(reader)
    return held


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
    if len(digests) == 1:
        return "it differs from the initial weights"
    return f"{'both' if len(digests) == 2 else 'all'} differ from the initial weights"  # noqa: PLR2004


def _adapters(reader: EvidenceReader) -> dict[Role, str]:
    """Each leg's adapter digest: computed from the exported bytes by the host, and as the leg itself signed or reported."""
    present = verified.legs(reader)
    for leg in present:
        reader.ran(leg)
    reported: dict[Role, str] = {}
    if "protected" in present:
        reported["protected"] = verified.head_claims(reader)["adapter"]
        if not reported["protected"]:
            raise unseen("the protected leg exported no adapter")
    reported |= {leg: verified.callback(reader, leg)["adapter"] for leg in verified.raw_legs(reader)}
    for leg, digest in reported.items():
        computed = reader.of(leg, "adapterSha256")
        if computed != digest:
            raise broken(
                f"the {leg} adapter that arrived is not the one the leg reported",
                expected=f"adapter {digest}",
                seen=f"adapter {computed}",
                todo="do not use this row: the adapter was changed on the way",
            )
    return reported


def losses_finite(observation: Observation) -> Finding:
    """Every loss that was reported is a finite number, and no leg ended for one that was not."""
    return judge_rounds("losses finite", observation, _finite, of_rank=_finite)


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
    bodies = verified.ends(reader)
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
    return judge_work(observation, same)


def judge_work(observation: Observation, judge: Callable[[EvidenceReader], str]) -> Finding:
    """`same work` by `judge`, which is not applied where the protected leg trained from other weights."""
    weights = weights_from_package(observation)

    def judge_if_same_weights(reader: EvidenceReader) -> str:
        if weights.finding == "broken":
            reader.read.append(weights.evidence)
            raise unseen("not comparable: the protected leg trained from other weights", expected="the same weights")
        return judge(reader)

    return judge_rounds("same work", observation, judge_if_same_weights, of_rank=judge_if_same_weights)


def same(reader: EvidenceReader, *, settings: Callable[..., list[Setting]] | None = None) -> str:
    """Compare every other leg's work with the (first) raw leg's. Revision 1 compared other `settings`."""
    bodies = verified.ends(reader)
    others = [leg for leg in bodies if leg != "raw"]
    if "raw" not in bodies or not others:
        raise unseen("there are no two legs to compare", expected="a raw leg and another one", seen=", ".join(bodies) or "none")
    compared = [_like_raw(reader, leg, bodies[leg], bodies["raw"], settings or _settings) for leg in others]
    treatment = f"nothing differs but {', '.join(TREATMENT)}" if "protected" in bodies else "nothing differs"
    return f"{compared[0]} prologue losses agree; {treatment}"


def _like_raw(reader: EvidenceReader, leg: Role, ours: Trained, raw: Trained, settings: Callable[..., list[Setting]]) -> int:
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
                at=step,
            )
    for name, own, other in settings(reader, leg, ours, raw):
        if own != other:
            raise broken(
                f"the legs' {name} differ beyond the treatment",
                expected=f"raw: {other}",
                seen=f"{leg}: {own}",
                todo="do not use this row: a difference that is no protection was measured",
            )
    return len(pairs)


def _settings(reader: EvidenceReader, leg: Role, body: Trained, raw: Trained) -> list[Setting]:
    ours, theirs = _plans(reader, leg)
    if ours["order_seed"] == theirs["order_seed"]:
        raise broken(
            "the legs took their batches in the same order",
            expected="a data order of each leg's own",
            seen="one seed twice",
            todo="do not use this row: the legs' adapters cannot be told apart",
        )
    found = settings_of_process(reader, leg, body, raw, plans=(ours, theirs))
    return [*found, ("cache state", reader.maybe(leg, "cache"), reader.maybe("raw", "cache"))]


def _plans(reader: EvidenceReader, leg: Role) -> tuple[TrainingPlanRecord, TrainingPlanRecord]:
    return reader.of(leg, "trainingPlan"), reader.of("raw", "trainingPlan")


def settings_of_process(
    reader: EvidenceReader,
    leg: Role,
    body: Trained,
    raw: Trained,
    *,
    plans: tuple[TrainingPlanRecord, TrainingPlanRecord] | None = None,
) -> list[Setting]:
    """Plan, surroundings, facts and loaded code of a leg and of the raw one: all that revision 1 compared."""
    ours, theirs = (_without(plan, "order_seed") for plan in plans or _plans(reader, leg))
    context, raw_context = _without(body["context"]), _without(raw["context"])
    names = sorted(context.keys() | raw_context.keys())
    found: list[Setting] = [("training plan", ours, theirs)]
    found += [(name.replace("_", " "), context.get(name), raw_context.get(name)) for name in names]
    facts = [_without(each["facts"], *_MEASURED_FACTS) for each in (body, raw)]
    images = [reader.of(each, "images") for each in (leg, "raw")]
    return [*found, ("workload facts", facts[0], facts[1]), ("loaded code", images[0], images[1])]


def _without(members: Mapping[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in members.items() if name not in names}
