"""Attempts at one row: which of them the row's record is taken from, and what the record lists of the others.

A row is run again by a retry plugin, a test that runs it twice, a restarted worker or a resumed run. Whoever may choose among
attempts publishes the one they like, so there is no choice: the record is of the first attempt that was judged, or of the first
judged one in which an invariant was broken, and a row with more than one attempt is not publishable whatever came out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from pytest_glasshouse.analysis.sampling import is_current
from pytest_glasshouse.analysis.wording import figure_with_interval
from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.observation.reading import observed_rounds, protected_of
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.analysis.fields import AttemptEntry, AttemptFields, Record, RowRecord, StartedAttempt
    from pytest_glasshouse.observation.document import Observation

#: Outcomes after which nothing was judged: another attempt may stand for the row.
NEVER_JUDGED = frozenset({"lost", "infrastructure"})
#: Why a row of several attempts may not be published.
NEEDED_MORE = "it needed more than one attempt"


def attempt_entry(record: Record) -> AttemptFields:
    """What a row's `attempts` list of one attempt, except its number, its start and whether it stands."""
    return _entry(record["record"])


def _entry(row: RowRecord) -> AttemptFields:
    entry: AttemptFields = {
        "outcome": "measured",
        "notHeld": [
            {"invariant": each["invariant"], "finding": each["finding"], "reason": each["reason"]}
            for each in row.get("findings", ())
            if each["finding"] != "held"
        ],
        "provider": row["provider"],
        "providerInstanceId": row["providerInstanceId"],
        "allocationName": row["allocationName"],
        "lifecycle": {"attempted": 0, "held": 0},
        "serverAttempt": server_attempt(row["observation"]),
        "observationSha256": _digest(row["observation"]),
    }
    if "lifecycle" in row:
        entry["lifecycle"] = row["lifecycle"]
    if "outcome" in row:
        entry["outcome"], entry["reason"] = row["outcome"], row["reason"]
    elif "differencePct" in row:
        entry["differencePct"] = row["differencePct"]
    elif "overheadPct" in row:
        entry["overheadPct"], entry["overheadCi95Pct"] = row["overheadPct"], row["overheadCi95Pct"]
        entry["verdict"] = row["verdict"]
        if is_current(row["observation"]):
            entry["roundsMeanPct"] = row["roundsMeanPct"]
    return entry


def _digest(observation: object) -> str | None:
    """None of what is no JSON: such a record is withheld."""
    try:
        return sha256_hex(json.dumps(observation, sort_keys=True).encode())
    except (ValueError, TypeError, RecursionError):
        return None


def lost_attempt_entry() -> AttemptFields:
    """The entry of an attempt that was begun and left no record."""
    return {
        "outcome": "lost",
        "reason": "it was begun and left no record",
        "notHeld": [],
        "provider": None,
        "providerInstanceId": None,
        "allocationName": None,
        "lifecycle": {"attempted": 0, "held": 0},
        "serverAttempt": None,
        "observationSha256": None,
    }


def standing_place(entries: Sequence[AttemptFields]) -> int:
    """The place of the attempt that stands for the row: no later attempt replaces it unless something was broken there."""
    judged = [place for place, each in enumerate(entries) if each["outcome"] not in NEVER_JUDGED]
    return next((place for place in judged if has_broken(entries[place])), judged[0] if judged else len(entries) - 1)


def has_broken(entry: AttemptFields) -> bool:
    """Whether an invariant was broken in an attempt."""
    return any(each["finding"] == "broken" for each in entry["notHeld"])


