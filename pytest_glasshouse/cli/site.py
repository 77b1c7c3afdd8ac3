"""`glasshouse site`: pages of all reports of a directory; `glasshouse view` serves them on this machine."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of, is_own
from pytest_glasshouse.cli.reports import declare_directory, existing
from pytest_glasshouse.errors import ConfigurationError, ReportError
from pytest_glasshouse.run.exit_codes import EXIT_NOTHING, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.check.verdict_cache import VerdictCache
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.render.site_data import SiteRun

_SITE = """\
Write pages of all reports below a directory: an index with every row's overhead over time, a page for each run and each row, a
comparison of any two runs, and the badge of the newest one. They need no network and no server. Faulty reports are left out, and
named on the index.
"""
#: Below this many reports another process takes longer to start than it saves.
_ALONE = 40


@dataclass(kw_only=True)
class Inherited:
    """What the processes that check reports inherit: functions cannot be sent to them."""

    verdicts: VerdictCache | None = None


_INHERITED = Inherited()


@dataclass(frozen=True, kw_only=True)
class BuiltRun:
    """One report as the site shows it: its entry, its page and its badge; or why it is left out."""

    run: SiteRun | None = None
    page: str = ""
    badge: str = ""
    left_out: str = ""
    verdict: tuple[str, str] | None = None
    """What the cache of verdicts learns: a key, and the faults."""


def declare(commands: Commands) -> None:
    """Add the command."""
    site = commands.add_parser("site", help="pages of all reports of a directory", description=_SITE, allow_abbrev=False)
    declare_directory(site)
    site.add_argument("--out", type=Path, default=Path("public"), metavar="DIR", help="where to write (default: public)")
    site.set_defaults(run=_site, report_error_code=EXIT_USAGE)


def _site(options: argparse.Namespace) -> int:
    directory: Path = existing(options.directory)
    out: Path = options.out
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"--out {out}: expected a directory, or no such file; saw a file")
    built = build_site(directory, derivation=derivation_of(options), keep_verdicts=is_own(options))
    write_lines(f"left out: {name}: {why}" for name, why in built.left_out)
    if not built.runs:
        write_lines([f"{directory}: no report is there to make pages of"])
        return EXIT_NOTHING
    for name, text in built.files.items():
        _write(out / name, text)
    write_lines([f"site  {out / 'index.html'}  ({counted(built.runs, 'run')})"])
    return EXIT_OK


@dataclass(frozen=True, kw_only=True)
class BuiltSite:
    """The site's files by name, how many runs it has, and which files were left out and why."""

    files: dict[str, str]
    runs: int
    left_out: tuple[tuple[str, str], ...]


def build_site(directory: Path, *, derivation: Derivation | None, keep_verdicts: bool = False) -> BuiltSite:
    """Check every report below a directory, and make the pages of those that are sound."""
    from pytest_glasshouse.check.found_reports import BASELINES, report_paths
    from pytest_glasshouse.render.badge import GREY_BADGE, svg
    from pytest_glasshouse.render.site_pages import run_address, site_files
    from pytest_glasshouse.report.bundle import SUFFIX

    paths = [path for path in report_paths(directory) if BASELINES not in path.relative_to(directory).parts]
    # A run's report and its bundle say the same, and the report is the smaller one.
    reports = {path.stem for path in paths if path.suffix == ".json"}
    paths = [path for path in paths if path.suffix == ".json" or path.name.removesuffix(SUFFIX) not in reports]
    built: dict[str, BuiltRun] = {}
    left_out: list[tuple[str, str]] = []
    for path, each in zip(paths, _built(paths, derivation, keep=keep_verdicts), strict=True):
        if each.run is not None:
            built.setdefault(each.run.run_id, each)
        elif each.left_out:
            left_out.append((str(path.relative_to(directory)), each.left_out))
    whole = sorted((each for each in built.values() if each.run is not None), key=lambda each: _when(each.run))
    runs = [each.run for each in whole if each.run is not None]
    badge = whole[-1].badge if whole else svg(GREY_BADGE)
    files = dict(site_files(runs, badge_svg=badge, left_out=left_out))
    files |= {run_address(each.run.run_id): each.page for each in whole if each.run is not None}
    return BuiltSite(files=files, runs=len(runs), left_out=tuple(left_out))


def _when(run: SiteRun | None) -> tuple[str, str]:
    return ("", "") if run is None else (run.created_at, run.run_id)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _built(paths: list[Path], derivation: Derivation | None, *, keep: bool) -> list[BuiltRun]:
    from pytest_glasshouse.check.verdict_cache import VerdictCache

    _INHERITED.verdicts = VerdictCache(derivation, keep=keep)
    found = _built_by_all(paths)
    for each in found:
        if each.verdict is not None:
            _INHERITED.verdicts.learn(*each.verdict)
    _INHERITED.verdicts.close()
    return found


def _built_by_all(paths: list[Path]) -> list[BuiltRun]:
    workers = min(os.cpu_count() or 1, 8)
    if len(paths) < _ALONE or workers == 1 or sys.platform != "linux":
        return [_build(path) for path in paths]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(_build, paths, chunksize=max(1, len(paths) // (4 * workers))))


def _build(path: Path) -> BuiltRun:
    from pytest_glasshouse.check.check import Checked, Level, load_document
    from pytest_glasshouse.check.legacy_results import may_be_report
    from pytest_glasshouse.check.verdict_cache import VerdictCache
    from pytest_glasshouse.errors import IntegrityError
    from pytest_glasshouse.render.badge import badge, svg
    from pytest_glasshouse.render.page import page
    from pytest_glasshouse.render.site_data import site_run
    from pytest_glasshouse.report.bundle import parse_report, read_report

    try:
        data = read_report(path)
    except ReportError as error:
        return BuiltRun(left_out=str(error).removeprefix(f"{path}: "))
    try:
        document = load_document(data)
    except ReportError as error:
        try:
            other = not may_be_report(parse_report(data))
        except IntegrityError:
            other = False
        return BuiltRun(left_out="" if other else str(error)[:200])
    verdicts = _INHERITED.verdicts or VerdictCache(None, keep=False)
    faults = verdicts.faults_of(document, data)
    verdict = (verdicts.key(data), faults)
    if faults:
        return BuiltRun(left_out=faults, verdict=verdict)
    # What `check` says of a sound report where no key is trusted.
    rows, excluded = len(document["rows"]) + len(document.get("sealedRows", ())), len(document["excludedResults"])
    checked = Checked(faults=(), level=Level.CONSISTENT, missing=(), rows=rows, excluded=excluded)
    shown = svg(badge(document, sound=True))
    return BuiltRun(run=site_run(document), page=page(document, checked), badge=shown, verdict=verdict)
