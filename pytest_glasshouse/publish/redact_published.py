"""Redaction of a document with objections: texts are masked, rows withheld, everything else stays.

Free text is masked in place. A row that cannot be published becomes an excluded result that names the path and the rule. It
has no observation: findings are computed from that, so it is removed as a whole or not at all. Redaction always ends in a
publishable document, in the worst case one that says little.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, cast

from pytest_glasshouse.analysis.allocation_null import allocation_nulls, judged_by_null
from pytest_glasshouse.errors import RedactionError
from pytest_glasshouse.overhead.verdict import Verdict
from pytest_glasshouse.publish.objections import MALFORMED, Objection, listed, most_serious
from pytest_glasshouse.report.attempts import NEEDED_MORE
from pytest_glasshouse.report.attestation_root import attestation_root
from pytest_glasshouse.report.claims import CLAIMS, NOT_CLAIMED, WITHHELD
from pytest_glasshouse.report.document import METHODOLOGY, SCHEMA_URL, not_shown, observed_keys, policy_sha256, summary
from pytest_glasshouse.report.environment import generated_by
from pytest_glasshouse.report.fields import LISTS
from pytest_glasshouse.report.schema import SCHEMA_VERSION
from pytest_glasshouse.report.seal import sealed
from pytest_glasshouse.wire.tokens import public_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.publish.objections import Unchecked
    from pytest_glasshouse.report.fields import Report, RowLists

    FindObjections = Callable[[Unchecked], list[Objection]]

_RECORD_TEXT = re.compile(
    r"\.(?:reason|decision|findings\[\d+\]\.(?:reason|expected|seen|todo)|waived\[\d+\]\.reason"
    r"|attempts\[\d+\](?:\.notHeld\[\d+\])?\.reason)"
)
_RECORD_NAME = re.compile(r"\.(?:rowId|name|modelId|declared|namedGpuModel|parameters)\b")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
#: Fields of a withheld row that stay: its identity, not what was observed.
_IDENTITY = (
    "rowId", "name", "asDeclared", "overridden", "declared", "namedGpuModel", "workload", "modelId", "adapter", "base",
    "parameters", "order", "rounds", "targetSec", "stepBudget", "fixedOrder", "warmupSec", "dryRun", "simulated", "attempts",
)  # fmt: skip
_ANONYMOUS_IDENTITY = tuple(name for name in _IDENTITY if name not in ("parameters", "attempts"))
#: The first pass masks texts, the second withholds rows that still have objections, the third removes their names too, and
#: the last two drop the rows.
_PASSES = 6
_WITHHELD_TEXT = f"{WITHHELD}]"
#: Replacements for fields of the run.
_REDACTED_FIELDS: Mapping[str, object] = {
    "$schema": SCHEMA_URL,
    "schemaVersion": SCHEMA_VERSION,
    "createdAt": "1970-01-01T00:00:00Z",
    "subject": {"name": _WITHHELD_TEXT, "version": None, "wheelSha256": None, "gitCommit": None, "dirty": None},
    "attestationRoot": "software",
    "environment": {
        **dict.fromkeys(("python", "implementation", "system", "release", "machine"), _WITHHELD_TEXT),
        "cpuCount": None, "packages": {},
    },
    "methodology": {
        **METHODOLOGY, "order": "row", "provider": _WITHHELD_TEXT, "preset": None, "seed": None, "marginPct": 1.0,
        "maxOverheadPct": None,
    },
    "claims": {"claimed": list(CLAIMS), "notClaimed": list(NOT_CLAIMED), "notShown": []},
    "tamper": [],
    "extra": {},
}  # fmt: skip


def redact_document(
    document: Unchecked, found: Sequence[Objection], *, run_id: str, key: Ed25519PrivateKey, find: FindObjections
) -> Report:
    """The document, sealed anew, with everything that `found` and then `find` object to masked, or its row withheld."""
    document = copy.deepcopy(document)
    for number in range(_PASSES):
        _redact(document, found, run_id=run_id, number=number)
        try:
            document = resealed(document, key=key)
        except MALFORMED:
            every = ((name, place) for name in LISTS for place in range(len(document.get(name, ()))))
            found = [Objection(path=f"$.{name}[{place}]", text="cannot be read") for name, place in every]
            continue
        found = find(document)
        if not found:
            return cast("Report", document)
    raise RedactionError(f"not published: {listed(found)}. Values are withheld")


def withheld_row(record: Mapping[str, object], objection: Objection, *, number: int | None = None) -> Unchecked:
    """The excluded result that replaces a record, unsealed. With a `number` its names and its attempts are removed too."""
    names = _IDENTITY if number is None else _ANONYMOUS_IDENTITY
    named = {name: record[name] for name in names if name in record}
    attempts, lifecycle = named.get("attempts"), record.get("lifecycle")
    if isinstance(attempts, list) and objection.rule is not None:
        named["attempts"] = [_without_reasons(each) for each in attempts]
    if number is not None:
        named |= {"name": f"withheld-{number}", "rowId": f"withheld-{number}-{number:012x}", "modelId": None}
        named |= {"namedGpuModel": None, "overridden": [], "asDeclared": True, "declared": None}
    gate = "redaction gate" if objection.rule is not None else "check that comes before publishing"
    return {
        **named,
        "provider": None,
        "providerInstanceId": None,
        "allocationName": None,
        "gpuModel": None,
        "gpuUuid": None,
        "roundsCompleted": 0,
        "outcome": "error",
        "reason": f"{WITHHELD}: {objection}]" if number is None else f"{WITHHELD}: rule {objection.rule}]",
        "decision": f"Withheld by the {gate}; excluded from overhead calculation",
        "verdict": Verdict.EXCLUDED.value,
        "findings": [],
        "waived": [],
        "attestation": "unseen",
        "runtimeState": "unseen",
        "rawCallback": "unseen",
        "sameAllocation": None,
        "lifecycle": {"attempted": lifecycle["attempted"] if isinstance(lifecycle, dict) else 0, "held": 0},
        "observation": {},
        "publishable": False,
        "unpublishableBecause": [
            "not measured",
            f"withheld by the {gate}",
            *([NEEDED_MORE] if "attempts" in record else []),
        ],
    }


def _without_reasons(attempt: Unchecked) -> Unchecked:
    """One of a row's `attempts` with its reasons masked."""
    not_held = [{**each, "reason": _WITHHELD_TEXT} for each in attempt["notHeld"]]
    return {**attempt, **({"reason": _WITHHELD_TEXT} if "reason" in attempt else {}), "notHeld": not_held}


