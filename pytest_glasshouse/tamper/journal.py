"""The journal after the session: lines removed, moved, edited or spliced in. Its replay must refuse it."""

from __future__ import annotations

from collections.abc import Callable

from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import Attempt, TamperTestbed
from pytest_glasshouse.wire import journal
from pytest_glasshouse.wire.canonical import Json

JournalEdit = Callable[[list[str]], list[str]]


def _replay(attempt: Attempt, lines: list[str], head: dict[str, Json]) -> None:
    journal.read(lines, attempt.nonce, head=head)


def _completed(testbed: TamperTestbed) -> Attempt:
    attempt = testbed.attempt()
    attempt.release()
    attempt.run_journal()
    _replay(attempt, attempt.lines, attempt.head_claims())  # the unchanged journal passes
    return attempt


def _case(name: str, reason: str, edit: JournalEdit) -> Case:
    def play(testbed: TamperTestbed) -> None:
        attempt = _completed(testbed)
        _replay(attempt, edit(list(attempt.lines)), attempt.head_claims())

    return Case(name=f"journal-{name}", play=play, expected_reason=reason, caught_by="replay", asset="journal")


def _rewritten(name: str, *steps: str) -> Case:
    """A complete journal with its own head, of other steps than a lifecycle's."""

    def play(testbed: TamperTestbed) -> None:
        attempt = testbed.attempt()
        attempt.release()
        for step in steps:
            attempt.journal.append(step, {})
        _replay(attempt, attempt.lines, attempt.head_claims())

    return Case(name=f"journal-{name}", play=play, expected_reason="log-steps", caught_by="check_steps", asset="journal")


def _spliced(testbed: TamperTestbed) -> None:
    ours, theirs = _completed(testbed), _completed(testbed)
    _replay(ours, theirs.lines, theirs.head_claims())


_REST = journal.STEPS[2:]

CASES = (
    _case("last-line-removed", "log-head", lambda lines: lines[:-1]),
    _case("first-line-removed", "log-chain", lambda lines: lines[1:]),
    _case("middle-line-removed", "log-chain", lambda lines: lines[:3] + lines[4:]),
    _case("lines-swapped", "log-chain", lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]]),
    _case("line-twice", "log-chain", lambda lines: [*lines[:3], lines[2], *lines[3:]]),
    _case("line-edited", "log-chain", lambda lines: [lines[0], lines[1].replace("measured", "mesured"), *lines[2:]]),
    _case("last-line-edited", "log-head", lambda lines: [*lines[:-1], lines[-1].replace('"t_us":0', '"t_us":1')]),
    _case("time-backwards", "log-time", lambda lines: [lines[0], lines[1].replace('"t_us":0', '"t_us":-1'), *lines[2:]]),
    _case("line-respaced", "log-format", lambda lines: [lines[0].replace(":", ": ", 1), *lines[1:]]),
    _case("line-with-a-key-twice", "log-format", lambda lines: ['{"seq":0,' + lines[0][1:], *lines[1:]]),
    _case("line-with-a-float", "log-format", lambda lines: [lines[0].replace('"seq":0', '"seq":0.0'), *lines[1:]]),
    _case("without-wall-time", "log-format", lambda lines: [lines[0].replace("wall", "hall"), *lines[1:]]),
    _case("empty", "log-empty", lambda _: []),
    _rewritten("without-zeroized", *_REST[:-1]),
    _rewritten("line-after-zeroized", *_REST, "train_progress"),
    _rewritten("steps-missing", "key_received", "zeroized"),
    _rewritten("steps-swapped", *_REST[:-2], "zeroized", "adapter_exported"),
    _rewritten("trained-before-the-package", "train_started", "train_completed", *_REST),
    _rewritten("progress-before-training", "train_progress", *_REST),
    Case(name="journal-of-another-session", play=_spliced, expected_reason="log-chain", caught_by="replay", asset="journal"),
)
