"""Why the attestation server refused, in words: what the policy expects and what the guest's evidence says instead.

The server gives a code and no more, because its answer is relayed. The host has both sides of the comparison, the owner's policy
and the evidence that it passed on, and makes it again here, for the words only: evidence that was refused is a stranger's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import is_sha256
from pytest_glasshouse.wire.evidence import ANTIDEBUG_STRICT
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from pytest_glasshouse.observation.document import ProtectedNotes

#: More differences than this say that the guest is another one altogether.
_SHOWN = 4
_DIGITS, _TEXT = 16, 80
#: Reasons that compare one claim with one value the host knows, and that value's name among its notes.
_CLAIMS = {"policy-binding": ("policy", "policySha256"), "plan": ("plan", "plan")}
#: What a code means where there is nothing to compare.
_MEANINGS = {
    "stale": "evidence made within the policy's freshness, saw older evidence",
    "future": "evidence of now, saw evidence from the future: compare the clocks",
    "lifetime": "evidence that has not expired",
    "nonce": "the nonce that was issued for this session, once",
    "nonce-spent": "a nonce that was not used before",
    "release-limit": "no more releases than the policy allows",
}


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """One component, or another part of the evidence: what the policy expects of it and what was seen. Printable."""

    component: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"{self.component}: expected {self.expected}, saw {self.seen}"


def mismatches(notes: ProtectedNotes, reason: str) -> list[Mismatch]:
    """What made the server refuse with this reason; empty where the notes do not show it."""
    policy: object = notes.get("policy")
    try:
        claims: Mapping[str, object] = peek(notes.get("evidence", ""))
    except IntegrityError:
        return []
    found = list(_compared(reason, policy if isinstance(policy, dict) else {}, claims, notes))
    more = [Mismatch(component="others", expected="none", seen=f"{len(found) - _SHOWN} more")] if len(found) > _SHOWN else []
    return [*found[:_SHOWN], *more]


def refusal_text(notes: ProtectedNotes, reason: str) -> str:
    """The server's reason with what it compared: `composite (component archive: expected ..., saw ...)`."""
    found = "; ".join(map(str, mismatches(notes, reason)))
    if not found and reason in _MEANINGS:
        found = f"expected {_MEANINGS[reason]}"
    return f"{reason} ({found})" if found else reason


def _compared(
    reason: str, policy: Mapping[str, object], claims: Mapping[str, object], notes: ProtectedNotes
) -> Iterator[Mismatch]:
    if reason == "composite":
        yield from _components(_mapping(policy.get("components")), _mapping(claims.get("components")))
    elif reason == "container":
        yield from _one("container", policy.get("container"), claims.get("container"))
    elif reason.startswith("antidebug"):
        antidebug = _mapping(claims.get("antidebug"))
        for name, expected in _mapping(policy.get("antidebug")).items():
            yield from _one(f"anti-debug {name}", expected, antidebug.get(name))
        yield from _one("anti-debug", "enabled", "enabled" if antidebug.get("enabled") is True else "disabled")
        observed = _mapping(antidebug.get("observed"))
        for name, expected in ANTIDEBUG_STRICT.items():
            yield from _one(f"anti-debug {name}", expected, observed.get(name))
    elif reason == "memory-unlocked":
        yield from _one("memory", "locked: never swapped out", "not locked")
    elif reason in _CLAIMS:
        claim, note = _CLAIMS[reason]
        known: Mapping[str, object] = {**notes}
        yield from _one(claim, known.get(note), claims.get(claim))


def _components(wanted: Mapping[str, object], seen: Mapping[str, object]) -> Iterator[Mismatch]:
    for name, rule in wanted.items():
        if name not in seen:
            yield Mismatch(component=f"component {printable(name, limit=_TEXT)}", expected="a digest", seen="none")
        elif isinstance(rule, dict) and "required" in rule:
            yield from _one(f"component {printable(name, limit=_TEXT)}", rule["required"], seen[name])
    for name in seen:
        if name not in wanted:
            yield Mismatch(component=f"component {printable(name, limit=_TEXT)}", expected="no such component", seen="one")


def _one(component: str, expected: object, seen: object) -> Iterator[Mismatch]:
    if expected != seen or type(expected) is not type(seen):
        yield Mismatch(component=component, expected=_short(expected), seen=_short(seen))


def _short(value: object) -> str:
    """A digest by its first digits, anything else as a short printable text."""
    text = value if isinstance(value, str) else repr(value)
    return f"{text[:_DIGITS]}..." if is_sha256(text) else printable(text, limit=_TEXT)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
