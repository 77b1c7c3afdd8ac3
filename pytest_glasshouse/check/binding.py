"""Whether a record is about the run that was signed for: its fields against what owner, agent and server put their names to.

The plan of a row (order, rounds, margin, seed, target) was digested and told to the server before any key was asked for,
and its digest stands in the evidence, the result and the receipt. Grant, manifest and evidence name run, row, round,
package, allocation and GPU. This module compares; whose keys those signatures are by is `authenticity`'s to say, and
that they are genuine is the findings'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import GlasshouseError, IntegrityError
from pytest_glasshouse.observation.reading import observed_rounds, protected_of
from pytest_glasshouse.rows.leg_order import extension_seed, leg_orders, starting_orders, turn_orders
from pytest_glasshouse.rows.spec import SIMULATED_GPU
from pytest_glasshouse.wire.canonical import canonical, sha256_hex, tagged
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Faults = Iterator[tuple[str, str]]

_LISTS = ("rows", "excludedResults", "nullRows")
_TOKENS = ("manifest", "grant", "evidence", "result", "receipt")
#: A field of a record and the entry of the plan it must be. Numbers of the plan that may be broken are texts.
_PLANNED = {
    "rowId": "rowId", "order": "order", "rounds": "rounds", "fixedOrder": "fixedOrder", "seed": "seed", "marginPct": "marginPct",
    "targetSec": "targetSec", "stepBudget": "stepBudget", "warmupSec": "warmupSec", "namedGpuModel": "namedGpuModel",
    "workload": "workload", "modelId": "modelId", "provider": "provider", "dryRun": "dryRun", "simulated": "simulated",
}  # fmt: skip
_PLACED = {
    "provider": "provider", "providerInstanceId": "providerInstanceId", "allocationName": "name", "gpuModel": "gpuModel",
    "gpuUuid": "gpuUuid",
}  # fmt: skip


def binding_faults(document: Mapping[str, Any]) -> Faults:
    """Every field of a report that is not the one the signed runs had."""
    for name in _LISTS:
        for place, record in enumerate(document[name]):
            for below, text in _record(record, document["runId"], measured=name != "excludedResults"):
                yield f"$.{name}[{place}]{below}", text
            plan = record["observation"].get("plan")
            if isinstance(plan, dict) and plan.get("subject") != document["subject"]:
                yield f"$.{name}[{place}].observation.plan.subject", "the report is about something else than the row was run for"
    # A round counts once, and in one row.
    met: dict[str, str] = {}
    for path, nonce in _nonces(document):
        if nonce in met:
            yield path, f"is the nonce of {met[nonce]} too"
        met.setdefault(nonce, path)


def _record(record: Mapping[str, Any], run_id: str, *, measured: bool) -> Faults:
    observation = record["observation"]
    if not observation:
        return
    plan = observation.get("plan")
    if not isinstance(plan, dict):
        yield ".observation.plan", "is missing: nothing says what was to be run"
        return
    yield from _planned(record, plan)
    if [list(pair) for pair in sorted(record.get("parameters", {}).items())] != plan.get("parameters", []):
        yield ".parameters", "are not those of the plan that was signed for"
    allocation = observation.get("allocation")
    for field, name in _PLACED.items():
        if isinstance(allocation, dict) and record[field] != allocation.get(name):
            yield f".{field}", "is not the allocation's"
    rounds = observed_rounds(observation)
    planned = _planned_rounds(record, plan)
    if measured and len(rounds) != planned:
        yield ".observation.rounds", f"{len(rounds)} of the {planned} rounds that were planned"
    yield from _orders(plan, rounds)
    for place, observed in enumerate(rounds):
        where = f".observation.rounds[{place}]"
        try:
            for below, text in _round(record, observation, observed, run_id):
                yield f"{where}{below}", text
        except (IntegrityError, KeyError, TypeError, AttributeError) as error:
            yield where, f"cannot be bound to the run ({type(error).__name__})"


def _nonces(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and value of every nonce of every round."""
    for name in _LISTS:
        for row, record in enumerate(document[name]):
            for place, observed in enumerate(observed_rounds(record["observation"])):
                where = f"$.{name}[{row}].observation.rounds[{place}]"
                yield f"{where}.nonce", str(observed.get("nonce"))
                challenge = protected_of(observed).get("challenge")
                if isinstance(challenge, dict):
                    yield f"{where}.protected.challenge.nonce", str(challenge.get("nonce"))


