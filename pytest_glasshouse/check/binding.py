"""Whether a record is about the run that was signed for: its fields against the claims that owner, agent and server signed.

The digest of a row's plan (order, rounds, margin, seed, target) was sent to the server before any key was requested, and is in
the evidence, the result and the receipt. Grant, manifest and evidence name run, row, round, package, allocation and GPU. This
module only compares: `authenticity` judges whose keys the signatures are by, and the findings whether they are genuine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.planned_rounds import pairs_of_round, rounds_of
from pytest_glasshouse.errors import GlasshouseError, IntegrityError
from pytest_glasshouse.invariants.revisions import SAMPLED
from pytest_glasshouse.observation.reading import observed_rounds, parts_of_round, protected_of
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.report.fields import every_row
from pytest_glasshouse.rows.leg_order import (
    extension_seed,
    leg_orders,
    orders_of_row,
    row_seed,
    sealed_orders,
    starting_orders,
    starts_of_row,
    turn_orders,
    turns_of_round,
)
from pytest_glasshouse.rows.spec import SIMULATED_GPU
from pytest_glasshouse.wire.canonical import canonical, sha256_hex, tagged
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import RowRecord
    from pytest_glasshouse.check.signatures import TokenName
    from pytest_glasshouse.observation.document import Observation, Plan, RoundNotes
    from pytest_glasshouse.report.fields import Report

    Faults = Iterator[tuple[str, str]]

_TOKENS: tuple[TokenName, ...] = ("manifest", "grant", "evidence", "result", "receipt")
#: Fields of a record and the members of the plan that they must equal. The plan has numbers with a fraction as texts.
_PLAN_FIELDS = {
    "rowId": "rowId", "order": "order", "rounds": "rounds", "fixedOrder": "fixedOrder", "seed": "seed", "marginPct": "marginPct",
    "targetSec": "targetSec", "stepBudget": "stepBudget", "warmupSec": "warmupSec", "namedGpuModel": "namedGpuModel",
    "workload": "workload", "modelId": "modelId", "provider": "provider", "dryRun": "dryRun", "simulated": "simulated",
}  # fmt: skip
#: Fields of a record and the members of the observed allocation that they must equal.
_ALLOCATION_FIELDS = {
    "provider": "provider", "providerInstanceId": "providerInstanceId", "allocationName": "name", "gpuModel": "gpuModel",
    "gpuUuid": "gpuUuid",
}  # fmt: skip


def binding_faults(document: Report) -> Faults:
    """Every field of a report that differs from what was signed for its run."""
    revision = document["methodology"].get("invariantsRevision", 1)
    for path, name, record in every_row(document):
        for below, text in _record(record, document["runId"], measured=name != "excludedResults"):
            yield f"{path}{below}", text
        plan = record["observation"].get("plan")
        if plan is not None and "sampling" not in plan and "base" not in plan and revision >= SAMPLED:
            yield f"{path}.observation.plan.sampling", f"is missing: revision {revision} draws and estimates rounds by it"
        if plan is not None and plan["subject"] != document["subject"]:
            yield f"{path}.observation.plan.subject", "is not the subject of the report"
    # A round counts once, and in one row.
    seen: dict[str, str] = {}
    for path, nonce in _nonces(document):
        if nonce in seen:
            yield path, f"is the nonce of {seen[nonce]} too"
        seen.setdefault(nonce, path)


def _record(record: RowRecord, run_id: str, *, measured: bool) -> Faults:
    observation = record["observation"]
    if not observation:
        return
    plan = observation.get("plan")
    if plan is None:
        yield ".observation.plan", "is missing: the signed claims cannot be compared with what was planned"
        return
    yield from _planned(record, plan)
    if [list(pair) for pair in sorted(record.get("parameters", {}).items())] != plan.get("parameters", []):
        yield ".parameters", "are not those of the plan that was signed for"
    fields: Mapping[str, object] = record
    allocation: Mapping[str, object] | None = observation.get("allocation")
    for field, name in _ALLOCATION_FIELDS.items():
        if allocation is not None and fields[field] != allocation[name]:
            yield f".{field}", "is not the allocation's"
    rounds = observed_rounds(observation)
    planned = _planned_rounds(record, plan)
    if measured and len(rounds) != planned:
        yield ".observation.rounds", f"{len(rounds)} of the {planned} rounds that were planned"
    yield from _orders(observation, plan, rounds)
    for place, observed in enumerate(rounds):
        where = f".observation.rounds[{place}]"
        try:
            yield from ((f"{where}{below}", text) for below, text in _parts(record, observation, observed, run_id))
        except (IntegrityError, KeyError) as error:
            yield where, f"cannot be bound to the run ({type(error).__name__})"


def _nonces(document: Report) -> Iterator[tuple[str, str]]:
    """Path and value of every nonce of every round."""
    for path, _, record in every_row(document):
        for place, observed in enumerate(observed_rounds(record["observation"])):
            where = f"{path}.observation.rounds[{place}]"
            yield f"{where}.nonce", observed["nonce"]
            for below, part in parts_of_round(observed):
                challenge = protected_of(part).get("challenge")
                if challenge is not None:
                    yield f"{where}{below}.protected.challenge.nonce", challenge["nonce"]


def _planned(record: Mapping[str, object], plan: Mapping[str, object]) -> Faults:
    if record.get("adapter") != plan.get("adapter"):
        yield ".adapter", f"the plan that was signed for has {plan.get('adapter')!r}"
    for name in ("gpus", "nodes"):
        if record.get(name) != plan.get(name):
            yield f".{name}", f"the plan that was signed for has {plan.get(name)!r}"
    if record.get("base") != plan.get("base") or ("protectedRounds" in record and plan.get("base") != "sealed"):
        yield ".base", f"the plan that was signed for has {plan.get('base')!r}"
    for field, name in _PLAN_FIELDS.items():
        if (
            name not in plan
            or (field not in record and plan[name] is None)
            or (field in {"seed", "marginPct"} and field not in record)
            # A null row lacks the fields that belong to a protected leg, and a sealed one those of a comparison.
            or ((plan.get("null") is True or plan.get("base") == "sealed") and field not in record)
        ):
            continue
        value = record.get(field)
        if isinstance(plan[name], str) and isinstance(value, int | float):
            value = f"{value:g}"
        if value != plan[name]:
            yield f".{field}", f"the plan that was signed for has {plan[name]!r}"


def _planned_rounds(record: RowRecord, plan: Plan) -> int:
    """The rounds of the plan, or those that it let the first rounds decide (`check.recompute` derives that again)."""
    decided = "halfWidthPct" in plan or not {"rowSec", "looks"}.isdisjoint(plan.get("sampling", {}))
    return rounds_of(record) if decided and "outcome" not in record else plan["rounds"]


def _orders(observation: Observation, plan: Plan, rounds: Sequence[RoundNotes]) -> Faults:
    try:
        drawn, turns_of = _drawn_of_row(observation, plan) if "sampling" in plan else _drawn(plan, len(rounds))
        turns = [turns_of(number) for number in range(1, len(rounds) + 1)]
    except (GlasshouseError, KeyError, ValueError) as error:
        yield ".observation.plan", f"gives no order of legs ({type(error).__name__})"
        return
    for place, (observed, order, expected) in enumerate(zip(rounds, drawn, turns, strict=False)):
        if observed["round"] != place + 1:
            yield f".observation.rounds[{place}].round", f"expected {place + 1}, by its place in the list"
        if observed["order"] != list(order):
            yield f".observation.rounds[{place}].order", f"the plan's seed gives {' then '.join(order)}"
        if observed.get("turns") != expected:
            text = "expected none: its legs do not take turns" if expected is None else "is not what the plan's seed gives"
            yield f".observation.rounds[{place}].turns", text


def _drawn_of_row(observation: Observation, plan: Plan) -> tuple[tuple[tuple[str, ...], ...], Callable[[int], list[str] | None]]:
    """The order of legs in each round, and the turns of a round (None for none), as drawn from the row's own seed."""
    measured = results(observation)
    ran, seed, fixed = max(plan["rounds"], len(measured)), row_seed(plan["seed"], plan["rowId"]), plan["fixedOrder"]
    if plan["order"] != "interleaved":
        return orders_of_row(plan["order"], rounds=ran, seed=seed, fixed=fixed), lambda _number: None
    design = plan["interleaving"]
    starts = starts_of_row(design["legs"], rounds=ran, seed=seed, fixed=fixed)
    if not design["resident"]:
        return starts, lambda _number: None

    def turns(number: int) -> list[str]:
        pairs = pairs_of_round(observation, measured, number=number, planned=design["pairs"])
        return [role for pair in turns_of_round(design["legs"], number=number, pairs=pairs, seed=seed) for role in pair]

    return starts, turns


