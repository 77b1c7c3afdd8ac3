"""What a finding is, and how one round's findings become the row's.

A finding is computed from what was observed and carries the digest of exactly that. There are three: only `held`
passes; `unseen` says that the evidence to judge by is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.observation.document import Observation, RoundNotes
from pytest_glasshouse.observation.reading import is_sealed, notes_of_node, notes_of_rank, planned_gpus, planned_nodes
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FindingState = Literal["held", "broken", "unseen"]

#: What is to be done where evidence is missing, until it is known what the lack follows from.
SEE_ENDING = "see how the row ended"
#: How it begins then: such a finding says nothing of its own.
FOLLOWS = "follows from "
_WORST: tuple[FindingState, ...] = ("broken", "unseen", "held")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One invariant judged. `evidence` is the SHA-256 of the canonical form of everything it was computed from."""

    invariant: str
    finding: FindingState
    reason: str
    evidence: str
    expected: str = ""
    seen: str = ""
    todo: str = ""


class JudgedInvariant(Exception):  # noqa: N818  (ends a judgement; it is no error)
    """Ends the judging of one round as `broken` or `unseen`. `at` is the step at which it showed, where ranks are compared."""

    def __init__(
        self, state: FindingState, reason: str, *, expected: str = "", seen: str = "", todo: str = "", at: int = 0
    ) -> None:
        super().__init__(reason)
        self.state: FindingState = state
        self.reason = reason
        self.expected = expected
        self.seen = seen
        self.todo = todo
        self.at = at


class EvidenceReader:
    """Reads parts of one round's observation and records which were read, for the finding's digest."""

    def __init__(
        self,
        observation: Observation,
        notes: RoundNotes,
        *,
        rank: int = 0,
        leg: EvidenceReader | None = None,
        node: int = 0,
        first: EvidenceReader | None = None,
    ) -> None:
        """Of another `rank` of a node than its first, `notes` are `notes_of_rank`'s, and `leg` reads its node's first.

        Of another `node` than the first, `notes` are `notes_of_node`'s, and `first` reads the first's.
        """
        self._observation = observation
        self.notes = notes
        self.rank = rank
        self.leg = leg
        self.node = node
        self.first = first
        self.read: list[Any] = [notes["round"], rank] if rank else [notes["round"]]

    @property
    def ranks(self) -> int:
        """How many ranks the row's legs were planned with on each node."""
        return planned_gpus(self._observation) // planned_nodes(self._observation)

    def of_node(self, node: int) -> EvidenceReader:
        """Reads another node's part of this round; what is read there counts as read here too."""
        other = EvidenceReader(self._observation, notes_of_node(self.notes, node), node=node, first=self)
        self.read.append(["node", node, other.read])
        return other

    def first_round(self) -> RoundNotes:
        """This node's part of the row's first round."""
        return notes_of_node(self.of_row("rounds")[0], self.node)

    def of_rank(self, rank: int) -> EvidenceReader:
        """Reads another rank's part of this round; what is read there counts as read here too."""
        other = EvidenceReader(self._observation, notes_of_rank(self.notes, rank), rank=rank, leg=self, node=self.node)
        self.read.append(other.read)
        return other

    @property
    def sealed(self) -> bool:
        """Whether the row's base is sealed."""
        return is_sealed(self._observation)

    def of_row(self, *path: str) -> Any:
        """A value of the whole row; `unseen` when it is missing."""
        return self._take(self._observation, path)

    def of(self, *path: str) -> Any:
        """A value of this round; `unseen` when it is missing."""
        return self._take(self.notes, path)

    def maybe(self, *path: str) -> Any:
        """A value of this round, or None."""
        value: Any = self.notes
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        self.read.append([list(path), value])
        return value

    def ran(self, leg: str) -> None:
        """`unseen` when a leg has left no notes."""
        if self.notes.get(leg) is None:
            self.read.append([[leg], None])
            raise JudgedInvariant("unseen", f"the {leg} leg did not run", expected=f"a {leg} leg", seen="none", todo=SEE_ENDING)

    def _take(self, source: Any, path: tuple[str, ...]) -> Any:
        value = source
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        self.read.append([list(path), value])
        if value is None:
            name = ".".join(path)
            raise JudgedInvariant("unseen", f"{name} was not observed", expected=name, seen="nothing", todo=SEE_ENDING)
        return value


_Judged: TypeAlias = "tuple[FindingState, str, str, str, str]"


