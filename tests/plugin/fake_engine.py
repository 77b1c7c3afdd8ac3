"""A project's engine that rents nothing and trains nothing: what a row does is in its name.

Copied into each test project, beside the example run of the report's own tests, where the project's conftest puts it
into the stash. It writes what it was asked to `engine.log`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, NoCapacityError, TerminateError
from pytest_glasshouse.invariants import Finding
from pytest_glasshouse.legs.row_settings import RowSettings
from pytest_glasshouse.observation.outcome import Ended, Outcome
from pytest_glasshouse.observation.results import RoundResult
from pytest_glasshouse.providers.base import Cleanup
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run.engine import Engine, Event, RowObjects, ServerAccount
from pytest_glasshouse.run.options import Options

if TYPE_CHECKING:
    from tests.unit.report import example
else:
    import example

LOG = Path("engine.log")
#: What an earlier attempt made, where a test sets it.
EARLIER_NAME = "glasshouse-earlier-1-2000000000"
#: The names of rows that were carried out, one a line for each time.
CARRIED = Path("carried.log")
#: How many units the protected leg falls behind: 5.5 % overhead, and one of -27.6 %.
SLOWER = {"slow": 89, "fast": -574}


def log(line: str) -> None:
    with LOG.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


#: Guest data that no report can hold, by the name of its row.
POISON: dict[str, Any] = {
    "nested": nested(27),
    "deep": nested(900),
    "figure": {"overheadPct": -40.0},
    "huge": 2**60,
    "notfinite": float("nan"),
    "unspeakable": {1, 2},
    "surrogate": "\ud800",
    "named": {"x" * 70_000: 1},
    "long": "a." * 60_000,
}


class FakeBroker:
    def __init__(self, options: Options, run_dir: Path) -> None:
        self._options = options
        self._run_dir = run_dir
        self._acquired = 0

    def plan(self, rows: Sequence[RowSpec]) -> None:
        log(f"plan {' '.join(row.name for row in rows)}")
        if any(row.name.startswith("unconfigurable") for row in rows):
            raise ConfigurationError("row needs the extra train")

    rents = False
    simulated = ()
    cpu_reasons = ()
    over_budget = os.environ.get("FAKE_OVER_BUDGET", "")

    def quote(self, *, on_retry: Callable[[str], None]) -> Any:
        del on_retry
        raise AssertionError("nothing here has a price")

    def spent_usd(self) -> float | None:
        spent = os.environ.get("FAKE_SPENT_USD")
        return None if spent is None else float(spent)

    def gpu_hours(self) -> float | None:
        return None

    def acquire(self, row: RowSpec, *, worker: str) -> Any:
        log(f"acquire {row.name} {worker}")
        if row.name.startswith("nocapacity"):
            raise NoCapacityError("no offers; nothing was rented. Try again later")
        self._acquired += 1
        return SimpleNamespace(row=row)

    def release(self, grant: Any, *, worker: str) -> None:
        log(f"release {grant.row.name} {worker}")

    def end_all(self) -> Cleanup:
        log("end_all")
        if not self._acquired:
            return Cleanup(status="nothing-rented")
        if "terminate-fails" in self._options.faults:
            if os.environ.get("FAKE_END_RAISES"):
                raise TerminateError("the listing did not answer")
            return Cleanup(status="leak", allocations=({"name": "glasshouse-x-1", "status": "leak", "detail": "still listed"},))
        detail = os.environ.get("FAKE_DETAIL", "")
        return Cleanup(status="proven", allocations=({"name": "glasshouse-x-1", "status": "proven", "detail": detail},))

    def signal_end(self) -> None:
        log("signal_end")

    def listing(self, provider: str = "") -> tuple[Any, ...]:
        log(f"listing {provider}")
        if os.environ.get("FAKE_LISTING") == "fails":
            raise InfrastructureError("the listing did not answer")
        return tuple(SimpleNamespace(name=EARLIER_NAME, state=state) for state in os.environ.get("FAKE_LISTING", "").split())

    def secrets(self) -> tuple[str, ...]:
        return ("a-secret-socket-name",)


class FakeServer:
    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.address = "nowhere"

    def close(self) -> None:
        log("close")


class FakeClient(FakeBroker):
    def event(self, event: dict[str, Any]) -> None:
        log(f"event {event['phase']} {event['worker']}")


def kind_of(row: RowSpec) -> str:
    """What this attempt at the row does; the parts of a name that begins with "in" are its attempts in order."""
    kind, *later = row.name.split("-")
    begun = CARRIED.read_text("utf-8").splitlines().count(row.name)
    return [*later, "good", "good"][begun - 1] if kind == "in" else kind


class FakeAllocation:
    def __init__(self, settings: RowSettings, on_progress: Callable[[Event], None]) -> None:
        self._settings = settings
        self._on_progress = on_progress

    def carry_out(self, row: RowSpec, protected: Any, raw: Any) -> Outcome:  # noqa: C901  (each kind of row is one line)
        assert (protected, raw) == ("protected", "raw")
        with CARRIED.open("a", encoding="utf-8") as file:
            file.write(f"{row.name}\n")
        self._on_progress({"row_id": row.row_id, "leg": "raw", "phase": "train", "round": 1, "rounds": 1, "elapsed_s": 1.0})
        kind = kind_of(row)
        if kind == "toolbroken":
            raise RuntimeError("the tool broke in /home/somebody/secret")
        if kind == "guestgone":
            raise InfrastructureError("the guest at /tmp/x.sock is gone")
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "killedonce" and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind in ("terminated", "hungup"):
            os.kill(os.getpid(), signal.SIGTERM if kind == "terminated" else signal.SIGHUP)  # its handler has run by then
        if kind == "brokenoff":
            self._two_rounds_of_three(row)
            os.kill(os.getpid(), signal.SIGINT)
        ended = None
        observation = example.observation(rounds=row.rounds, unseen=())
        observation["allocation"]["slower"] = SLOWER.get(kind, 0)
        if kind == "lostcallback":
            observation["rounds"][0]["raw"]["callback"] = None
            observation["allocation"]["broken"] = ["raw callback completed"]
            ended = Ended(outcome="excluded", reason="the raw callback never came", decision="Excluded from overhead")
        if kind == "broken":
            more = ["raw callback completed"] * row.name.endswith("-two")
            observation["allocation"]["broken"] = ["runtime zeroized", *more]
        if kind == "leaky":
            observation["allocation"]["address"] = "a-secret-socket-name"
        if kind in POISON:
            observation["rounds"][0]["protected"]["started"] = POISON[kind]
        return Outcome(
            row=row,
            declared=self._settings.declared,
            allocation=example.allocation(name="glasshouse-x-1"),
            observation=observation,
            ended=ended,
        )

    def _two_rounds_of_three(self, row: RowSpec) -> None:
        """How a row stands after two of its rounds."""
        assert self._settings.on_round is not None
        ended = Ended(
            outcome="lost", reason="broken off; 2 of 3 rounds are finished and kept; 1 more are needed", decision="Again"
        )
        self._settings.on_round(
            Outcome(
                row=row,
                declared=self._settings.declared,
                allocation=example.allocation(name="glasshouse-x-1"),
                observation=example.observation(rounds=2, unseen=()),
                ended=ended,
            )
        )


class FakeEngine(Engine):
    used = False
    typed_observations = False

    def check(self, options: Options) -> None:
        raise ConfigurationError(f"provider {options.provider}: no NVIDIA GPU on this machine")

    def check_material(self, rows: Any, options: Options, *, seed: int, rehearsed: bool) -> dict[str, Any]:
        """Nothing is trained here."""
        del rows, options, seed, rehearsed
        return {}

    def broker(
        self,
        options: Options,
        rows: Sequence[RowSpec],
        *,
        run_id: str,
        run_dir: Path,
        tell: Callable[[str, str], None],
        models: Any = None,
    ) -> Any:
        assert rows
        assert run_id
        self.used = True
        return FakeBroker(options, run_dir)

    def serve(self, broker: Any, on_event: Callable[[Event], None]) -> Any:
        del on_event
        return FakeServer(broker)

    def connect(self, address: str, *, worker: str) -> Any:
        assert (address, worker[:2]) == ("nowhere", "gw")
        return FakeClient(Options(), Path())

    def row_objects(self, grant: Any, broker: Any, settings: RowSettings, on_progress: Callable[[Event], None]) -> RowObjects:
        del grant, broker
        return RowObjects(allocation=FakeAllocation(settings, on_progress), protected_runtime="protected", raw_runner="raw")

    def results(self, observation: Any) -> Sequence[RoundResult]:
        return example.results(observation)

    def judge(self, observation: Any) -> Sequence[Finding]:
        return example.judge(observation)

    def binding(self, document: Any) -> Iterator[tuple[str, str]]:
        """These rows have no signatures."""
        del document
        return iter(())

    def outstanding(self) -> Sequence[dict[str, Any]]:
        return []

    def server_account(self, options: Options, run_id: str) -> ServerAccount | None:
        """Where the project sets it, the server outside has seen no end of a release, or cannot be asked."""
        given = os.environ.get("FAKE_OUTSTANDING")
        if given == "unreachable":
            raise InfrastructureError("the attestation server did not answer: NewConnectionError")
        if given is None:
            return None
        release: dict[str, Any] = {
            "sub": f"{run_id}/row",
            "nonce": "a" * 64,
            "manifest": "b" * 64,
            "released_at": 10,
            "deadline": 20,
        }
        return ServerAccount(outstanding=[release], tally=None)

    def close(self) -> None:
        if self.used:
            log("forget keys")