def _drawn(plan: Plan, ran: int) -> tuple[tuple[tuple[str, ...], ...], Callable[[int], list[str] | None]]:
    """As `_drawn_of_row`, for a plan from before rows had seeds of their own."""
    rounds, seed, fixed = plan["rounds"], plan["seed"], plan["fixedOrder"]
    if plan.get("base") == "sealed":
        return sealed_orders(rounds), lambda _number: None
    more = max(0, ran - rounds) if "halfWidthPct" in plan else 0
    # The rounds that were planned, then those the row was extended by.
    parts = [(rounds, seed), (more, extension_seed(seed))] if more else [(rounds, seed)]
    if plan["order"] != "interleaved":
        legs = [each for count, drawn in parts for each in leg_orders(plan["order"], rounds=count, seed=drawn, fixed=fixed)]
        return tuple(legs), lambda _number: None
    design = plan["interleaving"]
    starts = tuple(
        each for count, drawn in parts for each in starting_orders(design["legs"], rounds=count, seed=drawn, fixed=fixed)
    )
    if not design["resident"]:
        return starts, lambda _number: None

    def turns(number: int) -> list[str]:
        orders = turn_orders(design["legs"], number=number, pairs=design["pairs"], seed=seed)
        return [role for pair in orders for role in pair]

    return starts, turns


