"""Two invariants as revision 1 judged them, before legs took turns: same allocation, same work.

Kept so that a report of that time is judged as it was then. They know rounds of one protected and one raw leg. Nothing here
is to be changed: what is decided otherwise today is in `place` and `work`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.invariants import verified as reading
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, JudgedInvariant, broken, judge_rounds, unseen
from pytest_glasshouse.invariants.trust import weights_from_package
from pytest_glasshouse.invariants.work import GPU_LOSS_TOLERANCE, TREATMENT

if TYPE_CHECKING:
    from pytest_glasshouse.invariants.finding import Observation

_MEASURED_FACTS = ("peakMemoryBytes",)


def same_allocation(observation: Observation) -> Finding:
    """Provider's listing, GPU, boot and agent are the same before every leg of the row."""
    return judge_rounds("same allocation", observation, _same_allocation)


def _same_allocation(reader: EvidenceReader) -> str:
    met = reader.of("guest")
    legs = {seen["leg"] for seen in met}
    if legs != {"protected", "raw"}:
        raise unseen("the guest was not met before both legs", expected="both legs", seen=", ".join(sorted(legs)) or "neither")
    allocation = reader.of_row("allocation")
    first = reader.of_row("rounds")[0]["guest"][0]
    for seen in met:
        if seen["listed"] != [allocation["providerInstanceId"]]:
            raise broken(
                f"the provider did not list the allocation before the {seen['leg']} leg",
                expected=str(allocation["providerInstanceId"]),
                seen=", ".join(seen["listed"]) or "nothing",
                todo="do not use this row",
            )
        wanted = {
            "allocation": allocation["name"],
            "gpuModel": allocation["gpuModel"],
            "gpuUuid": allocation["gpuUuid"],
            "bootId": first["bootId"],
            "agentNonce": first["agentNonce"],
        }
        for name, expected in wanted.items():
            if seen[name] != expected:
                raise broken(
                    f"the guest before the {seen['leg']} leg has another {name}",
                    expected=f"{name} {expected}",
                    seen=f"{name} {seen[name]}",
                    todo="do not use this row: the guest was restarted or replaced between the legs",
                )
    if reader.maybe("protected", "evidence") is not None:
        container = reading.evidence_claims(reader)["container"]
        if container != allocation["name"]:
            raise broken(
                "the evidence is from another allocation",
                expected=str(allocation["name"]),
                seen=container,
                todo="do not use this row",
            )
    return f"{len(met)} meetings with one guest, listed each time"


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
    bodies = _bodies(reader)
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
    for name, ours, theirs in _settings(reader, protected, raw):
        if ours != theirs:
            raise broken(
                f"the legs' {name} differ beyond the treatment",
                expected=f"raw: {theirs}",
                seen=f"protected: {ours}",
                todo="do not use this row: a difference that is no protection was measured",
            )
    return f"{len(pairs)} prologue losses agree; nothing differs but {', '.join(TREATMENT)}"


def _settings(reader: EvidenceReader, protected: dict[str, Any], raw: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    ours, theirs = dict(reader.of("protected", "trainingPlan")), dict(reader.of("raw", "trainingPlan"))
    for plan in (ours, theirs):
        plan.pop("order_seed")
    found = [("training plan", ours, theirs)]
    names = sorted(protected["context"].keys() | raw["context"].keys())
    found += [(name.replace("_", " "), protected["context"].get(name), raw["context"].get(name)) for name in names]
    facts = [{k: v for k, v in body["facts"].items() if k not in _MEASURED_FACTS} for body in (protected, raw)]
    images = [reader.of(leg, "images") for leg in ("protected", "raw")]
    return [*found, ("workload facts", facts[0], facts[1]), ("loaded code", images[0], images[1])]


def _bodies(reader: EvidenceReader) -> dict[str, dict[str, Any]]:
    reader.ran("protected")
    reader.ran("raw")
    try:
        protected = reading.entry(reader, "train_completed")
    except JudgedInvariant as verdict:
        raise unseen(f"the protected leg's training was not seen: {verdict.reason}") from None
    return {"protected": protected, "raw": reader.of("raw", "callback")}
