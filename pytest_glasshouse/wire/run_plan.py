"""What the owner asks an attestation server to witness of a run: its plan, borders, and at its end a tally; how that is read.

The tally is what the server counted: every row that was planned, and every round that was begun, of every attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.wire.canonical import Json, canonical, sha256_hex, tagged
from pytest_glasshouse.wire.evidence import TYP_TALLY
from pytest_glasshouse.wire.tokens import expect, public_text, thumbprint, verify
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

#: A row of a plan, by its id, and how many rounds it was to have. Of legs with several ranks also how many in all, and on how
#: many nodes.
PlannedRow: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

#: No request expires: whoever sends one again gets the same answer, and a host's clock is trusted in nothing.
_REQUEST: dict[str, type] = {"iss": str, "aud": str, "jti": str, "run": str}
RUN_PLAN_SHAPE: dict[str, type] = {**_REQUEST, "rows_sha256": str}
MARK_REQUEST_SHAPE: dict[str, type] = {**_REQUEST, "row": str, "attempt": str, "plan": str, "round": str, "nonce": str}
TALLY_QUERY_SHAPE: dict[str, type] = dict(_REQUEST)
TALLY_SHAPE: dict[str, type] = {
    "iss": str, "iat": int, "run": str, "query_sha256": str, "run_plan": str, "counted_sha256": str,
}  # fmt: skip
#: The most rows of a plan, and the longest name of one; more are refused by the server.
MOST_ROWS, MOST_NAME = 4096, 512


class BegunRoundRecord(TypedDict):
    """A round that the server saw begin. `keyed` is whether a session asked for a challenge in it; `chain` is of its marks."""

    row: str
    attempt: str
    plan: str
    round: str
    keyed: bool
    marks: int
    chain: str


class Counted(TypedDict):
    """What the server counted of a run: its planned rows (`PlannedRow`), and every round that was begun, in order."""

    rows: list[list[str | int]]
    begun: list[BegunRoundRecord]


class TallyRecord(TypedDict):
    """A server's tally, as it answers and as a report has it: its signature, and what it signed for."""

    server: str
    tally: str
    counted: Counted


@dataclass(frozen=True, kw_only=True)
class Tally:
    """A verified tally: what was counted of `run`, whose plan has the digest `run_plan`."""

    run: str
    run_plan: str
    counted: Counted


def planned_row(row: str, rounds: int, *, gpus: int = 1, nodes: int = 1) -> PlannedRow:
    """A row of a plan, whose legs have `gpus` ranks."""
    return (row, rounds) if gpus == 1 else (row, rounds, gpus, nodes)


def planned_ranks(planned: Sequence[Json]) -> tuple[int, int]:
    """How many ranks the legs of a planned row have in all, and on how many nodes."""
    gpus, nodes = planned[2:4] if len(planned) > 2 else (1, 1)  # noqa: PLR2004
    return int(str(gpus)), int(str(nodes))


def read_planned_row(planned: Sequence[Json]) -> PlannedRow:
    """A row of a plan from its JSON."""
    gpus, nodes = planned_ranks(planned)
    return planned_row(str(planned[0]), int(str(planned[1])), gpus=gpus, nodes=nodes)


def planned_rows(rows: Iterable[PlannedRow]) -> list[Json]:
    """The rows of a plan in their one form: each once, by name."""
    return [[*row] for row in sorted(set(rows))]


def run_plan_sha256(run: str, rows: list[Json]) -> str:
    """The digest of a run's plan."""
    return tagged("glasshouse-run-plan/1", canonical([run, rows]))


def counted_sha256(counted: object) -> str:
    """The digest that a tally signs."""
    return sha256_hex(canonical(counted))


def tally_record(answer: Mapping[str, Json], *, server: Ed25519PublicKey, query: str) -> TallyRecord:
    """What `server` answered to `query`, for the report. Raises `IntegrityError`."""
    try:
        record = check_typed({"server": public_text(server), **answer}, TallyRecord, "tally")
        claims = verify(record["tally"], key=server, typ=TYP_TALLY)
    except ProtocolError as error:
        raise IntegrityError("malformed", str(error)) from None
    if claims.get("query_sha256") != sha256_hex(query.encode()):
        raise IntegrityError("jwt-claims", "an answer to another question")
    read_tally(record)
    return record


def read_tally(record: TallyRecord) -> Tally:
    """The tally, when the server that it names signed for all of it. Raises `IntegrityError`; who that server is is not asked."""
    from pytest_glasshouse.wire.tokens import public_key

    server = public_key(record["server"])
    claims = verify(record["tally"], key=server, typ=TYP_TALLY)
    expect(claims, TALLY_SHAPE)
    if claims["iss"] != thumbprint(server) or claims["counted_sha256"] != counted_sha256(record["counted"]):
        raise IntegrityError("jwt-claims", "the server signed for another count")
    return Tally(run=str(claims["run"]), run_plan=str(claims["run_plan"]), counted=record["counted"])
