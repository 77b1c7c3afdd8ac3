"""The level `witnessed`: what a server outside the publisher's control counted and timed, against what the report names.

A server that witnesses knows a run's rows before its first key, each round when it begins, and signs its own time at the borders
of timed stretches. A report that names fewer rows, attempts or rounds than the tally of its server, or times that did not pass
there, is not witnessed. Reports whose servers were of an older version are judged by their receipts alone, as they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.check.marked_time import time_gaps
from pytest_glasshouse.check.signatures import enrolled_keys
from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.observation.reading import observed_rounds, parts_of_round, protected_of
from pytest_glasshouse.report.attempts import server_attempt
from pytest_glasshouse.report.fields import every_row
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.marks import chain_of
from pytest_glasshouse.wire.run_plan import planned_ranks, read_tally
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.analysis.fields import RowRecord
    from pytest_glasshouse.check.authenticity import Trust
    from pytest_glasshouse.observation.document import Observation, RoundNotes
    from pytest_glasshouse.report.fields import Report
    from pytest_glasshouse.wire.run_plan import BegunRoundRecord, Tally


def unwitnessed(document: Report, trust: Trust) -> Iterator[str]:
    """Every reason why an authentic report is not `witnessed`; none where a server that the reader marked bears all of it out."""
    witnesses = trust.witnesses - {document["keys"]["report"], *document["keys"]["owners"]}
    receipts = [*_unsigned_by(document, witnesses)]
    yield from receipts
    if receipts or not _has_tally(document):
        return
    try:
        tallies = [*_tallies(document, witnesses)]
    except IntegrityError as error:
        yield f"a tally does not verify: {error.reason}"
        return
    yield from _wrong_tallies(document, tallies)
    rows = {planned_id(row): (path, row) for path, _, row in every_row(document)}
    for row_id in dict.fromkeys(str(row[0]) for tally in tallies for row in tally.counted["rows"]):
        if row_id not in rows:
            yield f"row {row_id} was planned before the first key, and the report does not name it"
            continue
        path, row = rows[row_id]
        begun = [each for tally in tallies for each in tally.counted["begun"] if each["row"] == row_id]
        yield from (f"{path}: {text}" for text in _uncounted(row, begun))
        yield from (f"{path}: {text}" for text in _unplanned(row, row_id, tallies))
    planned = {str(row[0]) for tally in tallies for row in tally.counted["rows"]}
    unplanned = [path for row_id, (path, _) in rows.items() if row_id not in planned]
    yield from (f"{path}: the row was not planned before the first key" for path in unplanned)
    yield from _untimed(document)


def planned_id(row: RowRecord) -> str:
    """The id of a row in the plan of its run: it has another one where its legs did not fit on the device."""
    plan = row["observation"].get("plan")
    return row["rowId"] if plan is None else plan.get("selectedRowId", row["rowId"])


def attempts_elsewhere(document: Report) -> Iterator[str]:
    """What a server counted of the rows in other runs: attempts at the same row, with the same subject, of the same owner."""
    for path, _, row in every_row(document):
        counted, named = server_attempt(row["observation"]), len(row.get("attempts", ())) or 1
        if counted is not None and counted > named:
            yield f"{path}: by the server's count it is attempt {counted} at this row, over all runs of its owner and subject"


def _unsigned_by(document: Report, witnesses: frozenset[str]) -> Iterator[str]:
    """A null row has no receipt: a witness must have affirmed its agent's evidence for a measured row."""
    servers = {_server_of(row["observation"]) for row in (*document["rows"], *document.get("sealedRows", ()))}
    agents = {
        str(guest.get("ak"))
        for null in document["nullRows"]
        for observed in observed_rounds(null["observation"])
        for guest in observed["guest"]
    }
    by_witness = bool(servers) and servers <= witnesses
    if not by_witness or not agents <= enrolled_keys(document, witnesses):
        yield "no receipt is by a server that --trust names as a witness"
        if document["nullRows"]:
            yield "for a null row, such a server must have affirmed its agent's evidence for a measured row"


def _server_of(observation: Observation) -> str:
    keys = observation.get("keys")
    return "" if keys is None else keys["server"]


def _results(document: Report) -> Iterator[dict[str, object]]:
    """The claims of every attestation result; each was verified where it counts."""
    for _, _, row in every_row(document):
        for observed in observed_rounds(row["observation"]):
            for _, part in parts_of_round(observed):
                if "result" in (protected := protected_of(part)):
                    yield dict(peek(protected["result"]))


def _has_tally(document: Report) -> bool:
    """Whether a tally can be expected: a server that gives one says so in every result, by the digest of the run's plan."""
    return "tallies" in document or any("run_plan" in claims for claims in _results(document))


