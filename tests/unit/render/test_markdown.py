"""The tables show the report's figures, never without an interval."""

from __future__ import annotations

import re

import pytest

from pytest_glasshouse.analysis.wording import figure_with_interval, interpretation, signed
from pytest_glasshouse.overhead.interval import Interval
from pytest_glasshouse.overhead.null import Null
from pytest_glasshouse.overhead.verdict import Judgement, Verdict, verdict
from pytest_glasshouse.render.markdown import markdown
from pytest_glasshouse.report.claims import CLAIMS, NOT_CLAIMED
from tests.unit.report import example

PRAISE = re.compile(r"(?i)fast(er|est)?\b|speed-?up|outperform|improve|\bgain")
DOCUMENT = example.document(
    example.measured(), example.measured(rounds=6, name="mlp-many"), example.slower_raw(), example.excluded(), example.lost()
)


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_row_is_shown_in_the_published_shape() -> None:
    line = line_of(markdown(DOCUMENT), "| mlp-h100-60s (2 s)")

    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "mlp-h100-60s (2 s)",
        "CPU: Example Processor 9000",
        "protected-first",
        "990.439",
        "1,000.938",
        "+1.05 %",
        "single sample",
        "single sample",
        "dry run; verified, zeroized",
    ]


def test_negative_figure_is_shown_with_its_interval_or_as_a_single_sample() -> None:
    line = line_of(markdown(DOCUMENT), "| mlp-negative")

    assert "| -" in line
    assert "single sample" in line
    assert "a value below zero reflects order, warm state and noise" in line_of(markdown(DOCUMENT), "- mlp-negative")


def test_rounds_are_shown_with_an_interval() -> None:
    assert re.search(r"95 % interval \+\d\.\d\d to \+\d\.\d\d", line_of(markdown(DOCUMENT), "| mlp-many"))


def test_no_word_of_the_page_praises_protection() -> None:
    assert not PRAISE.search(markdown(DOCUMENT))


@pytest.mark.parametrize("each_verdict", Verdict)
@pytest.mark.parametrize("overhead", [-3.0, 0.0, 3.0])
def test_no_interpretation_praises_protection(each_verdict: Verdict, overhead: float) -> None:
    judged = Judgement(verdict=each_verdict, reason="a reason", more_rounds=3)

    for interval in (None, Interval(low=overhead - 1, high=overhead + 1)):
        text = interpretation(judged, overhead_pct=overhead, ci95=interval, order="raw-first")
        assert not PRAISE.search(text)
        assert ("single sample" in text) or ("interval" in text)
        assert "about 3 more rounds may decide" in text


def test_dry_run_is_named_above_the_table() -> None:
    assert "**5 of 5 rows are a dry run" in markdown(DOCUMENT)


def test_excluded_rows_and_tamper_cases_have_tables() -> None:
    page = markdown(DOCUMENT)

    assert "the raw callback never reported completion" in line_of(page, "| mlp-h100-30m")
    assert line_of(page, "| nonce-replay") == "| nonce-replay | nonce-spent | nonce-spent | no | pass |"
    assert line_of(page, "| control") == "| control | released | released | yes | pass |"


def test_claims_and_what_is_not_claimed_are_printed() -> None:
    page = markdown(DOCUMENT)

    assert all(f"- {claim}" in page for claim in (*CLAIMS, *NOT_CLAIMED))
    assert "- memory scanned clean: the example says unseen" in page


def test_limit_and_publishable_are_in_the_status() -> None:
    document = example.document(example.publishable(given=example.settings(overridden=(), max_overhead_pct=5.0)))

    line = line_of(markdown(document), "| mlp-h100-60s (60 s)")

    assert "publishable; inconclusive of 5 %; verified, zeroized" in line


def test_step_budget_is_shown_in_its_unit() -> None:
    document = example.document(example.publishable(row=example.row(target_s=None, steps=256)))

    assert "mlp-h100-60s (256 epochs)" in markdown(document)


def test_outstanding_release_is_printed() -> None:
    release = {"nonce": "n", "sub": "s", "run": "r", "manifest": example.digest("m"), "released_at": 1, "deadline": 2}

    assert "**Outstanding releases: 1.**" in markdown(example.document(outstanding_releases=(release,)))


def test_markup_in_a_text_is_escaped_in_its_cell() -> None:
    record = example.lost()
    record["record"]["reason"] = "a | b\n| c <script> `x` [y](z)"

    assert r"a \| b \| c &lt;script> \`x\` \[y](z)" in markdown(example.document(record))


def test_report_without_rows_still_has_its_claims() -> None:
    page = markdown(example.assembled(()))

    assert "0 of 0 rows measured" in page
    assert "## Rows" not in page
    assert "## What is not claimed" in page


@pytest.mark.parametrize(("value", "text"), [(0.001, "0.00"), (-0.001, "0.00"), (1.005, "+1.00"), (-29.67, "-29.67")])
def test_figure_has_two_decimals_and_a_sign(value: float, text: str) -> None:
    assert signed(value) == text


def test_figure_without_interval_is_a_single_sample() -> None:
    assert figure_with_interval(-1.5, None) == "-1.50 % (single sample)"
    assert figure_with_interval(-1.5, (-2.0, -1.0)) == "-1.50 % (95 % interval -2.00 to -1.00)"


def test_implausible_negative_names_itself() -> None:
    null = Null(kind="split halves", log_ratios=(0.0,) * 5, pct=0.0, ci90=Interval(low=-0.1, high=0.1))
    judged = verdict([0.05, 0.051, 0.05, 0.049, 0.05], margin_pct=1.0, nulls=[null])

    text = interpretation(judged, overhead_pct=-5.1, ci95=Interval(low=-5.2, high=-5.0), order="interleaved")

    assert "implausible negative" in text
    assert "reflects order" not in text


def test_raw_against_raw_is_shown_with_its_interval() -> None:
    """A difference without it shows nothing about the allocation."""
    page = markdown(example.document(example.null_row()))
    (line,) = [each for each in page.splitlines() if each.startswith("| mlp-h100-null ")]
    assert "±1 %" in line
    assert " to " in line
    assert "single sample" in markdown(example.document(example.null_row(rounds=1)))