def standing_record(tried: Sequence[tuple[StartedAttempt, Record | None]]) -> Record:
    """The row's record from all of its attempts, oldest first: the entry of each, and its record.

    The record of an attempt that cannot stand may be missing.
    """
    if len(tried) == 1 and tried[0][1] is not None:
        return tried[0][1]
    stands = standing_place([entry for entry, _ in tried])
    record = tried[stands][1]
    if record is None:
        raise ReportError(f"attempt {stands + 1} of {len(tried)} at a row stands for it and left no record")
    entries = [{"attempt": number, "stands": number == stands + 1, **entry} for number, (entry, _) in enumerate(tried, 1)]
    row: dict[str, object] = {**record["record"], "attempts": entries}
    if record["list"] != "nullRows":
        reasons = [*record["record"]["unpublishableBecause"], NEEDED_MORE]
        row |= {"publishable": False, "unpublishableBecause": list(dict.fromkeys(reasons))}
    return cast("Record", {**record, "record": row})


def other_attempts(row: RowRecord) -> list[AttemptEntry]:
    """The entries of the attempts that do not stand for the row."""
    return [each for each in row.get("attempts", ()) if not each["stands"]]


def server_attempt(observation: Observation) -> int | None:
    """The number of this attempt as the attestation server counted it, in the last result it signed; None without one."""
    for observed in reversed(observed_rounds(observation)):
        result = protected_of(observed).get("result")
        if isinstance(result, str):
            try:
                counted = peek(result).get("attempt")
            except IntegrityError:
                return None
            return counted if isinstance(counted, int) and not isinstance(counted, bool) else None
    return None


def attempt_faults(row: RowRecord) -> Iterator[tuple[str, str]]:
    """Where a row contradicts its own `attempts`; paths below the row.

    The server's count is independent of the host's: a server in the pytest process serves this run alone, so it never counted
    more attempts at the row than there were.
    """
    entries = row.get("attempts", ())
    stands = standing_place(entries) if entries else 0
    if [(each["attempt"], each["stands"]) for each in entries] != [(at + 1, at == stands) for at in range(len(entries))]:
        yield ".attempts", f"are not numbered from 1, or not the one that stands (attempt {stands + 1}) is said to stand"
        return
    if entries:
        own = {"attempt": stands + 1, "stands": True, "startedAt": entries[stands]["startedAt"]}
        # A withheld row has no observation to compare with; its entry is what it was.
        if row["observation"] and {**own, **_entry(row)} != entries[stands]:
            yield f".attempts[{stands}]", "is not what the record tells"
        if "unpublishableBecause" in row and (row["publishable"] or NEEDED_MORE not in row["unpublishableBecause"]):
            yield ".publishable", NEEDED_MORE
    keys = row["observation"].get("keys")
    counted = server_attempt(row["observation"])
    embedded = keys is not None and keys.get("attestationServer") == "embedded"
    if embedded and counted is not None and counted > stands + 1:
        yield ".attempts", f"the server counted {counted} attempts at this row, and the record tells of {stands + 1} until then"


def row_title(row: RowRecord) -> str:
    """A row's name, with the other parameters of its test: they tell rows of one name apart."""
    parameters = ", ".join(f"{name}={text}" for name, text in row.get("parameters", {}).items())
    return f"{row['name']}[{parameters}]" if parameters else str(row["name"])


def attempts_line(row: RowRecord) -> str:
    """One line about the attempts at a row; empty where there was one."""
    entries = row.get("attempts", ())
    if not entries:
        return ""
    number = next(each["attempt"] for each in entries if each["stands"])
    earlier = "; ".join(_summarized(each) for each in entries if each["attempt"] < number)
    later = "; ".join(_summarized(each) for each in entries if each["attempt"] > number)
    parts = [f"attempt {number} of {len(entries)} stands"]
    return "; ".join([*parts, *([f"earlier: {earlier}"] if earlier else []), *([f"later: {later}"] if later else [])])


def _summarized(entry: AttemptEntry) -> str:
    totals = entry.get("overheadPct", entry.get("differencePct"))
    figure, interval = entry.get("roundsMeanPct", totals), entry.get("overheadCi95Pct")
    result = entry["outcome"]
    if figure is not None:
        result = figure_with_interval(figure, None if interval is None else (interval[0], interval[1]))
    missing = ", ".join(f"{each['invariant']} {each['finding']}" for each in entry["notHeld"])
    return f"{entry['attempt']}: {result}{f', {missing}' if missing else ''}"
