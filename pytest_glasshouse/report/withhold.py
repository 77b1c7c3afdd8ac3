"""What may still be published of a run whose report the redaction gate stopped, without renting again.

Text that people wrote or read is masked where it stands. A forbidden value in what was observed cannot be masked, since
findings are computed from it: then the row is withheld whole, as an excluded result that says so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, IntegrityError, RedactionError
from pytest_glasshouse.overhead.verdict import Verdict
from pytest_glasshouse.report.attempts import NEEDED_MORE
from pytest_glasshouse.report.bundle import REPORT_LIMIT
from pytest_glasshouse.report.document import not_shown, observed_keys, policy_sha256, summary
from pytest_glasshouse.report.seal import sealed
from pytest_glasshouse.report.wording import WITHHELD
from pytest_glasshouse.report.writer import QUARANTINE, publish
from pytest_glasshouse.wire.bounded_file import read_json
from pytest_glasshouse.wire.tokens import public_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.report.writer import Published

_RECORD_PATH = re.compile(r"\$\.(rows|excludedResults|nullRows)\[(\d+)\]")
_RECORD_TEXT = re.compile(
    r"\.(?:reason|decision|findings\[\d+\]\.(?:reason|expected|seen|todo)|waived\[\d+\]\.reason"
    r"|attempts\[\d+\](?:\.notHeld\[\d+\])?\.reason)"
)
_RUN_TEXT = re.compile(r"\$\.(?:environment|subject|cleanup|tamper|methodology|generatedBy)\b[\w.\[\]]*")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
#: What a withheld row keeps: who it was, not what was seen.
_KEPT = (
    "rowId", "name", "asDeclared", "overridden", "declared", "namedGpuModel", "workload", "modelId", "adapter", "parameters",
    "order", "rounds", "targetSec", "stepBudget", "fixedOrder", "warmupSec", "dryRun", "simulated", "attempts",
)  # fmt: skip


def republish(run_directory: Path, *, key: Ed25519PrivateKey, report: Path | None = None, taint: Iterable[str] = ()) -> Published:
    """Mask or withhold what was found, seal anew and publish. `report` overrides where the run wanted its report.

    Raises `ConfigurationError` when the directory holds no quarantined report, and whatever `publish` raises.
    """
    folder = run_directory / QUARANTINE
    try:
        document: Any = read_json(folder / "report.json", limit=REPORT_LIMIT)
        why: Any = read_json(folder / "why.json", limit=REPORT_LIMIT)
        target = report or Path(why["report"])
        cleaned = resealed(withheld(document, [(hit["path"], hit["rule"]) for hit in why["hits"]]), key=key)
    except (OSError, IntegrityError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigurationError(f"{run_directory}: holds no quarantined report") from error
    return publish(cleaned, report=target, run_directory=run_directory, taint=taint, key=key)


def withheld(document: dict[str, Any], found: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The document with every place found masked, or its row withheld. Raises `RedactionError` where neither is possible."""
    rows: dict[tuple[str, int], str] = {}
    for path, rule in found:
        in_record = _RECORD_PATH.match(path)
        if path.startswith("$.extra"):
            document["extra"] = {}  # nothing in a report depends on it, and its names may be what is forbidden
        elif in_record is None:
            if _RUN_TEXT.fullmatch(path) is None:
                raise RedactionError(f"{path} (rule {rule}) can neither be masked nor withheld")
            _mask(document, path, rule)
        elif _RECORD_TEXT.fullmatch(path[in_record.end() :]):
            _mask(document, path, rule)
        else:
            rows[in_record[1], int(in_record[2])] = rule
    for (name, place), rule in rows.items():
        document["excludedResults"].append(_withheld_row(document[name][place], rule))
        document[name][place] = None
    for name in ("rows", "excludedResults", "nullRows"):
        document[name] = [each for each in document[name] if each is not None]
    return document


def resealed(document: dict[str, Any], *, key: Ed25519PrivateKey) -> dict[str, Any]:
    """What follows from the records computed again, and every seal made anew by `key`."""
    lists = {name: [sealed(each, key=key) for each in document[name]] for name in ("rows", "excludedResults", "nullRows")}
    document |= lists
    document["claims"]["notShown"] = not_shown(lists)
    document["summary"] = summary(lists, document["tamper"], document["summary"]["outstandingReleases"])
    document["policySha256"] = policy_sha256(lists)
    document["keys"] = {"report": public_text(key.public_key()), **observed_keys(lists)}
    return sealed(document, key=key)


def _mask(document: dict[str, Any], path: str, rule: str) -> None:
    steps = [name or int(number) for name, number in _STEP.findall(path)]
    holder: Any = document
    for step in steps[:-1]:
        holder = holder[step]
    if not isinstance(holder[steps[-1]], str):
        raise RedactionError(f"{path} (rule {rule}) is a name, and names cannot be masked")
    holder[steps[-1]] = f"{WITHHELD}: {rule}]"


def _withheld_row(record: dict[str, Any], rule: str) -> dict[str, Any]:
    return {
        **{name: record[name] for name in _KEPT if name in record},
        "provider": None,
        "providerInstanceId": None,
        "allocationName": None,
        "gpuModel": None,
        "gpuUuid": None,
        "roundsCompleted": 0,
        "outcome": "error",
        "reason": f"what was observed holds a value that may not be published (rule {rule})",
        "decision": "Withheld by the redaction gate; excluded from overhead calculation",
        "verdict": Verdict.EXCLUDED.value,
        "findings": [],
        "waived": [],
        "attestation": "unseen",
        "runtimeState": "unseen",
        "rawCallback": "unseen",
        "sameAllocation": None,
        "lifecycle": {"attempted": record.get("lifecycle", {"attempted": 0})["attempted"], "held": 0},
        "observation": {},
        "publishable": False,
        "unpublishableBecause": [
            "not measured",
            "withheld by the redaction gate",
            *([NEEDED_MORE] if "attempts" in record else []),
        ],
    }
