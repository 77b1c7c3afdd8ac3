"""One value changed anywhere in a finished report that a run wrote: `check` fails, and names the object it stands in."""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.check.check import Level, check_bytes
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.schema import schema_faults

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "reports" / "report-1.0-mock.json").read_bytes())
#: How many leaves the default run tries, drawn with the seed below; `make soak` tries all of them.
SAMPLE, SEED = 50, 20261121
#: Where what is changed has to be named by its own place, not only by the seal of its row or of the report.
_EXACT = re.compile(
    r"\$\.rows\[0\]\.(?:observation|findings\[\d+\]\.(?:finding|evidence|invariant)|journal|roundFigures|treatment"
    r"|protected\w+|raw(?!Callback)\w+|overheadPct|verdict\b|roundsMeanPct|attestation|runtimeState|rawCallback|lifecycle|gpuModel)"
)

Path_ = tuple[str | int, ...]


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    else:
        yield path, value


def json_path(path: Path_) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def another(value: Any) -> Any:
    """A value of the same kind that is as near as can be: one letter, one digit, the other truth."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.001 + 0.001
    if value is None:
        return "x"
    middle = len(value) // 2
    swapped = "b" if value[middle : middle + 1] == "a" else "a"
    return value[:middle] + swapped + value[middle + 1 :]


def changed(path: Path_) -> dict[str, Any]:
    document = copy.deepcopy(GOLDEN)
    holder: Any = document
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = another(holder[path[-1]])
    return document


LEAVES = [path for path, _ in leaves(GOLDEN)]


def _found(path: Path_) -> list[str]:
    """Where faults are; nothing when the change went unnoticed."""
    checked = check_bytes(report_bytes(changed(path)))
    assert checked.level is Level.NOTHING
    return [fault.path for fault in checked.faults]


def _is_named(path: Path_, faults: list[str]) -> bool:
    """By its own place or an object that holds it; a row by its seal; and what findings were read from also by a finding."""
    place = json_path(path)
    for each in faults:
        holder = each.removesuffix(".seal")
        if holder == "$" and each.endswith(".seal") and len(path) > 1 and path[0] in {"rows", "excludedResults"}:
            continue  # a changed row is its row's to name
        if place.startswith(holder) or each.startswith(place):
            return True
    return False


def test_the_untouched_report_passes() -> None:
    assert check_bytes(report_bytes(GOLDEN)).faults == ()


def _tried(paths: list[Path_]) -> None:
    unnoticed, unnamed = [], []
    for path in paths:
        faults = _found(path)
        if not faults:
            unnoticed.append(json_path(path))
        elif not _is_named(path, faults):
            unnamed.append((json_path(path), faults[:4]))
    assert (unnoticed, unnamed) == ([], [])


@pytest.mark.soak
def test_change_of_any_value_is_found_and_named() -> None:
    _tried(LEAVES if os.environ.get("SOAK") else random.Random(SEED).sample(LEAVES, SAMPLE))


def test_measured_figures_verdicts_and_evidence_are_caught_without_any_seal() -> None:
    """A holder of the report key can seal again; derived values still do not follow."""
    key = Ed25519PrivateKey.generate()
    exact = [path for path in LEAVES if _EXACT.match(json_path(path)) and path[-1] not in {"reason", "expected", "seen", "todo"}]
    assert len(exact) > 300
    for path in random.Random(SEED).sample(exact, 30):
        document = changed(path)
        if next(schema_faults(document), None) is not None:
            continue
        unchanged = {name: copy.deepcopy(document[name]) for name in ("rows", "summary", "claims", "policySha256")}
        sealed = sealed_again({**document, **unchanged}, key)
        faults = [fault.path for fault in check_bytes(report_bytes(sealed)).faults if not fault.path.endswith("seal")]
        assert faults, json_path(path)


def sealed_again(document: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Every seal made again by `key`, nothing else touched."""
    from pytest_glasshouse.report.seal import sealed
    from pytest_glasshouse.wire.tokens import public_text

    document["rows"] = [sealed(row, key=key) for row in document["rows"]]
    document["keys"]["report"] = public_text(key.public_key())
    return sealed(document, key=key)


def test_report_judged_by_a_newer_revision_of_the_invariants_is_not_guessed_at() -> None:
    document = copy.deepcopy(GOLDEN)
    document["methodology"]["invariantsRevision"] = 99

    (fault,) = [each for each in check_bytes(report_bytes(document)).faults if each.path.endswith("Revision")]

    assert "check it with a newer one" in fault.text


def test_report_without_a_revision_is_judged_by_the_first() -> None:
    """Like reports written before the field existed."""
    document = copy.deepcopy(GOLDEN)
    assert document["methodology"].pop("invariantsRevision", 1) == 1
    sealed = sealed_again(document, Ed25519PrivateKey.generate())

    assert check_bytes(report_bytes(sealed)).faults == ()
