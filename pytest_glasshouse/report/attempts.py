"""Attempts at one row: which of them the row's record is, and what it tells of the others.

A row is tried again by a retry plugin, a test that runs it twice, a worker's restart or a run that goes on. Whoever may
choose among attempts publishes the one they like, so nobody chooses: the first that was judged stands, before it one of
which anything is broken, and a row that was tried more than once is not publishable whatever came out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.analysis.wording import figure_with_interval
from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.observation.reading import observed_rounds, protected_of
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_glasshouse.analysis.record import Record

#: Outcomes after which nothing was judged: another attempt may stand for the row.
NEVER_JUDGED = frozenset({"lost", "infrastructure"})
#: Why a row of several attempts may not be published.
NEEDED_MORE = "it needed more than one attempt"
#: What an attempt tells of its figures, where it was measured.
_FIGURES = ("overheadPct", "overheadCi95Pct", "differencePct", "verdict")
_WHERE = ("provider", "providerInstanceId", "allocationName")


def attempt_entry(record: Record) -> dict[str, Any]:
    """What a row's `attempts` tell of one attempt, but for its number, when it began and whether it stands."""
    told = record["record"]
    measured = record["list"] != "excludedResults"
    return {
        "outcome": "measured" if measured else told["outcome"],
        **({} if measured else {"reason": told["reason"]}),
        **({name: told[name] for name in _FIGURES if name in told} if measured else {}),
        "notHeld": [
            {name: each[name] for name in ("invariant", "finding", "reason")}
            for each in told.get("findings", ())
            if each["finding"] != "held"
        ],
        **{name: told[name] for name in _WHERE},
        "lifecycle": told.get("lifecycle", {"attempted": 0, "held": 0}),
        "serverAttempt": server_attempt(told["observation"]),
        "observationSha256": _digest(told["observation"]),
    }


def _digest(observation: Any) -> str | None:
    """None of what is no JSON: such a record is withheld."""
    try:
        return sha256_hex(json.dumps(observation, sort_keys=True).encode())
    except (ValueError, TypeError, RecursionError):
        return None


def lost_attempt_entry() -> dict[str, Any]:
    """What is told of an attempt that was begun and left no record."""
    return {
        "outcome": "lost",
        "reason": "it was begun and left no record",
        "notHeld": [],
        **dict.fromkeys(_WHERE),
        "lifecycle": {"attempted": 0, "held": 0},
        "serverAttempt": None,
        "observationSha256": None,
    }


def standing_place(entries: Sequence[Mapping[str, Any]]) -> int:
    """The place of the attempt that the row's record is: later ones change nothing unless something broke in them."""
    judged = [place for place, each in enumerate(entries) if each["outcome"] not in NEVER_JUDGED]
    return next((place for place in judged if has_broken(entries[place])), judged[0] if judged else len(entries) - 1)


def has_broken(told: Mapping[str, Any]) -> bool:
    """Whether anything was broken in an attempt."""
    return any(each["finding"] == "broken" for each in told["notHeld"])


def standing_record(tried: Sequence[tuple[Mapping[str, Any], Record | None]]) -> Record:
    """The row's record from all of its attempts, oldest first: what is told of each, and its record.

    The record of one that cannot stand may be missing. Entries have `startedAt`.
    """
    if len(tried) == 1 and tried[0][1] is not None:
        return tried[0][1]
    stands = standing_place([told for told, _ in tried])
    record = tried[stands][1]
    if record is None:
        raise ReportError(f"attempt {stands + 1} of {len(tried)} at a row stands for it and left no record")
    entries = [{"attempt": number, "stands": number == stands + 1, **told} for number, (told, _) in enumerate(tried, 1)]
    told = {**record["record"], "attempts": entries}
    if "publishable" in told:
        reasons = [*told["unpublishableBecause"], NEEDED_MORE]
        told |= {"publishable": False, "unpublishableBecause": list(dict.fromkeys(reasons))}
    return {**record, "record": told}


def other_attempts(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is told of the attempts at a row that its record is not of."""
    return [each for each in record.get("attempts", ()) if not each["stands"]]


def server_attempt(observation: Mapping[str, Any]) -> int | None:
    """Which attempt at this row the attestation server counted, by the last result it signed; None where it signed none."""
    for observed in reversed(observed_rounds(observation)):
        result = protected_of(observed).get("result")
        if isinstance(result, str):
            try:
                counted = peek(result).get("attempt")
            except IntegrityError:
                return None
            return counted if isinstance(counted, int) and not isinstance(counted, bool) else None
    return None


def attempt_faults(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a record of the list `name` says of its attempts and is not so; paths below the record.

    The server's own count is the second witness: one in the pytest process serves this run alone, so it never counted
    more attempts at the row than there were.
    """
    entries = record.get("attempts", ())
    stands = standing_place(entries) if entries else 0
    if [(each["attempt"], each["stands"]) for each in entries] != [(at + 1, at == stands) for at in range(len(entries))]:
        yield ".attempts", f"are not numbered from 1, or not the one that stands (attempt {stands + 1}) is said to stand"
        return
    if entries:
        own = {"attempt": stands + 1, "stands": True, "startedAt": entries[stands]["startedAt"]}
        # What was observed in a withheld row is not there, and what is told of the attempt is what it was.
        if record["observation"] and {**own, **attempt_entry({"list": name, "record": record})} != entries[stands]:
            yield f".attempts[{stands}]", "is not what the record tells"
        if "publishable" in record and (record["publishable"] or NEEDED_MORE not in record["unpublishableBecause"]):
            yield ".publishable", NEEDED_MORE
    keys = record["observation"].get("keys")
    counted = server_attempt(record["observation"])
    embedded = isinstance(keys, dict) and keys.get("attestationServer") == "embedded"
    if embedded and counted is not None and counted > stands + 1:
        yield ".attempts", f"the server counted {counted} attempts at this row, and the record tells of {stands + 1} until then"


def row_title(record: Mapping[str, Any]) -> str:
    """A row's name, with the other parameters of its test: rows of one name are told apart by them."""
    told = ", ".join(f"{name}={text}" for name, text in record.get("parameters", {}).items())
    return f"{record['name']}[{told}]" if told else str(record["name"])


def attempts_line(record: Mapping[str, Any]) -> str:
    """One line about the attempts at a row, or nothing where there was one."""
    entries = record.get("attempts", ())
    if not entries:
        return ""
    number = next(each["attempt"] for each in entries if each["stands"])
    earlier = "; ".join(_shown(each) for each in entries if each["attempt"] < number)
    later = "; ".join(_shown(each) for each in entries if each["attempt"] > number)
    told = [f"attempt {number} of {len(entries)} stands"]
    return "; ".join([*told, *([f"earlier: {earlier}"] if earlier else []), *([f"later: {later}"] if later else [])])


def _shown(told: Mapping[str, Any]) -> str:
    figure, interval = told.get("overheadPct", told.get("differencePct")), told.get("overheadCi95Pct")
    said = told["outcome"]
    if figure is not None:
        said = figure_with_interval(figure, None if interval is None else (interval[0], interval[1]))
    missing = ", ".join(f"{each['invariant']} {each['finding']}" for each in told["notHeld"])
    return f"{told['attempt']}: {said}{f', {missing}' if missing else ''}"
