"""What the host passes on between a protected leg's agent and the attestation server. It sees no key and records all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.errors import GuestGoneError, InfrastructureError, RefusedError
from pytest_glasshouse.legs.package_sending import PackageSending
from pytest_glasshouse.observation.document import Challenge, Facts
from pytest_glasshouse.wire.leg_messages import More
from pytest_glasshouse.wire.tokens import thumbprint
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.legs.attestation import HostAttestation
    from pytest_glasshouse.legs.round import Round
    from pytest_glasshouse.observation.document import ProtectedNotes
    from pytest_glasshouse.owner.policy import Policy
    from pytest_glasshouse.owner.sealing import Sealing
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import MoreAnswer

#: The reason a leg is given when the server could not be reached. No server gives it.
NO_ANSWER = "no-answer"


class Relay:
    """Relays messages between the leg's agent and the server, and records them."""

    def __init__(
        self,
        host_attestation: HostAttestation,
        current: Round,
        sealed: Sealing,
        policy: Policy,
        notes: ProtectedNotes,
        sending: PackageSending,
    ) -> None:
        self._host_attestation = host_attestation
        self._current = current
        self._sealed = sealed
        self._policy = policy
        self._notes = notes
        self._sending = sending
        self._leg_id = current.leg_id("protected")
        self._sub = session_name(current)
        self.nonce = ""
        self.refused: RefusedError | None = None

    def on_event(self, kind: str, body: dict[str, Json]) -> None:
        """Answer the leg's requests; record its messages."""
        if kind == "challenge-wanted":
            self._relay(self._challenge)
        elif kind == "evidence":
            self._notes["evidence"] = str(body["evidence"])
            self._notes["releaseLog"] = check_typed(body["log"], list[str], "log")
            if "devices" in body:
                self._notes["devices"] = check_typed(body["devices"], dict[str, Facts], "devices")
            self._relay(self._release)
        elif kind == "more":
            self._more(check_typed(body, More, "more")["arrived"])
        elif kind == "head":
            self._notes["head"] = str(body["head"])

    def _more(self, arrived: int) -> None:
        """The leg has used what it had of the package: it gets as much again."""
        if arrived != self._sending.sent or arrived >= self._sealed.size:
            raise self._current.broke_protocol(f"more: expected it after {self._sending.sent} of {self._sealed.size} bytes")
        self._sending.send()
        body: MoreAnswer = {"arrived": self._sending.sent}
        self._current.channel.request("answer", {"leg": self._leg_id, "kind": "more", "body": body})

    def _relay(self, ask: Callable[[], None]) -> None:
        try:
            ask()
        except RefusedError as error:
            self.refused = error
            self._host_attestation.settled(self.nonce)
            self._refuse(error.reason)
        except GuestGoneError:
            raise
        except InfrastructureError:
            # The leg waits for an answer that will not come: it gets a refusal, or it would still run beside the next row's.
            self._refuse(NO_ANSWER)
            raise

    def _refuse(self, reason: str) -> None:
        self._current.channel.request("answer", {"leg": self._leg_id, "kind": "refusal", "body": {"reason": reason}})

    def _challenge(self) -> None:
        sub = self._sub
        given = self._host_attestation.client.challenge(sub=sub, plan=self._current.plan_sha256)
        challenge = check_typed(given, Challenge, "the server's challenge")
        self.nonce = challenge["nonce"]
        self._notes["challenge"] = challenge
        body = {
            **given,
            "sub": sub,
            "aud": thumbprint(self._host_attestation.server_key),
            "plan": self._current.plan_sha256,
            "policy": self._policy.sha256,
            "manifest": self._sealed.manifest_sha256,
            "manifest_version": 1,
        }
        self._current.channel.request("answer", {"leg": self._leg_id, "kind": "challenge", "body": body})

    def _release(self) -> None:
        self._host_attestation.awaiting(
            nonce=self.nonce,
            sub=self._sub,
            run=self._current.run_id,
            manifest=self._sealed.manifest_sha256,
            completion_s=self._policy.completion_s,
        )
        given = self._host_attestation.client.release(
            evidence=self._notes["evidence"], log=self._notes["releaseLog"], devices=self._notes.get("devices")
        )
        self._notes["result"] = check_typed(given.get("result"), str, "the server's result")
        self._current.channel.request(
            "answer", {"leg": self._leg_id, "kind": "release", "body": {"result": given["result"], "sealed": given["sealed"]}}
        )


def session_name(current: Round) -> str:
    """The lifecycle's name at the server. It contains the round's nonce, so that workers who share a server never collide.

    Of a leg over several nodes, each has a session of its own.
    """
    name = f"{current.run_id}/{current.row.row_id}/{current.nonce[:16]}"
    return f"{name}/node-{current.node}" if current.node else name
