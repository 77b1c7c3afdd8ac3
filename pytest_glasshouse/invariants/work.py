"""Did both legs do the same, real work: adapters distinct and trained, losses finite, same prologue, same surroundings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.invariants import reading
from pytest_glasshouse.invariants.finding import Desk, Finding, Verdict, broken, judge_rounds, unseen
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


def _distinct(desk: Desk) -> str:
    digests = _adapters(desk)
    if digests["protected"] == digests["raw"]:
        raise broken(
            "both legs exported the same adapter",
            expected="two adapters",
            seen=f"{digests['protected']} twice",
            todo="do not use this row: one leg's result was copied or neither was trained",
        )
    return f"{digests['protected'][:16]} and {digests['raw'][:16]}"


def adapters_trained(observation: Observation) -> Finding:
    """Neither adapter is the initial one."""
    return judge_rounds("both adapters trained", observation, _trained)


def _trained(desk: Desk) -> str:
    digests, initial = _adapters(desk), desk.of_row("material", "initialSha256")
    for leg, digest in digests.items():
        if digest == initial:
            raise broken(
                f"the {leg} leg exported the initial weights",
                expected="an adapter that differs from the initial one",
                seen=f"{digest}, the initial one",
                todo="do not use this row: that leg trained nothing",
            )
    return "both differ from the initial weights"


def _adapters(desk: Desk) -> dict[str, str]:
    """Each leg's adapter digest: computed from the exported bytes by the host, and as the leg itself signed or said."""
    desk.ran("protected")
    desk.ran("raw")
    told = {"protected": reading.head_claims(desk)["adapter"], "raw": desk.of("raw", "callback")["adapter"]}
    if not told["protected"]:
        raise unseen("the protected leg exported no adapter")
    for leg, digest in told.items():
        computed = desk.of(leg, "adapterSha256")
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


def _finite(desk: Desk) -> str:
    for leg in desk.of("order"):
        failed = desk.maybe(leg, "failed")
        if failed is not None and failed["reason"] == "non-finite loss":
            raise broken(
                f"the {leg} leg's loss was not finite",
                expected="finite losses",
                seen=str(failed["detail"]),
                todo="check the data and the initial weights, or lower the learning rate",
            )
    bodies = _bodies(desk)
    for leg, body in bodies.items():
        for loss in (*body["prologue"], body["final_loss"]):
            if not math.isfinite(float(loss)):
                raise broken(
                    f"the {leg} leg reported a loss that is not finite",
                    expected="finite losses",
                    seen=loss,
                    todo="check the data and the initial weights, or lower the learning rate",
                )
    return f"final losses {bodies['protected']['final_loss']} and {bodies['raw']['final_loss']}"


def same_work(observation: Observation) -> Finding:
    """Same prologue losses, same plan but for the data order's seed, same surroundings but for the treatment."""
    weights = weights_from_package(observation)

    def judge(desk: Desk) -> str:
        if weights.finding == "broken":
            desk.read.append(weights.evidence)
            raise unseen("not comparable: the protected leg trained from other weights", expected="the same weights")
        return _same(desk)

    return judge_rounds("same work", observation, judge)


def _same(desk: Desk) -> str:
    bodies = _bodies(desk)
    raw, protected = bodies["raw"], bodies["protected"]
    tolerance = 0.0 if protected["facts"]["device"] == "cpu" else GPU_LOSS_TOLERANCE
    pairs = list(zip(protected["prologue"], raw["prologue"], strict=False))
    if len(protected["prologue"]) != len(raw["prologue"]) or not pairs:
        raise broken(
            "the legs' prologues have different lengths",
            expected=f"{len(raw['prologue'])} losses",
            seen=f"{len(protected['prologue'])}",
            todo="do not use this row",
        )
    for step, (ours, theirs) in enumerate(pairs, 1):
        if not math.isclose(float(ours), float(theirs), rel_tol=tolerance, abs_tol=0.0):
            raise broken(
                f"the legs did different work: prologue losses differ at step {step}",
                expected=f"loss {theirs} (raw)",
                seen=f"loss {ours} (protected)",
                todo="do not use this row: data, weights or arithmetic differ",
            )
    for name, ours, theirs in _settings(desk, protected, raw):
        if ours != theirs:
            raise broken(
                f"the legs' {name} differ beyond the treatment",
                expected=f"raw: {theirs}",
                seen=f"protected: {ours}",
                todo="do not use this row: a difference that is no protection was measured",
            )
    return f"{len(pairs)} prologue losses agree; nothing differs but {', '.join(TREATMENT)}"


def _settings(desk: Desk, protected: dict[str, Any], raw: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    ours, theirs = dict(desk.of("protected", "trainingPlan")), dict(desk.of("raw", "trainingPlan"))
    for plan in (ours, theirs):
        plan.pop("order_seed")
    found = [("training plan", ours, theirs)]
    names = sorted(protected["context"].keys() | raw["context"].keys())
    found += [(name.replace("_", " "), protected["context"].get(name), raw["context"].get(name)) for name in names]
    facts = [{k: v for k, v in body["facts"].items() if k not in _MEASURED_FACTS} for body in (protected, raw)]
    images = [desk.of(leg, "images") for leg in ("protected", "raw")]
    return [*found, ("workload facts", facts[0], facts[1]), ("loaded code", images[0], images[1])]


def _bodies(desk: Desk) -> dict[str, dict[str, Any]]:
    desk.ran("protected")
    desk.ran("raw")
    try:
        protected = reading.entry(desk, "train_completed")
    except Verdict as verdict:
        raise unseen(f"the protected leg's training was not seen: {verdict.reason}") from None
    return {"protected": protected, "raw": desk.of("raw", "callback")}