def _planned(record: Mapping[str, Any], plan: Mapping[str, Any]) -> Faults:
    if record.get("adapter") != plan.get("adapter"):
        yield ".adapter", f"the plan that was signed for has {plan.get('adapter')!r}"
    for field, name in _PLANNED.items():
        if (
            name not in plan
            or (field not in record and plan[name] is None)
            or (field in {"seed", "marginPct"} and field not in record)
            # A null row has none of what only a row with a protected leg has.
            or (plan.get("null") is True and field not in record)
        ):
            continue
        value = record.get(field)
        if isinstance(plan[name], str) and isinstance(value, int | float):
            value = f"{value:g}"
        if value != plan[name]:
            yield f".{field}", f"the plan that was signed for has {plan[name]!r}"


def _planned_rounds(record: Mapping[str, Any], plan: Mapping[str, Any]) -> Any:
    """The plan's rounds; in all, where it has a width to extend to, what the rule gave (`report.recompute` derives it again)."""
    told = record.get("extension")
    return told["rounds"] if plan.get("halfWidthPct") is not None and told is not None else plan.get("rounds")


def _orders(plan: Mapping[str, Any], rounds: list[dict[str, Any]]) -> Faults:
    try:
        drawn, turns = _drawn(plan, len(rounds))
    except (GlasshouseError, KeyError, TypeError) as error:
        yield ".observation.plan", f"gives no order of legs ({type(error).__name__})"
        return
    for place, (observed, order) in enumerate(zip(rounds, drawn, strict=False)):
        if observed.get("round") != place + 1:
            yield f".observation.rounds[{place}].round", f"is round {place + 1}"
        if observed.get("order") != list(order):
            yield f".observation.rounds[{place}].order", f"the plan's seed gives {' then '.join(order)}"
        expected = turns(place + 1)
        if observed.get("turns") != expected:
            told = "has no turns" if expected is None else "is not what the plan's seed gives"
            yield f".observation.rounds[{place}].turns", told


def _drawn(plan: Mapping[str, Any], ran: int) -> tuple[tuple[tuple[str, ...], ...], Callable[[int], list[str] | None]]:
    """What the plan's seed gives: the order of legs in each round, and the turns of a round (None where it has none)."""
    rounds, seed, fixed = plan["rounds"], plan["seed"], plan["fixedOrder"]
    more = max(0, ran - rounds) if plan.get("halfWidthPct") is not None else 0
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


def _round(record: Mapping[str, Any], observation: Mapping[str, Any], observed: Mapping[str, Any], run_id: str) -> Faults:
    protected = protected_of(observed)
    if not protected:
        return
    told = {name: peek(protected[name]) for name in _TOKENS if protected.get(name)}
    sub = f"{run_id}/{record['rowId']}/{observed['nonce'][:16]}"
    plan = sha256_hex(canonical(observation["plan"]))
    policy = tagged("glasshouse-policy/1", canonical(protected["policy"])) if protected.get("policy") is not None else None
    manifest = sha256_hex(protected["manifest"].encode()) if protected.get("manifest") else None
    allocation = observation["allocation"]
    expected: dict[str, dict[str, Any]] = {
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
            if name in told and told[name].get(field) != value:
                yield f".protected.{name}", f"its {field} is not this run's, row's and round's"
    components = told.get("evidence", {}).get("components")
    measured = [("gpu-model", "gpuModel"), ("gpu-uuid", "gpuUuid")]
    if observation["plan"]["simulated"] and allocation["gpuModel"] == SIMULATED_GPU:
        # A CPU stands in, on a simulated provider and nowhere else; the row is a dry run whatever its agent measured.
        measured = measured[1:]
    for component, field in measured:
        if isinstance(components, dict) and components.get(component) != _digest(allocation, field):
            yield f".protected.evidence.{component}", "the agent measured another GPU"


def _digest(allocation: Mapping[str, Any], field: str) -> str:
    """As the agent puts a fact of its machine into the evidence."""
    return sha256_hex(str(allocation.get(field)).encode())
