"""The messages of honest guests fit the table, on machines with a GPU too; nothing that fits can carry a figure of overhead."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.agent.covariate_sampler import FIELDS, Sampler
from pytest_glasshouse.agent.gpu_memory import GpuMemory
from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.guest.nvml import Gpu, Nvml
from pytest_glasshouse.wire import evidence, tokens
from pytest_glasshouse.wire.guest_messages import (
    CLAIMS,
    DETAIL,
    EVENTS,
    GREETING,
    JOURNAL,
    REPLIES,
    check_event,
    check_events,
    check_line,
    check_reply,
    failure,
)
from tests.fake_nvml.driver import SETTINGS, Driver, running_leg
from tests.unit.channel.lying_agent import HELLO, KEY, event

RECORDED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[2] / "data" / "guest_conversations.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_messages_of_an_honest_guest_are_accepted(name: str) -> None:
    conversation = RECORDED[name]
    assert check_events({"events": conversation["events"]}, 0) == conversation["events"]
    for op, reply in conversation["replies"].items():
        check_reply(op, reply)
    GREETING.check(conversation["replies"]["hello"], "hello")


def test_the_recorded_conversations_have_every_message_type_but_those_of_failures() -> None:
    types = {each["type"] for conversation in RECORDED.values() for each in conversation["events"]}
    # Only a GPU's leg asks for more of its package; `tests/rounds/test_sealed.py` has one that does.
    assert types >= EVENTS.keys() - {"failed", "progress", "more"}
    lines = {
        json.loads(each["body"]["line"])["type"]
        for conversation in RECORDED.values()
        for each in conversation["events"]
        if each["type"] == "journal"
    }
    assert lines >= JOURNAL.keys() - {"train_failed", "train_progress"}
    assert {op for conversation in RECORDED.values() for op in conversation["replies"]} >= REPLIES.keys() - {
        "lay",
        "model",
        "arrival",
        "kill",
        "dismiss",
        "shutdown",
    }


GREETINGS: list[dict[str, Any]] = [
    {"gpuModel": "NVIDIA H100 80GB HBM3", "gpuUuid": "GPU-8f6d41f8-2a4c-b0a7-1d1d-6c2a3c2f6b3e", "driver": "550.127.05", "device": "cuda"},
    {"gpuModel": "NVIDIA RTX PRO 6000 Blackwell Server Edition", "gpuUuid": "MIG-2c1b0f4e-0d3c-5a52-9a0f-7f5c7d8a9b10", "driver": "610.43.02"},
    {"gpuUuid": "MIG-GPU-8f6d41f8-2a4c-b0a7-1d1d-6c2a3c2f6b3e/7/0", "torch": "2.6.0a0+ecf3bae40a.nv25.01", "gpuCount": 8},
    {"gpuModel": "CPU (Intel(R) Xeon(R) CPU           E5645  @ 2.40GHz)", "kernel": "5.15.153.1-microsoft-standard-WSL2"},
    {"gpuModel": "CPU (aarch64)", "kernel": "4.18.0-513.el8.x86_64", "python": "3.13.0rc1+", "transformers": "4.57.0.dev0", "peft": "0.18.0"},
]  # fmt: skip


@pytest.mark.parametrize("greeting", GREETINGS)
def test_greetings_of_real_machines_are_accepted(greeting: dict[str, Any]) -> None:
    """A shape that is too narrow raises: such a machine could not be rented."""
    GREETING.check({**HELLO, **greeting}, "hello")
    check_reply("hello", {**HELLO, **greeting})


def test_messages_only_a_gpu_sends_are_accepted(tmp_path: Path, driver: Driver) -> None:
    (gpu,) = Nvml(driver.pynvml).gpus()
    sampler = Sampler(agent=10, gpu=gpu, proc=tmp_path)
    sample = sampler.sample()
    assert sample[1:7] == [1980, 2619, 51, 350_000, 10**6, 4]
    check_reply("covariates", {"fields": [*FIELDS], "samples": [[*sample]], "reasons": {**sampler.reasons}})
    body = {"manifest": "0" * 64, "open_ns": 1, "locked": 1, "ring_bytes": 1 << 28, "pinned": 1}
    JOURNAL["package_verified"].check({**body}, "x")  # type: ignore[dict-item]
    for claims in gpu_claims(driver, gpu):
        exit_claims = {**evidence.exit_claims(
            nonce="0" * 64, head_token="", process_gone=True, exit_status=-9, workspace_entries=0, gpu=claims,
            scan={"status": "unseen", "reason": "a raw leg is not scanned"},
        )}  # fmt: skip
        CLAIMS["exit"].check(exit_claims, "exit")


def gpu_claims(driver: Driver, gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Memory of a leg, reported by process, by device, and not at all."""
    for setting in ("one", "no-list", "no-memory-no-list"):
        driver.set(**SETTINGS[setting])
        memory = GpuMemory(gpu)
        with running_leg() as leg:
            memory.record_in_use(leg)
        memory.await_release(leg)
        yield memory.claims()


