"""What a finding is, and how one round's findings become the row's.

A finding is computed from what was observed and carries the digest of exactly that. There are three: only `held`
passes; `unseen` says that the evidence to judge by is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.observation.document import Observation, RoundNotes
from pytest_glasshouse.observation.reading import is_sealed
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
    """Ends the judging of one round as `broken` or `unseen`."""

    def __init__(self, state: FindingState, reason: str, *, expected: str = "", seen: str = "", todo: str = "") -> None:
        super().__init__(reason)
        self.state: FindingState = state
        self.reason = reason
        self.expected = expected
        self.seen = seen
        self.todo = todo


class EvidenceReader:
    """Reads parts of one round's observation and records which were read, for the finding's digest."""

    def __init__(self, observation: Observation, notes: RoundNotes) -> None:
        self._observation = observation
        self.notes = notes
        self.read: list[Any] = [notes["round"]]

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


def judge_rounds(invariant: str, observation: Observation, judge: Callable[[EvidenceReader], str]) -> Finding:
    """Judge every round; the row's finding is the worst of them. `judge` returns what was held, or raises `JudgedInvariant`."""
    judged: list[tuple[FindingState, str, str, str, str]] = []
    read: list[Any] = []
    rounds = observation.get("rounds", [])
    for notes in rounds:
        reader = EvidenceReader(observation, notes)
        try:
            held = judge(reader)
        except JudgedInvariant as verdict:
            judged.append((verdict.state, verdict.reason, verdict.expected, verdict.seen, verdict.todo))
        except (IntegrityError, ProtocolError, ValueError) as error:
            # A text that is no key, token or number, or signed claims of another shape: there is nothing to judge by.
            shown = error if isinstance(error, ProtocolError) else type(error).__name__
            judged.append(("unseen", f"what was observed has another shape ({shown})", "", "", ""))
        else:
            judged.append(("held", held, "", "", ""))
        read.append(reader.read)
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
    legs: Mapping[str, Any] = {**notes}
    if (legs.get("protected") or {}).get("refusal") is not None:
        return "attestation verified: the server refused the evidence"
    for leg in ("protected", "raw", "raw2"):
        failed = (legs.get(leg) or {}).get("failed")
        if failed is not None:
            return f"the failure of the {leg} leg: {printable(failed['reason'])}"
    return ""


def broken(reason: str, *, expected: str, seen: str, todo: str) -> JudgedInvariant:
    """Something that must hold did not."""
    return JudgedInvariant("broken", reason, expected=expected, seen=seen, todo=todo)


def unseen(reason: str, *, expected: str = "", seen: str = "nothing", todo: str = SEE_ENDING) -> JudgedInvariant:
    """There is nothing to judge by."""
    return JudgedInvariant("unseen", reason, expected=expected, seen=seen, todo=todo)
