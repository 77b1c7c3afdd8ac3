"""What a forger wants to be believed: each lie changes a report, and says where it shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.observation.training_trace import steps_of
from pytest_glasshouse.wire.canonical import parse_object
from tests.report.forger import Keys, chained, signed_guest, signed_round, vouched

_UNKNOWN_KEY = Ed25519PrivateKey.generate()


Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Lie:
    """One thing a forger wants to be believed.

    `seen_at` are parts of the path where it shows even when the true report key sealed it; empty where nothing shows,
    and then `unseen` is the sentence of SECURITY.md about it.
    """

    name: str
    edit: Edit
    seen_at: tuple[str, ...] = ()
    unseen: str = field(default="")
    unsigned: str = field(default="")
    """What stands between it and `authentic`, where everything else fits."""


def _raw_time(document: dict[str, Any]) -> None:
    for observed in document["rows"][0]["observation"]["rounds"]:
        callback = observed["raw"]["callback"]
        callback["elapsed_ns"] = int(callback["elapsed_ns"] * 1.2)


def _protected_time(document: dict[str, Any]) -> None:
    """The journal's line edited, and every link after it made again."""
    protected = document["rows"][0]["observation"]["rounds"][0]["protected"]
    entries: list[Any] = [parse_object(line) for line in protected["journal"]]
    for entry in entries:
        if entry["type"] == "train_completed":
            entry["body"]["elapsed_ns"] = int(entry["body"]["elapsed_ns"] * 0.9)
    protected["journal"] = chained(entries, protected["challenge"]["nonce"])


def _worst_round(document: dict[str, Any]) -> None:
    row = document["rows"][0]
    worst = max(range(2), key=lambda place: row["roundFigures"][place]["overheadPct"])
    del row["observation"]["rounds"][worst]
    plan, (other,) = row["observation"]["plan"], row["observation"]["rounds"]
    other["round"] = plan["rounds"] = row["rounds"] = 1
    plan["order"] = row["order"] = f"{other['order'][0]}-first"


def _round_twice(document: dict[str, Any]) -> None:
    rounds = document["rows"][0]["observation"]["rounds"]
    rounds[1] = {**copy.deepcopy(rounds[0]), "round": 2}


def _legs_swapped(document: dict[str, Any]) -> None:
    for observed in document["rows"][0]["observation"]["rounds"]:
        first, second = observed["order"]
        timelines = observed[first]["timeline"], observed[second]["timeline"]
        behind = timelines[1]["exit"] - timelines[0]["spawned"]
        for name in timelines[0]:
            timelines[0][name] += behind
        observed["order"].reverse()


def _foreign_journal(document: dict[str, Any]) -> None:
    ours, theirs = (document["rows"][place]["observation"]["rounds"][0] for place in (0, 1))
    ours["protected"] = copy.deepcopy(theirs["protected"])


def _foreign_round(document: dict[str, Any]) -> None:
    """All of a round, raw leg too, from another row."""
    ours, theirs = (document["rows"][place]["observation"]["rounds"] for place in (0, 1))
    ours[0] = copy.deepcopy(theirs[0])
    del document["rows"][1]


def _foreign_raw_leg(document: dict[str, Any]) -> None:
    rounds = document["rows"][0]["observation"]["rounds"]
    rounds[0]["raw"] = copy.deepcopy(rounds[1]["raw"])


def _gpu(document: dict[str, Any]) -> None:
    for record in document["rows"]:
        place = {"gpuModel": "NVIDIA H100 80GB HBM3"}
        record.update(place)
        record["observation"]["allocation"].update(place)
        for observed in record["observation"]["rounds"]:
            for met in observed["guest"]:
                met.update(place)


def _named_gpu(document: dict[str, Any]) -> None:
    document["rows"][0]["namedGpuModel"] = document["rows"][0]["gpuModel"]


def _margin(document: dict[str, Any]) -> None:
    document["rows"][0]["marginPct"] = 50.0
    document["rows"][0]["observation"]["plan"]["marginPct"] = "50"


