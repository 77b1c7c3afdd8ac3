"""An adversary with report, bundle and all of this code. It edits, computes everything again and signs with the keys it has.

`recomputed` is what anyone can do: every field that follows from the observation, every digest, every seal. `resigned`
goes further and makes every token of every party again, with keys of the forger's own, so that the whole is coherent.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.analysis.figures import judged_figures, row_figures
from pytest_glasshouse.analysis.lifecycle import lifecycle
from pytest_glasshouse.analysis.null_row import null_figures
from pytest_glasshouse.analysis.record import data_order_seeds, finding_json, finding_states, turns, workload_facts
from pytest_glasshouse.check.recompute import Derivation
from pytest_glasshouse.invariants import Finding, judge
from pytest_glasshouse.observation.document import Observation
from pytest_glasshouse.observation.reading import journals, stand_in, treatment
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire import journal, tokens
from pytest_glasshouse.wire.canonical import canonical, parse_object, sha256_hex

Json = dict[str, Any]


def recomputed(document: Json, *, key: Ed25519PrivateKey) -> Json:
    """The document with everything that follows from its observations computed again, sealed by `key`."""
    forged = copy.deepcopy(document)
    for row in forged["rows"]:
        observation = row["observation"]
        rounds = results(observation)
        row.update(row_figures(rounds))
        row.update(
            judged_figures(
                row, order=row["order"], margin_pct=row["marginPct"], fixed_order=row["fixedOrder"],
                max_overhead_pct=forged["methodology"]["maxOverheadPct"],
            )
        )  # fmt: skip
        row |= {
            "rounds": len(observation["rounds"]), "journal": journals(observation), "treatment": treatment(observation),
            "standIn": stand_in(observation), "dataOrderSeeds": data_order_seeds(rounds), "workloadFacts": workload_facts(rounds),
        }  # fmt: skip
    for record in (*forged["rows"], *forged["excludedResults"]):
        waived = {each["invariant"]: each["reason"] for each in record["waived"]}
        record["findings"] = [finding_json(each) for each in _judge(record["observation"])]
        record |= {name: value for name, value in finding_states(record["findings"]).items() if name in record}
        record["lifecycle"] = lifecycle(record["observation"], waived=waived, judge=_judge)
    for null in forged["nullRows"]:
        rounds = results(null["observation"])
        null["findings"] = [finding_json(each) for each in _judge(null["observation"])]
        null |= {**null_figures(rounds, margin_pct=null["marginPct"]), **turns(null["observation"], rounds)}
    named = {each["allocationName"] for each in (*forged["rows"], *forged["excludedResults"], *forged["nullRows"])}
    forged["cleanup"]["allocations"] = [each for each in forged["cleanup"]["allocations"] if each["name"] in named]
    return resealed(forged, key=key)


_FOUND: dict[tuple[str, bytes], Sequence[Finding]] = {}


def _once(by: str, judged: Callable[[Any], Sequence[Finding]], observation: Any) -> Sequence[Finding]:
    """What is found in an observation: most lies leave most of them as they were, and those are judged once."""
    asked = by, hashlib.sha256(json.dumps(observation).encode()).digest()
    if asked not in _FOUND:
        _FOUND[asked] = judged(observation)
    return _FOUND[asked]


_judge = partial(_once, "forger", judge)


class JudgedOnce(Derivation):
    """What a check derives, with each observation judged once by each revision of the invariants."""

    def findings(self, observation: Observation) -> Sequence[Finding]:
        return _once(f"check by revision {self.revision}", super().findings, observation)


class Keys:
    """Every party's key, the forger's own."""

    def __init__(self) -> None:
        self.report, self.server, self.owner, self.agent = (Ed25519PrivateKey.generate() for _ in range(4))
        self._legs: dict[str, Ed25519PrivateKey] = {}

    def leg(self, nonce: str) -> Ed25519PrivateKey:
        """The key of the leg that was challenged with this nonce."""
        return self._legs.setdefault(nonce, Ed25519PrivateKey.generate())

    def text(self, name: str) -> str:
        """The public half of one."""
        return tokens.public_text(getattr(self, name).public_key())

    def kid(self, name: str) -> str:
        """How it is named."""
        return tokens.thumbprint(getattr(self, name).public_key())


def resigned(document: Json, keys: Keys, *, run_id: str | None = None) -> Json:
    """The document with every token of every round made again, so that each fits the others, the plan and the journal."""
    forged = copy.deepcopy(document)
    forged["runId"] = run_id or forged["runId"]
    for record in (*forged["rows"], *forged["excludedResults"]):
        observation = record["observation"]
        observation["keys"] |= {"server": keys.text("server"), "owner": keys.text("owner")}
        for observed in observation["rounds"]:
            for met in observed["guest"]:
                met["ak"] = keys.text("agent")
            signed_round(forged["runId"], record, observed, keys)
    for null in forged["nullRows"]:
        null["observation"]["keys"] |= {"server": keys.text("server"), "owner": keys.text("owner")}
        for observed in null["observation"]["rounds"]:
            signed_guest(observed, keys.agent)
            vouched(forged["runId"], null, observed, keys.owner)
    return recomputed(forged, key=keys.report)


def signed_round(run_id: str, record: Json, observed: Json, keys: Keys) -> None:
    """One round's tokens and journal, by `keys`."""
    protected, nonce = observed["protected"], observed["protected"]["challenge"]["nonce"]
    leg = keys.leg(nonce)
    allocation = record["observation"]["allocation"]
    plan = sha256_hex(canonical(record["observation"]["plan"]))
    sub = f"{run_id}/{record['rowId']}/{observed['nonce'][:16]}"

    def sign(name: str, party: str | Ed25519PrivateKey, typ: str, **changes: Any) -> str:
        key = getattr(keys, party) if isinstance(party, str) else party
        protected[name] = tokens.sign({**tokens.peek(protected[name]), **changes}, key=key, typ=typ)
        return sha256_hex(protected[name].encode())

    owner, server = {"iss": keys.kid("owner")}, {"iss": keys.kid("server")}
    protected["plan"] = plan
    manifest = sign("manifest", "owner", ev.TYP_MANIFEST, **owner, run=run_id, round_nonce=observed["nonce"])
    sign(
        "grant", "owner", ev.TYP_GRANT, **owner, aud=keys.kid("server"), run=run_id, row=record["rowId"], sub=sub, package=manifest,
        allocation=allocation["name"],
    )  # fmt: skip
    bodies: list[Any] = [parse_object(line) for line in protected["journal"]]
    claimed: Any = tokens.peek(protected["evidence"])
    components = {
        **claimed["components"],
        "gpu-model": _digest(allocation["gpuModel"]),
        "gpu-uuid": _digest(allocation["gpuUuid"]),
    }
    bodies[1]["body"]["composite"] = ev.composite(components)
    before = chained(bodies[:2], nonce)
    composite = ev.composite(components)
    cnf = {**claimed["cnf"], "sig": tokens.public_text(leg.public_key())}
    evidence = sign(
        "evidence", "agent", ev.TYP_EVIDENCE, iss=keys.kid("agent"), aud=keys.kid("server"), sub=sub, plan=plan, manifest=manifest, cnf=cnf,
        components=components, composite=composite, container=allocation["name"], state={**claimed["state"], "head": journal.link(before[-1])},
    )  # fmt: skip
    result = sign(
        "result", "server", ev.TYP_RESULT, **server, sub=sub, plan=plan, manifest=manifest, cnf=cnf, composite=composite,
        container=allocation["name"], evidence_sha256=evidence,
    )  # fmt: skip
    for body in bodies:
        content: Any = body["body"]
        content |= {"result": result} if body["type"] == "key_received" else {}
        content |= {"manifest": manifest} if body["type"] == "package_verified" else {}
    protected["journal"] = chained(bodies, nonce)
    protected["ak"] = keys.text("agent")
    head = sign(
        "head",
        leg,
        ev.TYP_HEAD,
        head=journal.link(protected["journal"][-1]),
        count=len(bodies),
        adapter=protected["adapterSha256"],
    )
    leaving = sign("exit", "agent", ev.TYP_EXIT, head=head)
    sign(
        "receipt", "server", ev.TYP_RECEIPT, **server, sub=sub, plan=plan, manifest=manifest, head_sha256=head, exit_sha256=leaving,
        result_sha256=result,
    )  # fmt: skip
    if "stretches" in protected:
        trained: Json = next((body["body"] for body in bodies if body["type"] == "train_completed"), {})
        protected["stretches"] = _signed_stretches(protected["stretches"], trained, keys.agent)
    signed_guest(observed, keys.agent)


