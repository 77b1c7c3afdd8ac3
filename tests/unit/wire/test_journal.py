"""The journal: what is written can be replayed, and nothing else can. (Tampered journals are in the tamper suite.)"""

from __future__ import annotations

from itertools import count

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import journal
from pytest_glasshouse.wire.canonical import canonical, parse_object

NONCE = "00" * 32
WALL = {"wall": "2027-01-15T08:00:00.123Z"}


def written(*steps: str, nonce: str = NONCE) -> tuple[list[str], journal.Journal]:
    lines: list[str] = []
    ticks = count(1_000_000, 250)
    log = journal.Journal(nonce, lines.append, lambda: next(ticks))
    for step in steps:
        log.append(step, WALL if log.count == 0 else {"n": log.count, "loss": "0.5"})
    return lines, log


def test_a_journal_replays_to_what_was_written() -> None:
    lines, log = written("anti_debug_ready", "measured")
    first, second = journal.replay(lines, NONCE)
    assert (first.seq, first.t_us, first.type, first.body) == (0, 0, "anti_debug_ready", WALL)
    assert (second.seq, second.t_us, second.type, second.body) == (1, 250, "measured", {"n": 1, "loss": "0.5"})
    assert (log.head, log.count) == (journal.head_of(lines, NONCE), 2)
    journal.check_head(lines, NONCE, head=log.head, count=2)


def test_a_new_journal_belongs_to_its_nonce() -> None:
    _, log = written()
    assert log.head == journal.genesis(NONCE) == journal.head_of([], NONCE) != journal.genesis("01" * 32)


def test_the_sink_has_the_line_before_append_returns() -> None:
    """A sink that fails leaves the journal where it was: the head never runs ahead of what was written."""

    def full(_line: str) -> None:
        raise OSError("no space")

    log = journal.Journal(NONCE, full, lambda: 0)
    with pytest.raises(OSError, match="no space"):
        log.append("anti_debug_ready", WALL)
    assert (log.count, log.head) == (0, journal.genesis(NONCE))


@pytest.mark.parametrize("body", [{}, {"wall": 7}, {"wall": "yesterday"}, {"wall": "2027-01-15"}])
def test_the_first_line_must_hold_the_wall_time(body: dict[str, object]) -> None:
    log = journal.Journal(NONCE, lambda _line: None, lambda: 0)
    with pytest.raises(IntegrityError) as caught:
        log.append("anti_debug_ready", body)
    assert caught.value.reason == "log-format"


@pytest.mark.parametrize("value", [0.5, 2**53, b"bytes", float("nan")])
def test_a_body_the_reader_would_refuse_is_not_written(value: object) -> None:
    lines, log = written("anti_debug_ready")
    with pytest.raises(IntegrityError):
        log.append("measured", {"value": value})
    assert (len(lines), log.count) == (1, 1)


def test_a_whole_lifecycle_is_in_order() -> None:
    """An order that is too strict raises: every honest leg with progress would be refused."""
    steps = [*journal.STEPS]
    steps[5:5] = [journal.PROGRESS] * 3
    journal.check_steps(journal.replay(written(*steps)[0], NONCE))


def test_a_lifecycle_without_progress_is_in_order() -> None:
    """An order that demands progress raises: a leg shorter than its first report would be refused."""
    journal.check_steps(journal.replay(written(*journal.STEPS)[0], NONCE))


def test_a_failed_leg_is_no_whole_lifecycle() -> None:
    lines, _ = written(*journal.STEPS[:5], journal.FAILED, "zeroized")
    with pytest.raises(IntegrityError) as caught:
        journal.check_steps(journal.replay(lines, NONCE))
    assert caught.value.reason == "log-steps"


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_a_failed_leg_has_train_failed_in_place_of_the_missing_steps(begun: int) -> None:
    """Before it had begun to train, or while it did, with progress or without: an order that is too strict raises."""
    steps = (*journal.STEPS[:4], *("train_started", "train_progress")[:begun], journal.FAILED, "zeroized")
    journal.check_steps(journal.replay(written(*steps)[0], NONCE), failed=True)


@pytest.mark.parametrize(
    "steps",
    [
        journal.STEPS,
        (*journal.STEPS[:5], journal.FAILED),
        (*journal.STEPS[:5], journal.FAILED, "adapter_exported", "zeroized"),
        (*journal.STEPS[:5], journal.FAILED, "train_progress", "zeroized"),
        (*journal.STEPS[:4], "train_progress", journal.FAILED, "zeroized"),
        (*journal.STEPS[:3], journal.FAILED, "zeroized"),
        (journal.FAILED, "zeroized"),
    ],
    ids=" ".join,
)
def test_a_failed_leg_has_no_other_steps(steps: tuple[str, ...]) -> None:
    with pytest.raises(IntegrityError, match="log-steps"):
        journal.check_steps(journal.replay(written(*steps)[0], NONCE), failed=True)


@pytest.mark.parametrize("change", [("prev", '"prev":1'), ("type", '"type":1'), ("t_us", '"t_us":"0"'), ("body", '"body":[]')])
def test_a_line_with_a_field_of_another_type_is_refused(change: tuple[str, str]) -> None:
    lines, _ = written("anti_debug_ready")
    field, replacement = change
    record = {**parse_object(lines[0]), **parse_object("{" + replacement + "}")}
    assert field in record
    with pytest.raises(IntegrityError) as caught:
        journal.replay([canonical(record).decode()], NONCE)
    assert caught.value.reason in {"log-format", "log-chain"}