def _order(document: dict[str, Any]) -> None:
    row = document["rows"][0]
    row["order"] = row["observation"]["plan"]["order"] = "protected-first"
    row["observation"]["rounds"].reverse()
    for number, observed in enumerate(row["observation"]["rounds"], 1):
        observed["round"] = number


def _longer_target(document: dict[str, Any]) -> None:
    document["rows"][0]["targetSec"] = 600.0


def _other_work(document: dict[str, Any]) -> None:
    document["rows"][0] |= {"workload": "lora", "modelId": "Qwen/Qwen2.5-7B-Instruct"}


def _excluded_row(document: dict[str, Any]) -> None:
    del document["excludedResults"][0]


def _measured_row(document: dict[str, Any]) -> None:
    del document["rows"][1]


def _excluded_as_measured(document: dict[str, Any]) -> None:
    """The lost raw callback is made up, and the row moved."""
    excluded, row = document["excludedResults"].pop(), copy.deepcopy(document["rows"][1])
    document["rows"].append({name: excluded.get(name, value) for name, value in row.items() if name not in {"rounds", "verdict"}})
    observed = document["rows"][-1]["observation"]["rounds"][0]
    callback = copy.deepcopy(document["rows"][1]["observation"]["rounds"][0]["raw"]["callback"])
    observed["raw"]["callback"] = {**callback, "nonce": observed["nonce"]}
    observed["raw"]["adapterSha256"] = callback["adapter"]


def _real_provider(document: dict[str, Any]) -> None:
    for record in document["rows"]:
        record["observation"]["allocation"]["provider"] = record["provider"] = "local"
        record.update({"dryRun": False, "publishable": True, "unpublishableBecause": []})


def _shorter_setup(document: dict[str, Any]) -> None:
    for observed in document["rows"][0]["observation"]["rounds"]:
        timeline = observed["protected"]["timeline"]
        timeline["spawned"] += (timeline["train_started"] - timeline["spawned"]) // 2


def _other_run(document: dict[str, Any]) -> None:
    document["runId"] = "20261224-180000-0000"


def _other_subject(document: dict[str, Any]) -> None:
    document["subject"]["gitCommit"] = "1" * 40


def _null_figures(document: dict[str, Any]) -> None:
    """A null row that shows no difference at all, by an agent of the forger's own."""
    for observed in document["nullRows"][0]["observation"]["rounds"]:
        callback = observed["raw2"]["callback"]
        for batch, count in (counted := callback["batches"]["training"]).items():
            counted[batch] += count // steps_of(callback)
        callback["units"] += 1
        callback["segments"][0][1] += 1
        signed_guest(observed, _UNKNOWN_KEY)


def _null_invented(document: dict[str, Any]) -> None:
    """The same, with a forged owner's signature for its agent."""
    _null_figures(document)
    null = document["nullRows"][0]
    for observed in null["observation"]["rounds"]:
        vouched(document["runId"], null, observed, _UNKNOWN_KEY)


def _null_of_unknown_agent(document: dict[str, Any]) -> None:
    _null_figures(document)
    for observed in document["nullRows"][0]["observation"]["rounds"]:
        for met in observed["guest"]:
            del met["vouched"]


def _null_margin(document: dict[str, Any]) -> None:
    null = document["nullRows"][0]
    null["marginPct"] = 50.0
    null["observation"]["plan"]["marginPct"] = "50"


def _null_second_exit(document: dict[str, Any]) -> None:
    """The first raw leg is as it was."""
    observed = document["nullRows"][0]["observation"]["rounds"][0]
    before_change = copy.deepcopy((observed["raw"], observed["borders"], observed["guest"]))
    signed_guest(observed, _UNKNOWN_KEY)
    observed["raw"], observed["borders"], guest = before_change
    for met, before in zip(observed["guest"], guest, strict=True):
        met["ak"] = met["ak"] if met["leg"] == "raw2" else before["ak"]


def _borders(document: dict[str, Any]) -> None:
    """The account of the turns, and the raw leg's exit, signed by a key that was not enrolled."""
    signed_guest(document["rows"][2]["observation"]["rounds"][0], _UNKNOWN_KEY)


