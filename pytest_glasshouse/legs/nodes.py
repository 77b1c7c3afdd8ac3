"""A leg over several nodes: each node's part is a leg of its own, with its agent, evidence, key release and signed exit.

The parts are started in the order of the nodes, the first of which says where the others meet it, and followed at once. What ends
one of them ends all: the others are killed, and the row ends with the name of the node where it began.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from pytest_glasshouse.errors import GlasshouseError, RankLostError
from pytest_glasshouse.observation.document import Exit, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.legs.leg_watch import LegWatch
    from pytest_glasshouse.legs.protected import ProtectedLeg
    from pytest_glasshouse.legs.raw import RawLeg
    from pytest_glasshouse.legs.round import Round
    from pytest_glasshouse.observation.outcome import Ended
    from pytest_glasshouse.wire.host_messages import Meeting

    #: A node's part of a leg.
    StartedPart: TypeAlias = ProtectedLeg | RawLeg
    Guard: TypeAlias = Callable[[Round, Callable[[], Ended | None]], Ended | None]

#: How long a node's agent may take to kill its part, in seconds.
_KILL_S = 10.0


@dataclass
class LegMeeting:
    """What the parts of one leg share: a secret of this leg, and once the first node has told it, where the ranks meet."""

    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    place: Meeting | None = None


def over_nodes(parts: Sequence[Round], begin: Callable[[Round], StartedPart], guard: Guard) -> Ended | None:
    """Run a leg over the nodes of `parts`. Returns how the row ended if it ended here, else None.

    `guard` records in a part how it ended where its guest or the server was to blame.
    """
    begun: list[StartedPart] = []
    try:
        for part in parts:
            ended = guard(part, lambda part=part: begun.append(begin(part)))  # type: ignore[misc]
            if ended is not None:
                _kill(parts, begun)
                return _of_node(part, ended)
        following = _Following(parts, begun)
        following.run()
    except BaseException:
        _kill(parts, begun)
        raise
    ended_parts = zip(parts, begun, following.lost, strict=True)
    ends = [guard(part, partial(leg.finish, lost)) for part, leg, lost in ended_parts]
    blamed = next((place for place in following.blamed() if ends[place] is not None), None)
    if blamed is None:
        blamed = next((place for place, ended in enumerate(ends) if ended is not None), None)
    if blamed is None:
        return None
    ended = ends[blamed]
    assert ended is not None  # noqa: S101  (chosen so)
    # Where every guest is gone, the allocation is: what became of it is known to the provider, and no node is to blame.
    return ended if all(lost is not None for lost in following.lost) else _of_node(parts[blamed], ended)


class _Following:
    """Each part is followed in a thread; the first that does not end well has the others killed."""

    def __init__(self, parts: Sequence[Round], begun: Sequence[StartedPart]) -> None:
        self._parts, self._begun = parts, begun
        self.lost: list[Ended | None] = [None] * len(parts)
        self._errors: dict[int, BaseException] = {}
        self._unwell: list[int] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        """Return when every part has ended. Raises what following one of them raised."""
        threads = [
            threading.Thread(target=self._follow, args=(place,), name=f"node-{place}") for place in range(len(self._parts))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _, error in sorted(self._errors.items()):
            raise error

    def blamed(self) -> list[int]:
        """The parts that did not end well, in the order in which it showed; those that only missed another node's ranks last."""
        return sorted(self._unwell, key=lambda place: self._missed_another(self._begun[place].watch))

    def _follow(self, place: int) -> None:
        part, leg = self._parts[place], self._begun[place]
        try:
            self.lost[place] = part.follow(leg.watch, leg.on_event)
        except BaseException as error:  # noqa: BLE001  (raised again by `run`)
            self._errors[place] = error
        if not self._well(place):
            with self._lock:
                self._unwell.append(place)
                first = len(self._unwell) == 1
            if first:
                _kill(self._parts, self._begun)

    def _well(self, place: int) -> bool:
        watch = self._begun[place].watch
        left = watch.body("exit", Exit)
        failed = place in self._errors or self.lost[place] is not None or "failed" in watch.events
        return not failed and left is not None and left["exit_status"] == 0

    @staticmethod
    def _missed_another(watch: LegWatch) -> bool:
        failed = watch.body("failed", Failure)
        return failed is not None and failed["reason"] == RankLostError.__name__


def _kill(parts: Sequence[Round], begun: Sequence[StartedPart]) -> None:
    """End every part that still runs; a guest that does not answer is seen by whoever follows it."""
    for part, leg in zip(parts, begun, strict=False):
        if not leg.watch.ended:
            with contextlib.suppress(GlasshouseError, OSError):
                part.channel.request("kill", {"leg": leg.watch.leg_id}, within_s=_KILL_S)


def _of_node(part: Round, ended: Ended) -> Ended:
    return replace(ended, reason=f"node {part.node}: {ended.reason}")