def _tallies(document: Report, witnesses: frozenset[str]) -> Iterator[Tally]:
    for record in document.get("tallies", ()):
        if record["server"] in witnesses:
            yield read_tally(record)


def _wrong_tallies(document: Report, tallies: Sequence[Tally]) -> Iterator[str]:
    """Every server that a row names gave one tally, of this run and of the plan that its results name."""
    named = {_server_of(row["observation"]) for _, _, row in every_row(document)} - {""}
    signed = [record["server"] for record in document.get("tallies", ())]
    if not named <= set(signed) or len(set(signed)) != len(signed):
        yield "the report has no tally by its attestation server: it does not show how many rows, rounds and attempts there were"
    if any(tally.run != document["runId"] for tally in tallies):
        yield "its tally is of another run"
    plans = {tally.run_plan for tally in tallies}
    if len(plans) > 1 or any(claims.get("run_plan", "") not in plans for claims in _results(document)):
        yield "its tally is of another plan of this run than its keys were released for"


def _uncounted(row: RowRecord, begun: Sequence[BegunRoundRecord]) -> Iterator[str]:
    """Where a row names fewer attempts or rounds than the server counted."""
    counted = list(dict.fromkeys(each["attempt"] for each in begun))
    entries, observation = row.get("attempts", ()), row["observation"]
    named = len(entries) or 1
    if len(counted) > named:
        yield f"the server counted {len(counted)} attempts at this row, and the report names {named}"
    plan = observation.get("plan")
    if plan is None:
        return
    attempt = plan.get("attemptId", "")
    stands = next((each["attempt"] for each in entries if each["stands"]), 1)
    if attempt in counted and counted.index(attempt) + 1 > stands:
        yield f"the server counted {counted.index(attempt) + 1} attempts until the one that stands, and the report names {stands}"
    rounds = {each["round"]: each for each in begun if each["attempt"] == attempt}
    seen = {each["nonce"]: each for each in (*observation.get("didNotFit", ()), *observed_rounds(observation))}
    if missing := [nonce for nonce in rounds if nonce not in seen]:
        yield f"the server counted {len(rounds)} rounds of this attempt, and the report lacks {len(missing)} of them"
    for nonce, observed in seen.items():
        times = observed["marks"]["times"] if "marks" in observed else []
        if nonce not in rounds:
            if times or "outcome" not in row:
                yield f"its tally does not have round {observed['round']}: it is of another time, or of another server"
        elif "outcome" not in row:
            yield from _other_marks(observed, rounds[nonce], times)


def _other_marks(observed: RoundNotes, counted: BegunRoundRecord, times: Sequence[Sequence[str | int]]) -> Iterator[str]:
    if len(times) != counted["marks"] or chain_of(observed["nonce"], times) != counted["chain"]:
        yield f"the marks of round {observed['round']} are not those that the server signed"


def _unplanned(row: RowRecord, row_id: str, tallies: Sequence[Tally]) -> Iterator[str]:
    """Where a row was to have other rounds, or ran by another plan, than the server was told."""
    plan = row["observation"].get("plan")
    if plan is None:
        return
    registered = [each for tally in tallies for each in tally.counted["rows"] if each[0] == row_id]
    rounds = {each[1] for each in registered}
    if rounds != {plan["rounds"]}:
        yield f"{plan['rounds']} rounds were planned by the row, and {', '.join(map(str, rounds))} by the plan of the run"
    ranks, own = {planned_ranks(each) for each in registered}, (plan.get("gpus", 1), plan.get("nodes", 1))
    if ranks != {own}:
        told = ", ".join(f"{gpus} on {nodes} nodes" for gpus, nodes in sorted(ranks))
        yield f"ranks on {own[1]} nodes are {own[0]} by the row's plan, and {told} by the plan of the run"
    attempt, digest = plan.get("attemptId"), sha256_hex(canonical(plan))
    rounds_of = {each["nonce"] for each in observed_rounds(row["observation"])}
    plans = {
        each["plan"]
        for tally in tallies
        for each in tally.counted["begun"]
        if each["attempt"] == attempt and each["round"] in rounds_of
    }
    if plans - {digest}:
        yield "its rounds were begun by another plan than the report has of it"


def _untimed(document: Report) -> Iterator[str]:
    """Where the times of a row with a figure did not pass at the server."""
    for path, name, row in every_row(document):
        if name == "excludedResults":
            continue
        for place, observed in enumerate(observed_rounds(row["observation"])):
            where = f"{path}.observation.rounds[{place}]"
            try:
                yield from (f"{where}: {text}" for text in time_gaps(observed))
            except (IntegrityError, ProtocolError, LookupError, ValueError) as error:
                why = error.reason if isinstance(error, IntegrityError) else type(error).__name__
                yield f"{where}: the agent's account of the server's marks cannot be read ({why})"