def _agent_of_raw(document: dict[str, Any]) -> None:
    signed_guest(document["rows"][0]["observation"]["rounds"][0], _UNKNOWN_KEY)


def _excluded_tokens(document: dict[str, Any]) -> None:
    """An excluded row that never ran."""
    record, keys = document["excludedResults"][0], Keys()
    record["observation"]["keys"] = copy.deepcopy(document["rows"][0]["observation"]["keys"])
    for observed in record["observation"]["rounds"]:
        for met in observed["guest"]:
            met["ak"] = keys.text("agent")
        signed_round(document["runId"], record, observed, keys)


def _older_invariants(document: dict[str, Any]) -> None:
    document["methodology"]["invariantsRevision"] = 2


def _invented_refusal(document: dict[str, Any]) -> None:
    document["tamper"] += [{**document["tamper"][0], "name": "invented"}]


def _proven_cleanup(document: dict[str, Any]) -> None:
    document["cleanup"]["allocations"][0]["reason"] = "listed while it ran, not listed after it ended, truly"


LIES = (
    Lie(name="raw time scaled", edit=_raw_time, seen_at=("rawCallback", "findings")),
    Lie(name="protected time scaled", edit=_protected_time, seen_at=("findings",)),
    Lie(name="worst round dropped", edit=_worst_round, seen_at=("protected.evidence",)),
    Lie(name="round counted twice", edit=_round_twice, seen_at=("findings",)),
    Lie(name="legs swapped", edit=_legs_swapped, seen_at=(".order",)),
    Lie(name="journal of another row", edit=_foreign_journal, seen_at=("protected.grant",)),
    Lie(name="round of another row", edit=_foreign_round, seen_at=("protected.grant",)),
    Lie(name="raw leg of another round", edit=_foreign_raw_leg, seen_at=("findings",)),
    Lie(name="another GPU", edit=_gpu, seen_at=("evidence.gpu-model",)),
    Lie(name="another GPU named", edit=_named_gpu, seen_at=("namedGpuModel",)),
    Lie(name="another margin", edit=_margin, seen_at=("protected.evidence",)),
    Lie(name="another order", edit=_order, seen_at=("protected.evidence",)),
    Lie(name="a longer target", edit=_longer_target, seen_at=("targetSec",)),
    Lie(name="another workload", edit=_other_work, seen_at=("workload",)),
    Lie(name="excluded row made measured", edit=_excluded_as_measured, seen_at=("rows[3]",)),
    Lie(name="another provider", edit=_real_provider, seen_at=(".dryRun", ".provider")),
    Lie(name="another run", edit=_other_run, seen_at=("protected.manifest",)),
    Lie(name="another subject", edit=_other_subject, seen_at=("plan.subject",)),
    Lie(name="null row by another agent", edit=_null_figures, seen_at=("vouched",)),
    Lie(name="null row invented", edit=_null_invented, unsigned="nullRows[0]"),
    Lie(name="null row that nobody vouched for", edit=_null_of_unknown_agent, unsigned="no signature vouches"),
    Lie(name="another margin of a null row", edit=_null_margin, seen_at=("vouched",)),
    Lie(name="second raw exit by another agent", edit=_null_second_exit, seen_at=("findings",)),
    Lie(name="borders signed by nobody", edit=_borders, seen_at=("findings",)),
    Lie(name="raw leg of another agent", edit=_agent_of_raw, seen_at=("findings",)),
    Lie(name="excluded row that nobody ran", edit=_excluded_tokens, unsigned="excludedResults[0]"),
    Lie(name="judged by older invariants", edit=_older_invariants, seen_at=("observation.plan",)),
    Lie(name="excluded row deleted", edit=_excluded_row, unseen="A row left out"),
    Lie(name="measured row deleted", edit=_measured_row, unseen="A row left out"),
    Lie(name="set-up time shortened", edit=_shorter_setup, unseen="Times outside the measured stretch"),
    Lie(name="refusal invented", edit=_invented_refusal, unseen="The tamper suite's results"),
    Lie(name="cleanup made up", edit=_proven_cleanup, unseen="What the provider's listing said"),
)
