"""Untrusted files and texts are read in one place each; every other reader is listed here with the reason why its input is trusted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest_glasshouse

ROOT = Path(pytest_glasshouse.__file__).parent
#: Where size, depth, number and kind are bounded. Everybody else calls these.
READERS = {"wire/bounded_file.py", "wire/bounded_zip.py", "wire/canonical.py"}
#: Rooms that read on a machine of their own: a guest reads its own /proc and what its agent placed; the tamper suite its own boxes.
ROOMS = ("agent/", "guest/", "tamper/", "attacks/")
#: Module and call, and whose text it is that is read there.
ALLOWED = {
    ("channel/archive.py", "read_bytes"): "this package's own files",
    ("channel/archive.py", "ZipFile"): "writes",
    ("channel/bootstrap.py", "read_bytes"): "this package's own files",
    ("channel/pod_launch.py", "read_bytes"): "this package's own files",
    ("channel/job_init.py", "json.loads"): "in a job, what its host asks for",
    ("channel/job_launch.py", "read_text"): "this package's own files",
    ("channel/slurm_route.py", "read_text"): "this package's own files",
    ("channel/pod_init.py", "json.loads"): "on the rented box, what its host gave it",
    ("channel/pod_install.py", "json.loads"): "on the rented box, what its host gave it",
    ("channel/host_keeper.py", "json.load"): "on the host, what this user's own run wrote in a directory of mode 0700",
    ("channel/host_keeper.py", "json.loads"): "on the host, requests over a socket that only this user can open",
    ("channel/host_lock.py", "json.loads"): "on the host, at most 4 KiB that its holder wrote; cut to three short values",
    ("channel/host_route.py", "read_text"): "this package's own files",
    ("channel/host_service.py", "json.load"): "on the host, what this user's own run wrote in a directory of mode 0700",
    ("channel/host_service.py", "json.loads"): "on the host, the order of its user, and answers of this user's keepers",
    ("channel/host_service.py", "open"): "on the host, /proc, and the end of the logs of this user's own allocations",
    ("channel/wheels.py", "read_bytes"): "the wheel that this process has just built",
    ("cli/init.py", "read_text"): "this package's own examples",
    ("cli/replay.py", "json.loads"): "the answer of this run's own process, checked against a type",
    ("cli/replay_leg.py", "json.load"): "the task of the process that started it",
    ("cli/export.py", "json.loads"): "an envelope whose signature was verified, and which is read strictly for that",
    ("cli/policy.py", "ZipFile"): "writes what `read_zip` read",
    ("broker/broker_socket.py", "json.loads"): "messages of this run's own processes, over a socket only they can open",
    ("broker/rented_connection.py", "read_bytes"): "this package's own files",
    ("providers/mock.py", "read_bytes"): "this package's own files",
    ("providers/local_process.py", "open"): "the end of an agent's log on this machine",
    ("providers/local_process.py", "read_bytes"): "/proc",
    ("providers/local_process.py", "read_text"): "/proc, and the log of an agent on this machine",
    ("providers/runpod_graphql.py", "json.loads"): "what the SDK in this process asks",
    ("broker/timing.py", "json.loads"): "what this run gave its own reaper",
    ("report/bundle.py", "ZipFile"): "writes",
    (
        "report/redaction.py",
        "json.loads",
    ): "looks into texts of a document that was read already, as leniently as any reader might",
    ("publish/republish.py", "json.loads"): "what this account's run wrote and tagged; a NaN may be why it was withheld",
    ("report/run_directory.py", "json.loads"): "what this account's run wrote and tagged; a NaN in it is withheld later",
    ("report/run_key.py", "os.open"): "a few bytes of this account's state directory, held to owner and mode there",
    ("report/schema.py", "json.loads"): "this package's own files",
    ("report/schema.py", "read_text"): "this package's own files",
    ("run/record_store.py", "json.loads"): "what this run's own workers report",
    ("attestation/audit_file.py", "open"): "hashes a file of the server's own state directory, piece by piece",
    ("wire/installed.py", "read_text"): "a distribution's metadata, by importlib, which has no other way; parsed strictly",
    ("workloads/corpus/__init__.py", "read_text"): "this package's own files",
    ("wire/folder.py", "read_text"): "/proc",
    ("workloads/cuda.py", "read_text"): "/proc",
    ("legs/base_model.py", "open"): "files of a base model that the user names, listed before they are pushed",
    ("legs/sealed_model.py", "open"): "a few bytes of a file that the user names, to see whether it is a package",
    ("wire/part_file.py", "os.open"): "a file that its owner seals, read piece by piece up to the size it had when it was listed",
    ("workloads/lora_model.py", "open"): "the head of a file of weights that the user names, of the size it says",
    ("workloads/lora_model.py", "read_bytes"): "files of a base model that the user names, resolved before they are read",
    ("workloads/lora_rehearsal.py", "json.load"): "what this module asks itself in another process",
    ("workloads/lora_rehearsal.py", "json.loads"): "what this module answers itself, and a part of its own package",
    ("workloads/model_hub.py", "json.load"): "what this module asks itself in another process",
    ("workloads/model_hub.py", "json.loads"): "what this module answers itself",
    ("workloads/model_files.py", "read_bytes"): "files of a base model, on the machine whose digests pin it",
    ("workloads/model_files.py", "open"): "hashes a file of any size, piece by piece",
    ("plugin/xdist.py", "json.loads"): "a directory that this run made for itself, mode 0700",
    ("wire/peer_credentials.py", "read_text"): "the kernel's /proc, of one process",
}
_JSON = {"load", "loads", "JSONDecoder"}
_METHODS = {"read_bytes", "read_text"}
_NAMES = {"ZipFile", "open", "fdopen"}


def calls(tree: ast.AST) -> Iterator[str]:
    """Every call that reads a file, or parses what was read, by a short name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {
            "json",
            "tomllib",
            "zipfile",
            "tarfile",
            "pickle",
            "marshal",
            "shelve",
        }:
            yield f"from {node.module}"
        if isinstance(node, ast.Import):
            yield from (f"import {each.name}" for each in node.names if each.name in {"tomllib", "tarfile", "pickle", "shelve"})
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        if owner == "json" and name in _JSON:
            yield f"json.{name}"
        elif name in {*_METHODS, "ZipFile"} or (name in _NAMES and owner != "os" and _reads(node)):
            yield name
        elif name == "open" and owner == "os" and "O_RDONLY" in ast.unparse(node) and "O_DIRECTORY" not in ast.unparse(node):
            yield "os.open"