def judge_rounds(
    invariant: str,
    observation: Observation,
    judge: Callable[[EvidenceReader], str],
    *,
    of_rank: Callable[[EvidenceReader], str] | None = None,
    of_node: Callable[[EvidenceReader], str] | None = None,
) -> Finding:
    """Judge every round; the row's finding is the worst of them. `judge` returns what was held, or raises `JudgedInvariant`.

    Where legs have several ranks, `judge` judges the leg as its first rank left it, and `of_rank` every other one: what holds
    of one rank alone holds of none. None where there is nothing to be said of a rank. Over several nodes all of that is judged of
    each; `of_node` judges the first rank of every other node, as `judge` does unless it is given.
    """
    judged: list[_Judged] = []
    read: list[Any] = []
    rounds, gpus, nodes = observation.get("rounds", []), planned_gpus(observation), planned_nodes(observation)
    for notes in rounds:
        leg = EvidenceReader(observation, notes)
        if gpus > 1:
            leg.of_row("plan", "gpus")
        if nodes > 1:
            leg.of_row("plan", "nodes")
        # By their numbers among all ranks of the leg.
        ranks: dict[int, tuple[int, _Judged]] = {}
        for node in range(nodes):
            part = leg.of_node(node) if node else leg
            first = node * leg.ranks
            ranks[first] = _judged((of_node or judge) if node else judge, part)
            if of_rank is not None:
                ranks |= {first + rank: _judged(of_rank, part.of_rank(rank)) for rank in range(1, leg.ranks)}
        judged.append(_of_ranks(ranks) if len(ranks) > 1 else ranks[0][1])
        read.append(leg.read)
    digest = sha256_hex(canonical({"invariant": invariant, "read": read}))
    if not judged:
        return Finding(invariant=invariant, finding="unseen", reason="no round was run", evidence=digest)
    state, reason, expected, seen, todo = min(judged, key=lambda item: _WORST.index(item[0]))
    if len(rounds) > 1:
        number = 1 + next(place for place, item in enumerate(judged) if item[0] == state)
        reason = f"all {len(rounds)} rounds: {reason}" if state == "held" else f"round {number}: {reason}"
    return Finding(invariant=invariant, finding=state, reason=reason, evidence=digest, expected=expected, seen=seen, todo=todo)


def with_causes(findings: Sequence[Finding], observation: Observation) -> tuple[Finding, ...]:
    """The findings; each that only lacks evidence says what that follows from, where it is known.

    A server that refused and a leg that failed are in the notes. Else it is the first broken finding before it, in the order of
    the lifecycle.
    """
    noted = next(filter(None, map(_noted_cause, observation.get("rounds", []))), "")
    root = ""
    found = []
    for each in findings:
        cause = noted or root
        if each.finding == "broken":
            root = root or each.invariant
        if each.finding == "unseen" and each.todo == SEE_ENDING and cause:
            found.append(replace(each, todo=f"{FOLLOWS}{cause}"))
        else:
            found.append(each)
    return tuple(found)


def _noted_cause(notes: RoundNotes) -> str:
    return next(filter(None, map(_cause_on_node, (notes, *notes.get("nodes", [])))), "")


def _cause_on_node(notes: RoundNotes) -> str:
    legs: Mapping[str, Any] = {**notes}
    if (legs.get("protected") or {}).get("refusal") is not None:
        return "attestation verified: the server refused the evidence"
    for leg in ("protected", "raw", "raw2"):
        failed = (legs.get(leg) or {}).get("failed")
        if failed is not None:
            return f"the failure of the {leg} leg: {printable(failed['reason'])}"
    return ""


def _judged(judge: Callable[[EvidenceReader], str], reader: EvidenceReader) -> tuple[int, _Judged]:
    """At which step it showed, and what was found."""
    try:
        return 0, ("held", judge(reader), "", "", "")
    except JudgedInvariant as verdict:
        return verdict.at, (verdict.state, verdict.reason, verdict.expected, verdict.seen, verdict.todo)
    except (IntegrityError, ProtocolError, ValueError) as error:
        # A text that is no key, token or number, or signed claims of another shape: there is nothing to judge by.
        shown = error if isinstance(error, ProtocolError) else type(error).__name__
        return 0, ("unseen", f"what was observed has another shape ({shown})", "", "", "")


def _of_ranks(ranks: Mapping[int, tuple[int, _Judged]]) -> _Judged:
    """The worst of the ranks' findings, with that rank's name: of two, the one that showed first.

    Ranks train one model, so that what one of them does wrong is in the losses of all from the next step on.
    """
    rank, (_, worst) = min(ranks.items(), key=lambda item: (_WORST.index(item[1][1][0]), item[1][0]))
    if worst[0] == "held":
        return "held", f"{worst[1]}; all {len(ranks)} ranks", "", "", ""
    return worst[0], f"rank {rank}: {worst[1]}", *worst[2:]


def broken(reason: str, *, expected: str, seen: str, todo: str, at: int = 0) -> JudgedInvariant:
    """Something that must hold did not."""
    return JudgedInvariant("broken", reason, expected=expected, seen=seen, todo=todo, at=at)


def unseen(reason: str, *, expected: str = "", seen: str = "nothing", todo: str = SEE_ENDING) -> JudgedInvariant:
    """There is nothing to judge by."""
    return JudgedInvariant("unseen", reason, expected=expected, seen=seen, todo=todo)
