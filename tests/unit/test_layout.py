"""The package's layout: rooms, their sizes and sentences, and names that stand for one thing."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest_glasshouse

ROOT = Path(pytest_glasshouse.__file__).parent
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent.name != "corpus")
ROOMS = sorted(path.parent for path in ROOT.glob("*/__init__.py"))
MOST_ROOMS = 27
MOST_FLOORS = 11
MOST_OF_THE_LINES = 0.09
#: `attacks/idle_workload.py` travels as `workloads/mlp.py` in an archive of its own, so its class has that name.
REPLACED = {"MlpTrainer"}
#: Names of modules in more than one room, and what the modules have in common.
SAME_NAME = {
    "base": "the interface that the other modules of the room implement",
    "check": "cli/ has the command of check/check.py",
    "claims": "observation/ has the claims of tokens, report/ what a report claims",
    "compare": "cli/ has the command of check/compare.py",
    "completion": "tamper/ changes the messages that attestation/completion.py checks",
    "document": "observation/ types what report/document.py assembles",
    "evidence": "tamper/ changes what wire/evidence.py describes",
    "extension": "overhead/ has the rule, analysis/ applies it to a row",
    "fields": "the typed fields of a row (analysis/) and of the report around it (report/)",
    "gate": "cli/ has the command of check/gate.py",
    "hardware": "wire/ names device evidence, attestation/ appraises it, tamper/ changes it",
    "history": "cli/ has the command of check/history.py",
    "journal": "tamper/ changes what wire/journal.py writes",
    "lifecycle": "analysis/ counts the lifecycles that invariants/lifecycle.py judges",
    "main": "an entry point",
    "options": "plugin/ makes run/options.py's from pytest's configuration",
    "package": "wire/ has the format, cli/ the commands, tamper/ changes one",
    "policy": "cli/ has the command of owner/policy.py",
    "pool": "cli/ has the command, overhead/ the arithmetic",
    "protected": "the protected leg: guest/ has the process, legs/ the host's side",
    "raw": "the raw leg: guest/ has the process, legs/ the host's side",
    "registry": "which provider or workload a name means",
    "segments": "segments of an interleaved round: workloads/ times them, analysis/ and overhead/ compute with them",
    "ssh": "channel/ has OpenSSH to a rented guest, providers/ the place that is hosts of the user's own",
    "tokens": "tamper/ changes what wire/tokens.py signs",
    "witnessed": "invariants/ judges what the agent saw of a leg, check/ what the server counted and timed of a run",
    "turns": "turns of an interleaved round: observation/ reads them, invariants/ judges them, tamper/ changes them",
}


def _lines(room: Path) -> int:
    return sum(len(path.read_text("utf-8").splitlines()) for path in room.rglob("*.py"))


def test_a_class_name_stands_once_in_the_package() -> None:
    """A reader who finds a name has found the thing."""
    found = defaultdict[str, list[str]](list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(ROOT)))
    twice = {name: places for name, places in found.items() if len(places) > 1}
    assert {name: places for name, places in twice.items() if name not in REPLACED} == {}


def test_modules_of_the_same_name_are_listed() -> None:
    """A second module of a name needs an entry here with what the two have in common, or another name."""
    found = defaultdict[str, list[str]](list)
    for path in MODULES:
        if path.stem != "__init__" and path.parent != ROOT:
            found[path.stem].append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in found.items() if len(places) > 1 and name not in SAME_NAME} == {}
    assert [name for name in SAME_NAME if len(found[name]) < 2] == []


def test_only_the_errors_lie_beside_the_rooms() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


def test_rooms_and_floors_stay_few() -> None:
    layers = tomllib.loads(PYPROJECT.read_text("utf-8"))["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = {room.name for room in ROOMS}
    floors = [floor for floor in layers if rooms & set(floor.split(" | "))]
    assert len(rooms) <= MOST_ROOMS
    assert len(floors) <= MOST_FLOORS


def test_no_room_holds_too_much_of_the_package() -> None:
    """A room that grows past this is two rooms."""
    lines = {room.name: _lines(room) for room in ROOMS}
    whole = _lines(ROOT)
    assert {name: count for name, count in lines.items() if count > whole * MOST_OF_THE_LINES} == {}


def test_every_room_says_in_one_line_what_it_knows() -> None:
    """ARCHITECTURE.md's table has the same sentences."""
    architecture = (PYPROJECT.parent / "ARCHITECTURE.md").read_text("utf-8")
    for room in ROOMS:
        sentence = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))) or ""
        assert sentence.count("\n") == 0, room.name
        assert sentence.endswith("."), room.name
        assert f"| `{room.name}/` | {sentence} |" in architecture, room.name


def test_an_installation_without_extras_needs_few_packages() -> None:
    """Those that verify hardware evidence beyond `cryptography` are extras: whoever rents needs none of them."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    assert {each.partition(">=")[0] for each in project["dependencies"]} == {
        "pytest", "cryptography", "joserfc", "rfc8785", "jsonschema", "rfc3339-validator", "urllib3", "nvidia-ml-py", "safetensors",
        "scipy",
    }  # fmt: skip
    assert project["optional-dependencies"]["tdx"] == ["dcap-qvl>=0.7"]


def test_the_tests_that_run_at_random_load_are_thirty_that_are_there() -> None:
    """`make test-processes` takes a day: one that was renamed would end it at once."""
    tests = Path(__file__).parents[1]
    named = (tests / "processes.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(named)) == len(named) == 30
    for each in named:
        path, _, function = each.partition("[")[0].partition("::")
        assert f"def {function}(" in (tests.parent / path).read_text(encoding="utf-8"), each
