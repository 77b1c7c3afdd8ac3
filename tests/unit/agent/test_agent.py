"""The agent answers a malformed request with an error that names the member, and serves the next one."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.agent.agent import Agent

PLAN: dict[str, Any] = {
    "workload": "mlp", "device": "cpu", "warmup_ns": 0, "target_ns": None, "steps": 1, "order_seed": 1, "base": None, "segments": None,
}  # fmt: skip
ORDER: dict[str, Any] = {"kind": "raw", "nonce": "n", "plan": PLAN, "material": {}}
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "enrol": ({"grant": 1}, "enrol.grant: expected a text, saw an integer"),
    "lay": ({"model": "x", "name": "x"}, "lay.offset: expected a value, saw none"),
    "model": (
        {"model": "x", "files": [{"name": "config.json", "size": "1", "sha256": ""}], "source": "there", "idle_s": 1, "within_s": 1},
        "model.files[0].size: expected an integer, saw a text",
    ),
    "arrival": ({"model": 1}, "arrival.model: expected a text, saw an integer"),
    "put": ({"name": "x", "offset": True, "total": 1}, "put.offset: expected an integer, saw true or false"),
    "get": ({"name": None, "offset": 0}, "get.name: expected a text, saw null"),
    "drop": ({}, "drop.name: expected a text, saw null"),
    "start": (
        {"leg": "l", "order": {**ORDER, "plan": {**PLAN, "segments": {"washout_ns": 1}}}},
        "start.order.plan.segments.warmup_limit_ns: expected a value, saw none",
    ),
    "conduct": ({"round": "r", "nonce": "n", "roles": ["raw", 2], "turns": []}, "conduct.roles[1]: expected a text, saw an integer"),
    "covariates": ({"since_ns": "now"}, "covariates.since_ns: expected an integer, saw a text"),
    "dismiss": ({"round": []}, "dismiss.round: expected a text, saw a list"),
    "answer": ({"leg": "l", "kind": "release", "body": "x"}, "answer.body: expected an object, saw a text"),
    "kill": ({"leg": {}}, "kill.leg: expected a text, saw an object"),
    "pull": ({"cursor": 0, "wait_ms": None}, "pull.wait_ms: expected an integer, saw null"),
}  # fmt: skip


@pytest.fixture(name="agent", scope="module")
def started_agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """The agent of a guest without site-packages; it starts nothing."""
    directory = tmp_path_factory.mktemp("guest")
    return Agent(archive=b"an archive", directory=directory, allocation="a", site_packages=[])


@pytest.mark.parametrize("op", MALFORMED)
def test_malformed_request_is_answered_with_its_member(op: str, agent: Agent) -> None:
    fields, detail = MALFORMED[op]
    reply, payload = agent.handle({"op": op, **fields}, bytearray())
    assert (reply, payload) == ({"error": "ProtocolError", "detail": detail}, b"")
    assert agent.handle({"op": "hello"}, bytearray())[0]["allocation"] == "a"


def test_every_operation_with_members_is_tried(agent: Agent) -> None:
    assert agent._ops.keys() - MALFORMED.keys() == {"hello", "shutdown"}


@pytest.mark.parametrize("part", ["weights.0", "base.config"])
def test_no_raw_leg_is_started_with_a_confidential_part(part: str, agent: Agent) -> None:
    """Whatever a host asks for: the raw leg's parts are in the clear."""
    order = {**ORDER, "base_sha256": None, "material": {"config": "c", part: "w"}}
    reply, _ = agent.handle({"op": "start", "leg": "raw-1", "order": order}, bytearray())
    assert reply == {"error": "ProtocolError", "detail": f"start: expected no confidential part for a raw leg; saw {part}"}
    assert agent._legs == {}
