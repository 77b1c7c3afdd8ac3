"""Reports of runs on a real `glasshouse serve`, marked as a witness: what a publisher leaves out, and clocks that run slow.

The server is killed with SIGKILL between the marks of a row: it has them still when it is back.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import pytest_glasshouse
from pytest_glasshouse.analysis.fields import Record
from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.channel.archive import GUEST_MAIN
from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.check.check import Checked, Level, check_bytes
from pytest_glasshouse.legs.attestation import HostAttestation, OutsideServer
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.report.attempts import attempt_entry, standing_record
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.run_plan import TallyRecord
from pytest_glasshouse.wire.tokens import public_text
from tests.numpy_guest.archive import numpy_archive_with
from tests.numpy_guest.bytecode import keep_in_cache
from tests.report.conftest import RUN_ID, carried_out, document_of, numpy_broker, record_of
from tests.rounds.conftest import short_row
from tests.service.serving import Serving, serving

ROW = short_row(name="measured", rounds=1)
NULL = short_row(name="null", order="interleaved", target_s=0.2, null=True)
#: A machine whose monotonic clock runs at half its rate, for agent and legs alike: they agree with each other.
SLOW_CLOCK = b"""
import time

_TRUE_NS = time.monotonic_ns
time.monotonic_ns = time.perf_counter_ns = lambda: _TRUE_NS() // 2
"""


class Run:
    """A run of the two rows on a server: its records, its tally, and the report that a publisher makes of some of them."""

    def __init__(self, server: Serving, folder: Path) -> None:
        self._server, self._folder, self._key = server, folder, Ed25519PrivateKey.generate()
        self._cleanups: list[dict[str, Any]] = []
        self.restarts: list[str] = []

    def carry_out(self, *rows: RowSpec, killed: bool = False, broker: Broker | None = None) -> tuple[list[Record], TallyRecord]:
        """The rows one after the other; with `killed` the server is killed, and started again, whenever a leg begins to train."""
        server = self._server
        host = HostAttestation(OutsideServer(url=server.url, key=server.key, owner_key=server.owner_key))
        broker = broker or numpy_broker(RUN_ID, self._folder / "broker")
        planned = tuple((row.row_id, row.rounds) for row in dict.fromkeys(rows))
        try:
            records = [
                record_of(carried_out(broker, row, host, planned, self._kill if killed else lambda _: None)) for row in rows
            ]
            return records, host.tally(RUN_ID)
        finally:
            host.close()
            self._cleanups += broker.end_all().allocations

    def _kill(self, moment: Progress) -> None:
        if moment.phase in ("train", "turns") and moment.leg not in self.restarts:
            self.restarts.append(moment.leg)
            self._server.end(signal.SIGKILL)
            self._server.start()

    def checked(self, records: list[Record], tally: TallyRecord) -> Checked:
        """What a reader sees of the report with these records who trusts its keys, and the server as a witness."""
        document = document_of(records, self._cleanups, tally, key=self._key)
        keys = {public_text(self._key.public_key()), self._server.key, self._server.owner.public_text}
        return check_bytes(report_bytes(document), trust=Trust(keys=frozenset(keys), witnesses=frozenset({self._server.key})))


@dataclass(frozen=True, kw_only=True)
class ThreeAttempts:
    """Three attempts at a row and one at a null row."""

    run: Run
    attempts: list[Record]
    null: Record
    tally: TallyRecord

    def row(self, *attempts: int) -> Record:
        """The record of the row, if these had been its attempts."""
        named = [self.attempts[each - 1] for each in attempts]
        return standing_record([({"startedAt": None, **attempt_entry(each)}, each) for each in named])


@pytest.fixture(scope="module")
def three_attempts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeAttempts]:
    keep_in_cache(request.config, tmp_path_factory)
    folder = tmp_path_factory.mktemp("witness")
    with serving(folder) as server:
        run = Run(server, folder)
        (*attempts, null), tally = run.carry_out(ROW, ROW, ROW, NULL, killed=True)
        yield ThreeAttempts(run=run, attempts=attempts, null=null, tally=tally)


def test_report_that_names_everything_is_witnessed_though_the_server_was_killed_between_marks(
    three_attempts: ThreeAttempts,
) -> None:
    """In the raw leg's time, the protected leg's, and while legs took turns."""
    assert three_attempts.run.restarts == ["raw", "protected", "both"]
    checked = three_attempts.run.checked([three_attempts.row(1, 2, 3), three_attempts.null], three_attempts.tally)
    # On a busy machine the server takes seconds to come back: of that round's time nothing is said then, and of all else as ever.
    doubted = [each for each in checked.missing if "too long to say how much of the" in each]
    assert ([str(each) for each in checked.faults], [*checked.missing]) == ([], doubted)
    assert checked.level is (Level.AUTHENTIC if doubted else Level.WITNESSED)


LEFT_OUT: dict[str, tuple[Callable[[ThreeAttempts], list[Record]], str]] = {
    "second of three attempts": (
        lambda made: [made.row(1, 3), made.null], "the server counted 3 attempts at this row, and the report names 2",
    ),
    "first of three attempts": (
        lambda made: [made.row(2, 3), made.null], "the server counted 2 attempts until the one that stands, and the report names 1",
    ),
    "null row": (lambda made: [made.row(1, 2, 3)], f"row {NULL.row_id} was planned before the first key"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_report_that_leaves_something_out_is_refused_at_witnessed(three_attempts: ThreeAttempts, name: str) -> None:
    publish, reason = LEFT_OUT[name]
    checked = three_attempts.run.checked(publish(three_attempts), three_attempts.tally)
    assert (checked.level, [str(each) for each in checked.faults]) == (Level.AUTHENTIC, [])
    assert any(reason in each for each in checked.missing), checked.missing


def test_report_of_a_guest_with_a_slow_clock_is_refused_at_witnessed(tmp_path: Path) -> None:
    """Every finding holds: agent and legs have the same clock."""
    # Every process of the guest imports the package first.
    package = Path(pytest_glasshouse.__file__).read_bytes() + SLOW_CLOCK
    slow = MockProvider(
        archive=numpy_archive_with({"__main__.py": GUEST_MAIN.encode(), "pytest_glasshouse/__init__.py": package})
    )
    broker = Broker(BrokerOptions(provider="mock", run_id=RUN_ID, run_dir=tmp_path / "broker"), providers={"mock": slow})
    with serving(tmp_path) as server:
        run = Run(server, tmp_path)
        records, tally = run.carry_out(short_row(name="slow", target_s=0.5), broker=broker)
        checked = run.checked(records, tally)
    not_held = [
        (each["reason"], each["expected"], each["seen"])
        for each in records[0]["record"]["findings"]
        if each["finding"] == "broken"
    ]
    assert (not_held, checked.level) == ([], Level.AUTHENTIC)
    assert any("by the guest's clock" in each and "it runs at another rate" in each for each in checked.missing), checked.missing