def _parts(record: RowRecord, observation: Observation, observed: RoundNotes, run_id: str) -> Faults:
    for node, (part, notes) in enumerate(parts_of_round(observed)):
        yield from ((f"{part}{below}", text) for below, text in _round(record, observation, notes, run_id, node))


def _round(record: RowRecord, observation: Observation, observed: RoundNotes, run_id: str, node: int) -> Faults:
    protected = protected_of(observed)
    if not protected:
        return
    claims = {name: peek(protected[name]) for name in _TOKENS if protected.get(name)}
    sub = f"{run_id}/{record['rowId']}/{observed['nonce'][:16]}" + (f"/node-{node}" if node else "")
    plan = sha256_hex(canonical(observation["plan"]))
    policy = tagged("glasshouse-policy/1", canonical(protected["policy"])) if protected.get("policy") is not None else None
    manifest = sha256_hex(protected["manifest"].encode()) if protected.get("manifest") else None
    allocation = observation["allocation"]
    expected: dict[TokenName, dict[str, str | None]] = {
        "manifest": {"run": run_id, "round_nonce": observed["nonce"]},
        "grant": {
            "run": run_id, "row": record["rowId"], "sub": sub, "package": manifest, "policy": policy,
            "allocation": allocation["name"],
        },
        "evidence": {"sub": sub, "plan": plan, "manifest": manifest, "policy": policy, "container": allocation["name"]},
        "result": {"sub": sub, "plan": plan, "manifest": manifest, "policy": policy},
        "receipt": {"sub": sub, "plan": plan, "manifest": manifest, "policy": policy},
    }  # fmt: skip
    for name, fields in expected.items():
        for field, value in fields.items():
            if name in claims and claims[name].get(field) != value:
                yield f".protected.{name}", f"its {field} is not this run's, row's and round's"
    components = claims.get("evidence", {}).get("components")
    measured = [("gpu-model", "gpuModel"), ("gpu-uuid", "gpuUuid")]
    if observation["plan"]["simulated"] and allocation["gpuModel"] == SIMULATED_GPU:
        # On a simulated provider a CPU may replace the GPU; the row is a dry run whatever its agent measured.
        measured = measured[1:]
    # The allocation names the first node's GPU.
    seen: Mapping[str, object] = {**allocation, "gpuUuid": observed["guest"][0]["gpuUuid"]} if node else {**allocation}
    for component, field in measured:
        if isinstance(components, dict) and components.get(component) != _digest(seen, field):
            yield f".protected.evidence.{component}", "the agent measured another GPU"


def _digest(allocation: Mapping[str, object], field: str) -> str:
    """The component's digest, as the agent computes it."""
    return sha256_hex(str(allocation.get(field)).encode())
