"""One page of what the steps showed: each step's status, time and figures. Reads results, logs and reports; judges nothing.

    python -m benchmarks.gpu.summary WORK OUT

Into OUT go at most eight files: the page, the probes, the logs in one archive, and a report for each step that left one.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.steps import StepResult

#: The rounds whose spread predicts how wide the interval of all of them gets.
_FIRST_ROUNDS = 3
_LONGEST_LINE = 220
_MOST_LINES = 14


def page(work: Path, results: list[StepResult], machine: Mapping[str, str]) -> str:
    """The page, as Markdown."""
    lines = [f"# {machine.get('title', 'make gpu')}", ""]
    lines += [f"{name}: {text}  " for name, text in machine.items() if name != "title" and text]
    commits = sorted({each.commit for each in results if each.commit})
    if len(commits) > 1:
        lines.append(f"steps ran on different code: {', '.join(commits)}  ")
    lines += ["", "| step | status | s | |", "|---|---|---|---|"]
    lines += [f"| {each.name} | {each.status} | {each.seconds:.0f} | {each.why} |" for each in results]
    for each in results:
        told = list(figures(work, each))[:_MOST_LINES]
        if told:
            lines += ["", f"## {each.name}", "", *(f"- {line[:_LONGEST_LINE]}" for line in told)]
    return "\n".join(lines) + "\n"


def figures(work: Path, result: StepResult) -> Iterator[str]:
    """What a step's files say, in lines; nothing where they say nothing."""
    report = work / "reports" / f"{result.name}.json"
    if result.name == "probes":
        yield from _probes(work / "probes.json")
    elif report.exists():
        yield from _report(json.loads(report.read_text(encoding="utf-8")))
    if result.status == "passed" and result.name not in ("doctor", "cuda-tests"):
        return
    yield from _log(work / f"{result.name}.log")


def _report(document: Mapping[str, Any]) -> Iterator[str]:
    for row in document["rows"]:
        yield from _row(row)
    for row in document["nullRows"]:
        yield (
            f"{row['name']} on {row['gpuModel']}: {_findings(row)}; raw against raw {row['differencePct']:+.2f} % "
            f"({_interval(row.get('differenceCi95Pct'))})"
        )
        yield from _not_held(row)
    for row in document["excludedResults"]:
        yield f"{row['name']}: {row['outcome']}: {row['reason']}"


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    overhead = f"overhead {row['roundsMeanPct']:+.2f} % ({_interval(row['overheadCi95Pct'])})"
    yield f"{row['name']} on {row['gpuModel']}: {_findings(row)}; {overhead}"
    cpu = row["protectedCpuSecPerUnit"], row["rawCpuSecPerUnit"]
    yield (
        f"{row['unit']}/s protected {row['protectedPerSec']:.2f}, raw {row['rawPerSec']:.2f}; CPU seconds per unit protected "
        f"{cpu[0]:.6f}, raw {cpu[1]:.6f} ({100 * (cpu[0] / cpu[1] - 1):+.2f} %)"
    )
    scan = f", scan {row['scanSec']:.2f}" if row.get("scanSec") is not None else ""
    zeroize = f", zeroize {row['zeroizeSec']:.2f}" if row.get("zeroizeSec") is not None else ""
    yield f"seconds: set-up protected {row['protectedSetupSec']:.2f}, raw {row['rawSetupSec']:.2f}{scan}{zeroize}"
    if (estimates := row.get("estimates")) is not None:
        rounds = row["roundFigures"]
        yield (
            f"spread of process starts {_percent(estimates['processStartPct'])} ({2 * len(rounds)} starts), between rounds "
            f"{_percent(estimates['betweenRoundsPct'])}, within rounds {_percent(estimates['withinRoundsPct'])}"
        )
        yield from _half_widths(row)
    yield from _not_held(row)


def _half_widths(row: Mapping[str, Any]) -> Iterator[str]:
    """The half-width that all rounds reached, beside the one that the first of them predict: t(.975, n0 - 1) s0 / sqrt(n)."""
    from pytest_glasshouse.overhead.interval import t_quantile

    rounds = [math.log(1 - each["overheadPct"] / 100) for each in row["roundFigures"]]
    interval = row["overheadCi95Pct"]
    if interval is None or len(rounds) <= _FIRST_ROUNDS:
        return
    spread = statistics.stdev(rounds[:_FIRST_ROUNDS])
    predicted = 100 * t_quantile(0.975, _FIRST_ROUNDS - 1) * spread / math.sqrt(len(rounds))
    reached = (interval[1] - interval[0]) / 2
    of = f"the first {_FIRST_ROUNDS} of {len(rounds)} rounds"
    yield f"half-width of the 95 % interval: {reached:.2f} points reached, {predicted:.2f} predicted by {of}"


def _findings(row: Mapping[str, Any]) -> str:
    found = row["findings"]
    return f"{sum(each['finding'] == 'held' for each in found)} of {len(found)} held"


def _not_held(row: Mapping[str, Any]) -> Iterator[str]:
    for each in row["findings"]:
        if each["finding"] != "held":
            yield f"{each['finding'].upper()} {each['invariant']}: {each['reason']}"


def _interval(interval: list[float] | None) -> str:
    return "single sample" if interval is None else f"95 % {interval[0]:+.2f} to {interval[1]:+.2f}"


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f} %"


def _probes(path: Path) -> Iterator[str]:
    """Each probe's answer on a line; long ones are in the file."""
    for answer in json.loads(path.read_text(encoding="utf-8")) if path.exists() else []:
        rest = {name: value for name, value in answer.items() if name not in ("probe", "seconds", "facts", "losses", "threads")}
        if "error" in rest:
            rest = {"error": str(rest["error"]).strip().splitlines()[-1]}
        yield f"{answer['probe']}: {json.dumps(rest)}"


def _log(path: Path) -> Iterator[str]:
    """What a log says of results and errors."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if re.search(
            r"^(FAIL|warn)  |^(FAILED|ERROR) |^glasshouse: error|\d (passed|failed|error)|^\w*Error\b|^the environment lacks",
            line,
        ):
            yield "".join(letter for letter in line if letter.isprintable()).strip("= ")


def collect(work: Path, out: Path, text: str, machine: Mapping[str, str]) -> None:
    """Write what is to be taken along."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.md").write_text(text, encoding="utf-8")
    with tarfile.open(out / "logs.tar.gz", "w:gz") as archive:
        for path in sorted(work.glob("*.log")):
            archive.add(path, path.name)
    if (work / "probes.json").exists():
        (out / "probes.json").write_bytes((work / "probes.json").read_bytes())
    where = re.sub(r"[^a-z0-9]+", "-", (machine.get("GPU") or "cpu").lower()).strip("-")
    for report in sorted((work / "reports").glob("*.json")):
        named = f"{time.strftime('%Y-%m-%d', time.gmtime(report.stat().st_mtime))}-{where}-{report.name}"
        (out / named).write_bytes(report.read_bytes())


def main() -> None:
    """Write the page of the results in WORK, and print it."""
    work, out = map(Path, sys.argv[1:3])
    told = json.loads((work / "machine.json").read_text(encoding="utf-8"))
    results = [found for name in told.pop("steps") if (found := StepResult.read(work / "results" / f"{name}.json"))]
    text = page(work, results, told)
    collect(work, out, text, told)
    print(text)


if __name__ == "__main__":
    main()
