"""One rank of a leg that has several: a `LegProcess` beside others, in the leg's network, with torch's own variables.

The first rank attests for all and exports what they trained; its exit is signed when every other one's is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.agent.leg_environment import rank_environment
from pytest_glasshouse.agent.leg_process import LegProcess
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire import evidence
from pytest_glasshouse.wire.guest_messages import check_event
from pytest_glasshouse.wire.leg_messages import Ready
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from pytest_glasshouse.agent.rank_group import RankGroup
    from pytest_glasshouse.guest.machine import RankGpu
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.leg_messages import Begin, LegChallenge, RankPlace
    from pytest_glasshouse.wire.peer_credentials import PeerCredentialSocket

#: How long other ranks may take to end once the first is gone: their memory is still scanned then.
_OTHERS_S = 120.0


class RankProcess(LegProcess):
    """One rank, from fork to signed exit; a thread."""

    def __init__(self, *, rank: int, group: RankGroup, own_gpu: RankGpu | None = None, **leg: Any) -> None:
        """`own_gpu` is the one GPU that this rank sees, None on the CPU; `leg` is what `LegProcess` takes."""
        self._own_gpu = own_gpu
        if rank:
            # The first rank's marks are the leg's: no rank trains while one waits for its own.
            leg = {**leg, "order": {name: value for name, value in leg["order"].items() if name != "witness"}}
        super().__init__(**leg)
        self._rank = rank
        self._group = group
        group.add(rank, self)

    @property
    def ranks(self) -> list[LegProcess]:
        """Every rank of the leg, this one first."""
        return [self, *self._group.others] if self._rank == 0 else [self]  # type: ignore[list-item]

    def stopped(self) -> list[int]:
        """See `LegProcess`."""
        return self._group.stopped()

    def kill(self) -> None:
        """End every rank at once."""
        self._group.end_all()

    def end_process(self) -> None:
        """End this rank at once; its exit is still observed and signed."""
        super().kill()

    def _material(self) -> dict[str, int]:
        return super()._material() if self._rank == 0 else {}

    def _of_rank(self) -> tuple[int | None, dict[str, str], list[int]]:
        network = self._group.network
        descriptors = [] if network.namespace is None else [network.namespace]
        if self._rank == 0:
            descriptors += [each.fileno() for each in (network.listener, network.links) if each is not None]
        environment = rank_environment(
            self._rank, self._group.size, network.port, node=network.node, nodes=network.nodes, address=network.address,
            interface=network.interface,
        )  # fmt: skip
        if self._own_gpu is not None:
            # A rank that sees one GPU only cannot train on another's, and what asks for "cuda" gets its own.
            environment["CUDA_VISIBLE_DEVICES"] = self._own_gpu.visible
        return network.namespace, environment, descriptors

    def _begin(self) -> Begin:
        if self._rank == 0:
            self._group.watch()
        network = self._group.network
        listener, links = (
            each.fileno() if each is not None and self._rank == 0 else None for each in (network.listener, network.links)
        )
        place: RankPlace = {"rank": self._rank, "size": self._group.size, "listener": listener, "links": links}
        return {**super()._begin(), "rank": place}

    def _take_in(self, ours: PeerCredentialSocket, kind: str, body: dict[str, Json], payload: bytearray) -> None:
        if kind == "link" and self._rank:
            self._group.link(self._rank, ours.descriptors(1)[0])
            self._send(ours, "linked", {"pids": [self._group.first_pid()]})
        elif kind == "links" and self._rank == 0:
            links = self._group.take_links()
            self._send(ours, "links", {"pids": [process.leg_pid for process in self._group.others]})
            if links:
                ours.send_descriptors(links)
            self._group.close_links()
        elif kind == "repeated" and (self._rank or self._group.network.node):
            # The leg's first rank was asked, and all do as it does.
            self._stretches.repeated(body)
        elif kind == "resident" and self._rank:
            check_event(kind, body)
            self._spool.append(self._leg_id, kind, body)
            self._stretches.note(kind, body)
        elif kind in {"attest", "export", "more", "link", "links", "warm"} and self._rank:
            raise ProtocolError(f"expected no {kind!r} from rank {self._rank}: the first rank does that for all")
        else:
            super()._take_in(ours, kind, body, payload)

    def _on_ready(self, ours: PeerCredentialSocket, body: dict[str, Json]) -> None:
        if self._rank == 0:
            self._others = self._group.all_measured()
            super()._on_ready(ours, body)
            if self._challenge is not None:
                self._group.pass_challenge(self._challenge)
            return
        ready = check_typed(body, Ready, "ready")
        self._components.update(self._code.measure(ready["images"]))
        components: dict[str, Json] = {**self._components}
        self._group.measured(
            self._rank,
            {"sig": ready["cnf"]["sig"], "components": components, "antidebug": evidence.antidebug_claim(ready["antidebug"])},
        )
        self._challenge = challenge = self._group.challenge()
        passed: LegChallenge = {
            "nonce": challenge["nonce"],
            "policy": challenge["policy"],
            "plan": challenge["plan"],
            "composite": evidence.composite(self._components),
        }
        self._send(ours, "challenge", passed)

    def _rank_claims(self) -> dict[str, Json]:
        return {"ranks": self._others} if self._others else {}

    def _spool_failed(self, body: dict[str, Json]) -> None:
        if self._rank:
            super()._spool_failed(body)
        self._group.failed(self._rank, body)

    def _on_process_end(self, status: int) -> None:
        self._group.process_ended(self._rank, status)
        if self._rank:
            return
        self._group.await_others(_OTHERS_S)
        self._group.close()
        if (failed := self._group.failure()) is not None:
            super()._spool_failed(failed)
