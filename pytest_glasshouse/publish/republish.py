"""`glasshouse redact`: publish a run's quarantined report, redacted, without renting again.

It signs what this account's run made and nothing else: the run's tags on directory and quarantine are verified first. It
writes beside the run directory, or where the user names, and never over the report of another run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.publish.objections import Objection, objections
from pytest_glasshouse.publish.redact_published import redact_document
from pytest_glasshouse.publish.writer import REPORT, WHY, publish
from pytest_glasshouse.report.bundle import REPORT_LIMIT, parse_report
from pytest_glasshouse.report.paths import bundle_path, check_writable, machine_paths
from pytest_glasshouse.report.run_directory import (
    QUARANTINE,
    ForeignError,
    check_run_directory,
    read_run_file,
    read_tagged,
    read_unverified,
)
from pytest_glasshouse.report.run_key import RUN_ID, TagKey
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.whole_file import is_passed_through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.publish.writer import PublishedFiles


def republish(
    run_directory: Path,
    *,
    key_of: Callable[[str], Ed25519PrivateKey],
    report: Path | None = None,
    taint: Iterable[str] = (),
    derivation: Derivation | None = None,
) -> PublishedFiles:
    """Redact what was found, seal anew and publish. `key_of` returns the key of a run by its id.

    Raises `ConfigurationError` where the directory holds no quarantined report of this account, and where the report
    would go to a path that the user did not name.
    """
    directory = check_run_directory(run_directory)
    folder = directory / QUARANTINE
    try:
        run_id = read_unverified(folder / WHY).get("runId")
        if not isinstance(run_id, str) or RUN_ID.fullmatch(run_id) is None:
            raise ForeignError(f"{folder / WHY}: names no run")
        key = key_of(run_id)
        why = read_tagged(folder / WHY, TagKey(key, run_id))
        data = read_run_file(folder / REPORT)
    except OSError:
        raise ConfigurationError(f"{run_directory}: holds no quarantined report") from None
    if sha256_hex(data) != why["sha256"]:
        raise ForeignError(f"{folder / REPORT}: was not written by a run of this account, or was changed since")
    target = report or _target(directory, Path(why["report"]), run_id)
    check_writable(target, what="--report")
    taint = (*taint, *machine_paths(directory))
    document = redact_document(
        json.loads(data),
        [Objection(path=hit["path"], text=hit["text"], rule=hit["rule"]) for hit in why["hits"]],
        run_id=run_id,
        key=key,
        find=lambda document: objections(document, taint=taint, derivation=derivation),
    )
    return publish(document, report=target, run_directory=directory, taint=taint, key=key, derivation=derivation)


def _target(directory: Path, wanted: Path, run_id: str) -> Path:
    """The path of the run's report, if it is beside the run directory; any other has to be named by the user."""
    target = directory.parent / wanted.name
    if wanted.parent.resolve() != directory.parent or is_passed_through(target):
        raise ConfigurationError(f"the run wanted its report at {wanted}, not beside {directory}: name a file with --report")
    if linked := [each for each in (target, bundle_path(target)) if each.is_symlink()]:
        raise ConfigurationError(f"{linked[0]} is a link, whose target was not named: name a file with --report")
    other = _run_of(target)
    if other is not None and other != run_id:
        raise ConfigurationError(f"{target} is there already, and not this run's: name another file with --report")
    return target


def _run_of(path: Path) -> object:
    """The run id in a report's file; empty where it is no report, None where there is no file."""
    try:
        found = parse_report(read_regular(path, limit=REPORT_LIMIT))
    except FileNotFoundError:
        return None
    except (OSError, IntegrityError):
        return ""
    return found.get("runId", "") if isinstance(found, dict) else ""