@pytest.mark.parametrize("figure", ["overheadPct", "perSec", "per_sec", "protectedPerSec", "rate", "Rate", "seconds", "figures"])
@pytest.mark.parametrize("name", RECORDED)
def test_no_event_can_hold_a_figure_wherever_it_stands(name: str, figure: str) -> None:
    """A report that held one anywhere in what was observed could not be published, nor redacted."""
    for recorded_event in RECORDED[name]["events"]:
        for path in objects(recorded_event["body"]):
            changed = copy.deepcopy(recorded_event)
            holder = changed["body"]
            for step in path:
                holder = holder[step]
            holder[figure] = 1
            with pytest.raises(ProtocolError):
                check_events({"events": [{**changed, "seq": 0}]}, 0)


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            yield from objects(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from objects(item, (*path, number))


LINES = {
    "not JSON": "{", "not canonical": '{"body": {}}', "no object": "[]", "no kind": '{"body":{}}', "a kind that is none": '{"type":"x"}',
    "a kind that is no text": '{"type":{"x":1}}', "an extra member": '{"body":{"composite":"' + "0" * 64 + '"},"overheadPct":1,"prev":"'
    + "0" * 64 + '","seq":0,"t_us":0,"type":"measured"}',
}  # fmt: skip


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_that_no_journal_has_is_refused(line: str) -> None:
    with pytest.raises(ProtocolError, match=r"^x"):
        check_line(line, "x")


def test_claims_of_evidence_are_checked() -> None:
    """A server that refuses it does not keep it out of the report."""
    honest = next(each for each in RECORDED["in turns"]["events"] if each["type"] == "evidence")
    claims = tokens.peek(honest["body"]["evidence"])
    for changed in (
        {"antidebug": {"x": 1}},
        {"components": {"x y": "0" * 64}},
        {"submods": {"gpu-0": {"type": "x"}}},
        {"iat": -1},
    ):
        token = tokens.sign({**claims, **changed}, key=KEY, typ=evidence.TYP_EVIDENCE)
        with pytest.raises(ProtocolError, match="evidence"):
            check_events({"events": [{**event("a", "evidence", {**honest["body"], "evidence": token})}]}, 0)
    device = {"type": "nvidia-gpu", "evidence": "AAAA", "endorsements": ["-----BEGIN CERTIFICATE-----\nAA==\n"]}
    named = {"type": "nvidia-gpu", "sha256": "0" * 64}
    token = tokens.sign({**claims, "submods": {"gpu-0": named}}, key=KEY, typ=evidence.TYP_EVIDENCE)
    body = {**honest["body"], "evidence": token}
    check_events({"events": [event("a", "evidence", {**body, "devices": {"gpu-0": device}})]}, 0)
    for wrong in (
        {"GPU": device},
        {"gpu-0": named},
        {f"gpu-{place}": device for place in range(17)},
        {"gpu-0": {**device, "evidence": "="}},
    ):
        with pytest.raises(ProtocolError, match="devices"):
            check_events({"events": [event("a", "evidence", {**body, "devices": wrong})]}, 0)


class OddError(Exception):
    """Its reason is no text."""

    @property
    def reason(self) -> object:
        return {"x": 1}


@pytest.mark.parametrize("error", [
    ValueError("a\nb\x1b[2J" * 500), IntegrityError("log-chain", "line 3"), OddError("::error::x"), KeyError("é" * 2000),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid start byte"), OSError(28, "No space left on device", "/tmp/x"),
])  # fmt: skip
def test_every_failure_of_a_leg_is_reported_in_an_accepted_form(error: BaseException) -> None:
    body = failure(error)
    check_event("failed", body)
    assert len(str(body["detail"])) <= DETAIL + 1


def test_an_agent_checks_the_events_of_its_legs_too() -> None:
    with pytest.raises(ProtocolError):
        check_event("progress", {"units": -1, "elapsed_ns": 1, "loss": "1.0"})
    with pytest.raises(ProtocolError):
        check_event("journal", {"line": "{}"})
