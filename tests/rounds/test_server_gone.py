"""A server outside that goes away in the middle of a lifecycle: the row ends, and nothing waits for it on the guest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import InfrastructureError
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.protected import ProtectedRuntime
from pytest_glasshouse.legs.round import Round
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.providers.local_process import list_guests
from tests.rounds.conftest import carry_out, short_row


@pytest.mark.parametrize("message", ["challenge", "release"])
def test_a_leg_whose_server_is_gone_ends_with_its_row(tmp_path: Path, message: str) -> None:
    events: list[Any] = []

    class Spied(ProtectedRuntime):
        def run(self, current: Round) -> Ended | None:
            channel: Any = current.channel
            request = channel.request

            def spied(kind: str, *arguments: Any, **named: Any) -> Any:
                events.append((kind, *arguments))
                return request(kind, *arguments, **named)

            channel.request = spied
            return super().run(current)

    def runtime(host_attestation: HostAttestation) -> ProtectedRuntime:
        def gone(**_message: Any) -> Any:
            raise InfrastructureError("the attestation server did not answer")

        setattr(host_attestation.client, message, gone)
        return Spied(host_attestation)

    ran = carry_out(short_row(order="protected-first"), tmp_path, runtime=runtime)
    assert ran.outcome.ended is not None
    assert (ran.outcome.ended.outcome, ran.outcome.ended.reason) == ("excluded", "the attestation server did not answer")
    assert [each[1]["body"] for each in events if each[0] == "answer"][-1] == {"reason": "no-answer"}
    assert ran.cleanup.status == "proven"
    assert not [each for each in list_guests() if each.name == ran.cleanup.allocations[0]["name"]]
