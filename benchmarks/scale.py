"""What a report of many rows costs: collection, writing, checking and rendering, in seconds per 1 000 rows. Printed, not judged.

The aims stand beside the figures: 10 000 rows collect at most 1.2 times as slow as as many empty tests, 1 000 rows are validated
and written in 2 s and checked in 3 s, all of them linear (last / first near 1), and `history` lists 100 reports in 3 s.

    python benchmarks/scale.py [ROWS]      (default 4 000; a report is at most 48 MiB)

The outcomes are simulated: nothing trains, an observation is a few hundred bytes, and findings and figures come from two small
functions below, so that what is measured is this project's own work on a report. Collection is pytest's own `--co` of one test
with as many rows, beside pytest's own `--co` of as many separate empty test functions.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.analysis.fields import Record
from pytest_glasshouse.analysis.record import RecordSettings, build_record
from pytest_glasshouse.check.check import check_file, load_document
from pytest_glasshouse.check.history import history
from pytest_glasshouse.check.recompute import Derivation
from pytest_glasshouse.invariants import ALL, Finding
from pytest_glasshouse.observation.outcome import AllocationFacts, Outcome
from pytest_glasshouse.observation.results import LegResult, RoundResult
from pytest_glasshouse.publish.writer import PublishedFiles, publish
from pytest_glasshouse.render.markdown import markdown
from pytest_glasshouse.render.page import page
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.document import AllocationCleanup, RunFacts, assemble
from pytest_glasshouse.report.environment import generated_by, host_environment
from pytest_glasshouse.report.fields import Subject
from pytest_glasshouse.report.seal import sealed
from pytest_glasshouse.rows.spec import RowSpec

_NAMES = tuple(each.__name__.replace("_", " ") for each in ALL)
_PLACE = AllocationFacts(
    provider="mock", provider_instance_id="mock-1", name="glasshouse-scale-1", gpu_model="simulated", gpu_uuid=None,
    dry_run=True, simulated=False,
)  # fmt: skip
_ROWS = """
import pytest
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name=f"row-{number}", workload="mlp", gpu="anygpu", order="raw-first", target_s=60) for number in range(%d)]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
"""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def leg(name: Any, number: int) -> LegResult:
    return LegResult(
        leg=name, unit="epochs", units=1000 + number % 7, elapsed_ns=2_000_000_000, setup_ns=1, warmup_ns=1, warmup_units=1,
        zeroize_ns=1, final_loss="0.5", adapter_sha256=digest(f"{name} {number}"), stop_reason="time", phases_ns={"load": 1},
        cpu_ns=1, peak_memory_bytes=1, order_seed=number, facts=cast("Any", {}),
    )  # fmt: skip


def results(observation: Any) -> tuple[RoundResult, ...]:
    number = observation["allocation"]["number"]
    return (RoundResult(number=1, order=("raw", "protected"), protected=leg("protected", number), raw=leg("raw", number + 1)),)


def judge(observation: Any) -> tuple[Finding, ...]:
    evidence = digest(str(observation["allocation"]["number"]))
    return tuple(Finding(invariant=name, finding="held", reason="simulated", evidence=evidence) for name in _NAMES)


DERIVATION = Derivation(results=results, judge=judge, binding=lambda _: iter(()), typed_observations=False)


def record(number: int) -> Record:
    row = RowSpec(name=f"row-{number}", workload="mlp", gpu="anygpu", order="raw-first", target_s=60)
    observed = {
        "round": 1,
        "nonce": digest(f"nonce {number}"),
        "order": ["raw", "protected"],
        "guest": [],
        "protected": None,
        "raw": None,
    }
    observation: Any = {"allocation": {"number": number}, "material": {"workload": "mlp", "standIn": False}, "rounds": [observed]}
    outcome = Outcome(row=row, declared=row, allocation=_PLACE, observation=observation)
    return build_record(outcome, results(observation), judge(observation), RecordSettings(seed=1), judge=judge)


def document(rows: int, key: Ed25519PrivateKey) -> Any:
    cleanup = AllocationCleanup(provider="mock", name=_PLACE.name, provider_instance_id=None, status="proven", reason="simulated")
    subject: Subject = {"name": "scale", "version": None, "wheelSha256": None, "gitCommit": None, "dirty": None}
    facts = RunFacts(
        run_id="scale", created_at="2026-01-01T00:00:00Z", generated_by=generated_by(), environment=host_environment(),
        subject=subject, seed=1, cleanup=(cleanup,),
    )  # fmt: skip
    return assemble(facts, [record(number) for number in range(rows)], key=key)


def collection(rows: int, directory: Path) -> tuple[float, float]:
    """CPU seconds of collecting `rows` rows, and as many empty functions; each in a pytest of its own, the least of two."""
    (directory / "rows").mkdir()
    (directory / "empty").mkdir()
    (directory / "rows" / "test_rows.py").write_text(_ROWS % rows)
    (directory / "empty" / "test_empty.py").write_text("".join(f"def test_{number}(): pass\n" for number in range(rows)))
    base, ours, empty = (min(_collect(directory, name) for _ in range(2)) for name in ("nothing", "rows", "empty"))
    return ours - base, empty - base


def _collect(directory: Path, name: str) -> float:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    (directory / name).mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "--co", "-q", "-p", "no:cacheprovider", str(directory / name)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def history_seconds(reports: int, directory: Path) -> float:
    """CPU seconds of `history` over reports of one row, each checked whole: no verdict is kept from before."""
    key = Ed25519PrivateKey.generate()
    for number in range(reports):
        name = f"run-{number:04}"
        made: Any = {**document(1, key), "runId": name}
        (directory / f"{name}.json").write_bytes(report_bytes(sealed(made, key=key)))
    began = time.process_time()
    found = history(directory, derivation=DERIVATION)
    if len(found.entries) != reports:
        raise SystemExit(f"history left out {found.left_out[:1]}")
    return time.process_time() - began


def stages(rows: int, directory: Path) -> dict[str, float]:
    """CPU seconds of each stage for this many rows."""
    took: dict[str, float] = {}
    key = Ed25519PrivateKey.generate()

    def timed(name: str, work: Any) -> Any:
        began = time.process_time()
        done = work()
        took[name] = time.process_time() - began
        return done

    made = timed("records, seals", lambda: document(rows, key))
    written = timed("validate, redact, write", lambda: _publish(made, directory, key))
    checked = timed("check", lambda: check_file(written.report, derivation=DERIVATION))
    if checked.faults:
        raise SystemExit(f"the simulated report has faults: {checked.faults[0]}")
    loaded: Any = load_document(written.report.read_bytes())
    timed("render --markdown", lambda: markdown(loaded))
    timed("render --html", lambda: page(loaded, checked))
    return took


def _publish(made: Any, directory: Path, key: Ed25519PrivateKey) -> PublishedFiles:
    return publish(made, report=directory / "r.json", run_directory=directory / "r", key=key, derivation=DERIVATION)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000
    with tempfile.TemporaryDirectory() as name:
        ours, empty = collection(rows, Path(name))
    each = [seconds * 1000 / rows for seconds in (ours, empty)]
    told = f"{each[0]:.2f} s per 1 000 rows; empty functions {each[1]:.2f} s; ratio {ours / empty:.2f}"
    print(f"collection of {rows} rows, above what pytest takes without any: {told} (aim: 1.2 for 10 000)")
    with tempfile.TemporaryDirectory() as name:
        took_s = history_seconds(100, Path(name))
    print(f"history of 100 reports of one row, each checked whole: {took_s:.2f} s (aim: 3)")
    sizes = [rows // 10, rows * 3 // 10, rows]
    took: list[dict[str, float]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            took.append(stages(size, Path(name)))
    print(f"{'CPU seconds per 1 000 rows':28}" + "".join(f"{size:>10}" for size in sizes) + "   last / first")
    aims = {"validate, redact, write": "  (aim: 2)", "check": "  (aim: 3)"}
    for stage in took[0]:
        each = [one[stage] * 1000 / size for one, size in zip(took, sizes, strict=True)]
        print(f"{stage:28}" + "".join(f"{value:10.3f}" for value in each) + f"{each[-1] / each[0]:14.2f}{aims.get(stage, '')}")


if __name__ == "__main__":
    main()