def _reads(node: ast.Call) -> bool:
    """Whether an `open` may read a file: by its mode, which is its first or second argument, and text if it is not given."""
    function = node.func
    if isinstance(function, ast.Attribute) and not (node.args or node.keywords):
        return ast.unparse(function.value).endswith(("path", "file"))
    modes = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    modes += [str(each.value.value) for each in node.keywords if each.arg == "mode" and isinstance(each.value, ast.Constant)]
    return any(set(mode) <= set("rbt") for mode in modes)


def found() -> set[tuple[str, str]]:
    found_calls = set()
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name not in READERS and not name.startswith(ROOMS):
            found_calls |= {(name, call) for call in calls(ast.parse(path.read_text("utf-8")))}
    return found_calls


def test_untrusted_files_and_texts_are_read_by_the_bounded_readers_only() -> None:
    """A bare `read_bytes` waits for a FIFO, reads a device for ever, and takes all memory there is."""
    assert found() - ALLOWED.keys() == set()


def test_every_listed_exception_is_still_needed() -> None:
    assert ALLOWED.keys() - found() == set()


def test_a_direct_read_is_detected() -> None:
    """What the test above finds in code that reads files directly."""
    text = """
import json, tomllib, zipfile
from json import loads
json.loads(path.read_bytes()); path.read_text("utf-8"); zipfile.ZipFile(path); open(path, "rb"); path.open("rb"); path.open()
os.open(path, os.O_RDONLY | os.O_CLOEXEC); os.open(path, os.O_RDONLY | os.O_DIRECTORY); path.open("w"); open(path, "ab")
"""
    assert sorted(calls(ast.parse(text))) == [
        "ZipFile", "from json", "import tomllib", "json.loads", "open", "open", "open", "os.open", "read_bytes", "read_text",
    ]  # fmt: skip