def signed_guest(observed: Json, agent: Ed25519PrivateKey) -> None:
    """What the agent signs beside the protected leg: every raw leg's exit and stretches, over its callback as it is; the borders."""
    for met in observed["guest"]:
        met["ak"] = tokens.public_text(agent.public_key())
    if observed.get("borders"):
        observed["borders"] = tokens.sign(tokens.peek(observed["borders"]), key=agent, typ=ev.TYP_BORDERS)
    for raw in (observed.get("raw"), observed.get("raw2")):
        if raw:
            callback = raw.get("callback")
            bound = {"head": sha256_hex(canonical(callback))} if callback else {}
            raw["exit"] = tokens.sign({**tokens.peek(raw["exit"]), **bound}, key=agent, typ=ev.TYP_EXIT)
            if "stretches" in raw:
                raw["stretches"] = _signed_stretches(raw["stretches"], callback or {}, agent)


def _signed_stretches(token: str, body: Json, agent: Ed25519PrivateKey) -> str:
    """A leg's timed stretches, signed by `agent`, and seen as the leg's `body` tells of them wherever they were not."""
    claims: Json = tokens.peek(token)
    whole = [[body["units"], body["elapsed_ns"]]] if body else []
    timed = [segment[1:3] for segment in body["segments"]] if "segments" in body else whole
    done = later = 0
    for row, (units, elapsed_ns) in zip(claims["stretches"], timed, strict=False):
        done += units
        row[4] = done
        row[:4] = [edge + later for edge in row[:4]]
        if not row[2] - row[1] <= elapsed_ns <= row[3] - row[0]:
            longer = elapsed_ns - (row[2] - row[1] + row[3] - row[0]) // 2
            row[2], row[3], later = row[2] + longer, row[3] + longer, later + longer
    used = [segment[3] for segment in body["segments"]] if "segments" in body else [body["cpu_ns"]] if body else []
    claims["cpuNs"] = [[ns, ns] for ns in used]
    return tokens.sign(claims, key=agent, typ=ev.TYP_STRETCHES)


def vouched(run_id: str, record: Json, observed: Json, owner: Ed25519PrivateKey) -> None:
    """A signature of `owner` for the agent's key of a null row."""
    claims = {
        "iss": tokens.thumbprint(owner.public_key()), "run": run_id, "row": record["rowId"], "round_nonce": observed["nonce"],
        "allocation": record["observation"]["allocation"]["name"], "ak": observed["guest"][0]["ak"],
        "plan": sha256_hex(canonical(record["observation"]["plan"])),
    }  # fmt: skip
    for met in observed["guest"]:
        met["vouched"] = tokens.sign(claims, key=owner, typ=ev.TYP_GUEST)


def chained(bodies: list[Any], nonce: str) -> list[str]:
    """Journal lines of these entries, every link made again."""
    lines: list[str] = []
    prev = journal.genesis(nonce)
    for number, body in enumerate(bodies):
        lines.append(canonical({**body, "seq": number, "prev": prev}).decode())
        prev = journal.link(lines[-1])
    return lines


def _digest(value: object) -> str:
    return sha256_hex(str(value).encode())
