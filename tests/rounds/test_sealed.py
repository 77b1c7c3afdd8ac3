"""A row whose base model is in the package: a whole lifecycle on a real guest, no file of the model there, and no raw leg."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.invariants import SEALED, judge
from pytest_glasshouse.legs import package_sending, protected, row_runner
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.owner.sealing import sealing
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.tensors import parse_safetensors
from tests.loopback.causal_models import causal_lm
from tests.rounds.conftest import RowGuest, carry_out, guest_for_rows, short_row
from tests.rounds.plaintext import Search, windows

MODEL = causal_lm("qwen2", shards=2)


@pytest.fixture(name="model")
def a_model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for name, content in MODEL.items():
        (directory / name).write_bytes(content)
    return directory


def weights() -> list[bytes]:
    """Pieces of every tensor of the model, and of its config and tokenizer."""
    pieces: list[bytes] = []
    for name, content in MODEL.items():
        if name.endswith(".safetensors"):
            for entry in parse_safetensors(content).values():
                pieces += [each for each in windows(content[entry.start : entry.end])[:4] if any(each)]
        elif name in ("config.json", "tokenizer.json"):
            pieces += windows(content)[2:6]
    return pieces


@pytest.mark.torch
def test_a_sealed_model_is_trained_on_and_is_in_no_file_of_its_guest(model: Path, torch_guest: RowGuest) -> None:
    """What the whole of Glasshouse is for: weights that the owner of the machine must not have."""
    row, search, patterns = short_row("lora", "protected-first", base="sealed", model=model.name), Search(), weights()
    looked: set[str] = set()

    def on_progress(progress: Progress, directory: Path) -> None:
        looked.add(f"{progress.leg} {progress.phase}")
        search.look(directory, patterns)

    outcome = torch_guest.carry_out(row, model=str(model), on_progress=on_progress)
    observation = outcome.observation
    assert outcome.ended is None
    findings = judge(observation)
    assert [(each.invariant, each.reason) for each in findings if each.finding != "held"] == []
    assert len(findings) == len(SEALED)
    assert search.hits == []
    assert {"protected load", "protected train", "protected exit"} <= looked
    assert not [each for each in looked if each.startswith("raw")]
    assert "baseModel" not in observation, "no file was brought"
    assert [(notes["order"], notes["raw"]) for notes in observation["rounds"]] == [(["protected"], None)]
    scan = scanned(observation)
    shards = sum(name.endswith(".safetensors") for name in MODEL)
    assert scan["control"]["weights"] == scan["patterns"]["weights"] >= 4 * shards, "searched for as keys and data are"
    (measured,) = results(observation)
    size = sum(len(content) for name, content in MODEL.items() if name.endswith(".safetensors"))
    assert measured.protected is not None
    assert (measured.protected.exposure_peak_bytes or 0) > size, "the arena holds it"


def scanned(observation: Any) -> Any:
    """What the memory scan of the only round found, by its guest's signed exit."""
    return tokens.peek(observation["rounds"][0]["protected"]["exit"])["scan"]


#: A leg whose package has large segments keeps a piece of the weights outside the arena, and wipes everything else. One whose
#: package has small ones chooses the ring, of a few slots.
_MAIN = """
import sys
sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from pytest_glasshouse.agent.main import main
from pytest_glasshouse.guest import protected
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.ring import ring_for_package
from pytest_glasshouse.wire.package import parse_header

honest_room, honest, keeps = protected.Protected._allocate, protected.searched_weights, []

def allocate(leg):
    if parse_header(leg._package).segment == 4096:
        return ring_for_package(leg._package, TorchMemory("cpu"), limit=131072)
    keeps.append(bytearray(4096))
    return honest_room(leg)

def searched_weights(parts):
    found = honest(parts)
    for piece in keeps:
        piece[:] = found[0][:4096]
    return found

protected.Protected._allocate = allocate
protected.searched_weights = searched_weights
sys.exit(main())
"""


@pytest.fixture(scope="module")
def changed_guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RowGuest]:
    with guest_for_rows(
        tmp_path_factory.mktemp("changed-guest"), "lora", archive=build_archive({"__main__.py": _MAIN.encode()})
    ) as guest:
        yield guest


@pytest.mark.torch
def test_weights_that_a_leg_does_not_wipe_are_found(model: Path, changed_guest: RowGuest) -> None:
    row = short_row("lora", "protected-first", base="sealed", model=model.name)
    outcome = changed_guest.carry_out(row, model=str(model))
    findings = {each.invariant: each for each in judge(outcome.observation)}
    assert [name for name, each in findings.items() if each.finding != "held"] == ["memory scanned clean"]
    assert "weights" in findings["memory scanned clean"].reason
    left = scanned(outcome.observation)["left"]
    assert (set(left), left["weights"] >= 1) == ({"weights"}, True)


@pytest.mark.torch
def test_a_raw_leg_of_a_sealed_row_is_refused_and_the_guest_gets_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever asks for one: a raw leg trains on the plaintext, which the machine's owner can read."""
    monkeypatch.setattr(row_runner, "sealed_orders", lambda rounds: (("raw",),) * rounds)
    sent: list[str] = []
    with pytest.raises(ConfigurationError, match="its package is confidential; a raw leg would publish"):
        carry_out(
            short_row("lora", "protected-first", base="sealed", model=model.name),
            tmp_path,
            model=str(model),
            on_progress=lambda progress, _directory: sent.append(progress.phase),
        )
    assert sent == []


@pytest.mark.torch
def test_a_device_gets_the_package_as_it_makes_room_and_the_host_never_holds_it(
    model: Path, changed_guest: RowGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, here with the CPU as the device: neither ciphertext nor plaintext is in the guest's host memory as a whole."""
    window, held = 1 << 16, list[int]()
    monkeypatch.setattr(protected, "sealing", functools.partial(sealing, segment=4096))
    monkeypatch.setattr(package_sending, "window_of", lambda _current: window)

    def told(channel: GuestChannel, op: str, fields: Any = None, *rest: Any, **given: Any) -> Any:
        if op == "put":
            held.append(memory_of(f"memfd:glasshouse-{fields['name']} "))
        return request(channel, op, fields, *rest, **given)

    request = GuestChannel.request
    monkeypatch.setattr(GuestChannel, "request", told)
    outcome = changed_guest.carry_out(short_row("lora", "protected-first", base="sealed", model=model.name), model=str(model))
    observation = outcome.observation
    assert outcome.ended is None
    assert {each.invariant: each.reason for each in judge(observation) if each.finding != "held"} == {}
    protected_notes: Any = observation["rounds"][0]["protected"]
    size = int(str(tokens.peek(protected_notes["manifest"])["sealed_bytes"]))
    assert size > 5 * window
    asked = protected_notes["timeline"]["more"]
    assert protected_notes["timeline"]["key_received"] < asked < protected_notes["timeline"]["package_verified"]
    bodies: dict[str, Any] = {entry["type"]: entry["body"] for entry in map(json.loads, protected_notes["journal"])}
    assert bodies["package_verified"]["ring_bytes"] == 131072
    assert 0 < max(held) < size / 2
    scan = scanned(observation)
    assert 0 < scan["control"]["weights"] == scan["patterns"]["weights"], "read back from the device"


def memory_of(name: str) -> int:
    """Bytes that the memory file of this name takes, whichever process has it."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if name in str(link.readlink()):
                return link.stat().st_blocks * 512
    return 0
