"""A real run's report and bundle are free of faults and authentic to whoever has the keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pytest_glasshouse.check.check import Level, check_bytes, check_file
from pytest_glasshouse.report.redaction import hits
from pytest_glasshouse.wire.canonical import unb64u
from tests.report.conftest import RealRun


def test_real_report_and_bundle_are_consistent_and_with_the_keys_authentic(real_run: RealRun) -> None:
    """What the forger's tests change is right before they change it."""
    for path in (real_run.report, real_run.bundle_path):
        assert check_file(path).faults == ()
        assert (check_file(path).level, check_file(path, trust=real_run.trust).level) == (Level.CONSISTENT, Level.AUTHENTIC)


def test_checking_the_same_bytes_twice_gives_the_same_result(real_run: RealRun) -> None:
    """Offline: two answers from the same bytes are one answer."""
    assert check_bytes(real_run.bundle, trust=real_run.trust) == check_bytes(real_run.bundle, trust=real_run.trust)


def _texts(value: Any, *place: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text with the names of its fields, those of the headers and claims of tokens too."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(each, *place, name)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, *place)
    elif isinstance(value, str) and value.count(".") == 2 and value.startswith("eyJ"):
        for part in value.split(".")[:2]:
            yield from _texts(json.loads(unb64u(part)), *place)
    elif isinstance(value, str):
        yield place, value


def test_a_public_key_may_hold_any_letters_wherever_a_report_has_one(real_run: RealRun) -> None:
    """One key in some hundred thousand looks like a service's token, and would stop its run."""
    document = json.loads(real_run.report.read_bytes())
    places = {place for place, text in _texts(document) if re.fullmatch(r"[A-Za-z0-9_-]{43}", text)}
    assert {("keys", "report"), ("keys", "servers"), ("seal", "kid")} < places
    unlucky = "sk-" + 40 * "A"
    assert [place for place in places if hits({place[-2]: {place[-1]: unlucky}})] == []
    assert hits({"keys": {"note": {"text": unlucky}}}) != []