def withheld_record(record: Record, objection: Objection, *, number: int | None = None) -> Record:
    """`withheld_row` as a record."""
    row = withheld_row(record["record"], objection, number=number)
    return cast("Record", {"list": "excludedResults", "record": row})


def _redact(document: Unchecked, found: Sequence[Objection], *, run_id: str, number: int) -> None:
    rows: dict[tuple[str, int], list[Objection]] = {}
    for each in found:
        if each.record is None:
            _redact_run_field(document, each, run_id=run_id, again=number > 0)
        elif number > 0 or each.rule is None or not _RECORD_TEXT.fullmatch(each.path_in_record) or not _mask(document, each):
            rows.setdefault(each.record, []).append(each)
    names: dict[str, str] = {}
    for (name, place), against in rows.items():
        record, document[name][place] = document[name][place], None
        anonymous = number > 1 or any(_RECORD_NAME.match(each.path_in_record) for each in against)
        first = most_serious(against) if number == 0 else most_serious(against).without_details
        row_number = len(names) + 1 if anonymous else None
        row = withheld_row(record, first, number=row_number)
        taken = {each["rowId"] for each in document["excludedResults"] if each is not None}
        while row_number is not None and row["rowId"] in taken:
            row_number += 1
            row = withheld_row(record, first, number=row_number)
        names[str(record["rowId"])] = row["rowId"]
        if number < _PASSES - 2:
            document["excludedResults"].append(row)
    document |= {name: [each for each in document[name] if each is not None] for name in LISTS if name in document}
    for attempt in document.get("attempts", ()):
        for name in ("kept", "begun"):
            attempt[name] = [names.get(each, each) for each in attempt[name]]
        attempt["finished"] = [{**each, "rowId": names.get(each["rowId"], each["rowId"])} for each in attempt["finished"]]


def _mask(document: Unchecked, objection: Objection) -> bool:
    """Replace the text at the path, or the text that contains it; false where there is none."""
    steps: list[str | int] = [name or int(number) for name, number in _STEP.findall(objection.path)]
    holder: Any = document
    for place, step in enumerate(steps, start=1):
        try:
            inside = holder[step]
        except (LookupError, TypeError):
            return False
        if isinstance(inside, str):
            holder[step] = f"{WITHHELD}: {objection.rule}]"
            return True
        if place == len(steps):
            return False
        holder = inside
    return False


def _redact_run_field(document: Unchecked, objection: Objection, *, run_id: str, again: bool) -> None:
    """Mask a text of the run, or replace the whole field."""
    if objection.rule is not None and not again and not objection.path.startswith("$.extra") and _mask(document, objection):
        return
    field = next((name for name, _ in _STEP.findall(objection.path)), "")
    for name in [field] if field in document else [each for each in document if each not in LISTS]:
        if name in _REDACTED_FIELDS:
            document[name] = copy.deepcopy(_REDACTED_FIELDS[name])
        elif name == "runId":
            document[name] = run_id
        elif name == "generatedBy":
            document[name] = generated_by()
        elif name == "cleanup":
            allocations = document[name]["allocations"]
            document[name]["allocations"] = [_redacted_allocation(each, number) for number, each in enumerate(allocations, 1)]
        elif name == "summary":
            document[name] = {"outstandingReleases": []}
        elif name not in {"policySha256", "keys", "seal", *LISTS}:
            del document[name]


def _redacted_allocation(allocation: Unchecked, number: int) -> Unchecked:
    return {
        **allocation,
        "provider": _WITHHELD_TEXT,
        "name": f"withheld-{number}",
        "providerInstanceId": None,
        "reason": _WITHHELD_TEXT,
    }


def resealed(document: Unchecked, *, key: Ed25519PrivateKey) -> Unchecked:
    """The document with everything that follows from its rows computed again, sealed anew by `key`."""
    nulls = allocation_nulls(document["nullRows"], document["rows"])
    lists: RowLists = {
        "rows": [sealed(judged_by_null(each, nulls.get(each["allocationName"])), key=key) for each in document["rows"]],
        "nullRows": [sealed(each, key=key) for each in document["nullRows"]],
        "excludedResults": [sealed(each, key=key) for each in document["excludedResults"]],
    }
    if document.get("sealedRows"):
        lists["sealedRows"] = [sealed(each, key=key) for each in document["sealedRows"]]
    document = {name: value for name, value in document.items() if name != "sealedRows"}
    claims = {**document["claims"], "notShown": not_shown(lists)}
    return sealed(
        {
            **document,
            **lists,
            "claims": claims,
            "summary": summary(lists, document["tamper"], document["summary"]["outstandingReleases"]),
            "policySha256": policy_sha256(lists),
            "attestationRoot": attestation_root(lists),
            "keys": {"report": public_text(key.public_key()), **observed_keys(lists)},
        },
        key=key,
    )
