"""The gate passes nothing that was not measured, and gives the reason for everything else."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.check.check import Level, check_bytes, load_document
from pytest_glasshouse.check.gate import Gated, GatePolicy, Ruling, gate
from pytest_glasshouse.check.gate_policy import policy_of, read_table, trusted_of
from pytest_glasshouse.errors import ConfigurationError, ReportError
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.wire.tokens import public_text
from tests.unit.check.gate_reports import GOOD, MADE_AT, good, report
from tests.unit.report import example

LIMIT = GatePolicy(max_overhead_pct=3.0)


#: Made once; who changes one makes another.


def with_facts(*records: Any, **changes: Any) -> Any:
    return example.document(*(records or (GOOD,)), **changes)


def ruled(document: Any, policy: GatePolicy = LIMIT, *, now: datetime = MADE_AT, trust: Trust | None = None) -> Gated:
    data = report_bytes(document)
    checked = check_bytes(data, trust=trust or Trust(), derivation=example.EXAMPLE)
    return gate(load_document(data), checked, policy, now=now)


def tampered() -> Any:
    document = report()
    document["rows"][0]["overheadPct"] = 0.01
    return example.sealed_again(document)


def lenient(edit: Callable[[dict[str, Any]], None]) -> Any:
    row = good()
    for observed in row["record"]["observation"]["rounds"]:
        edit(observed["protected"]["policy"])
    return report(row)


def waiving() -> Any:
    seen = example.observation(rounds=6)
    return report(good(observation=seen, given=example.settings(overridden=(), waived=example.WAIVED)))


def golden() -> Any:
    """A report that an earlier version of this project wrote."""
    return load_document((Path(__file__).parents[2] / "data/reports/report-1.0-example.json").read_bytes())


def judged_by_an_older_revision() -> Any:
    document = report()
    document["methodology"]["invariantsRevision"] = 1
    return example.sealed_again(document)


def same_order() -> Any:
    return report(good(given=example.settings(overridden=(), fixed_order=True)))


def outstanding(*records: Any) -> Any:
    release = {"nonce": "n", "sub": "run/row", "run": "r", "manifest": example.digest("m"), "released_at": 1, "deadline": 2}
    return with_facts(*records, outstanding_releases=(release,))


def dirty() -> Any:
    return with_facts(subject={**example.facts().subject, "dirty": True})


def unknown_tree() -> Any:
    return with_facts(subject={**example.facts().subject, "dirty": None})


def leaky() -> Any:
    proven = example.facts().cleanup[0]
    return with_facts(cleanup=(dataclasses.replace(proven, status="leak", reason="still listed"),))


def unrefused() -> Any:
    return report(tamper=(dataclasses.replace(example.tamper()[0], released=True),))


CASES: list[tuple[str, Callable[[], dict[str, Any]], GatePolicy, int, str]] = [
    ("passing", report, LIMIT, 0, "GATE PASSED: 1 of 1 rows judged"),
    ("passing with everything asked for", with_facts, GatePolicy(
        rows=("mlp-h100-*",), max_overhead_pct=3.0, min_rounds=6, publishable=True, commit="0" * 12, max_age_h=1,
        min_lifecycle=0.5), 0, "GATE PASSED"),
    ("over the limit", report, GatePolicy(max_overhead_pct=0.5), 1, "over the limit"),
    ("no round over its limit", report, GatePolicy(max_round_overhead_pct=3.0, max_margin_pct=1.0), 0, "GATE PASSED"),
    ("a round over its limit", report, GatePolicy(max_round_overhead_pct=0.5), 1, "% was allowed for any round"),
    ("wider margin than allowed", report, GatePolicy(max_margin_pct=0.5), 1, "judged with a margin of 1 %; at most 0.5 %"),
    ("inconclusive", lambda: report(good(rounds=2)), GatePolicy(max_overhead_pct=1.05), 1, "GATE INCONCLUSIVE"),
    ("single sample", lambda: report(good(rounds=1)), LIMIT, 1, "GATE INCONCLUSIVE: 1 objection"),
    ("single order", same_order, LIMIT, 1, "GATE INCONCLUSIVE"),
    ("limit of the run itself", lambda: report(good(rounds=1, given=example.settings(overridden=(), max_overhead_pct=3.0))),
     GatePolicy(), 1, "inconclusive of 3 %"),
    ("too few rounds", lambda: report(good(rounds=2)), GatePolicy(min_rounds=5), 1, "has 2 rounds"),
    ("dry run", lambda: report(example.measured(rounds=6)), LIMIT, 5, "GATE NOTHING TO JUDGE"),
    ("dry run beside a real row", lambda: report(good(), example.measured(name="dry")), LIMIT, 1, "is a dry run"),
    ("excluded only", lambda: report(example.excluded()), GatePolicy(), 5, "was not measured: excluded"),
    ("excluded beside a measured row", lambda: report(good(), example.excluded()), LIMIT, 1, "was not measured: excluded"),
    ("failed only", lambda: report(example.excluded_by(example.finding("runtime zeroized", "broken"))), GatePolicy(), 1, "failed"),
    ("lost only", lambda: report(example.lost()), GatePolicy(), 5, "was not measured: lost"),
    ("empty", lambda: example.assembled(()), GatePolicy(), 5, "the report has no row"),
    ("tampered", tampered, LIMIT, 1, "$.rows[0].overheadPct"),
    ("other commit", with_facts, GatePolicy(commit="1" * 40), 1, "not 111111111111"),
    ("other file", with_facts, GatePolicy(subject_sha256=example.digest("wheel")), 1, "the report judges no file"),
    ("dirty tree", dirty, LIMIT, 1, "that no commit names"),
    ("tree nobody could ask about", unknown_tree, LIMIT, 1, "whether the tree had changes is not known"),
    ("dirty tree, allowed", dirty, GatePolicy(allow_dirty=True), 0, "GATE PASSED"),
    ("lenient policy: code", lambda: lenient(lambda each: each["components"].update(archive={"recorded": True})), LIMIT, 1, "guest's code"),
    ("lenient policy: anti-debug", lambda: lenient(lambda each: each["antidebug"].update(version=0)), LIMIT, 1, "anti-debug"),
    ("lenient policy: releases", lambda: lenient(lambda each: each.update(release_limit=9)), LIMIT, 1, "released 9 times"),
    ("lenient policy, allowed", lambda: lenient(lambda each: each.update(release_limit=9)), GatePolicy(allow_lenient_policy=True), 0, "PASSED"),
    ("older invariants", judged_by_an_older_revision, LIMIT, 1, "revision 1 of the invariants judged it"),
    ("waived finding", waiving, LIMIT, 1, "waives memory scanned clean"),
    ("not publishable", waiving, GatePolicy(publishable=True, allow_lenient_policy=True), 1, "is not publishable: memory scanned"),
    ("row missing", report, GatePolicy(rows=("a4000-*",)), 1, "no row matches 'a4000-*'"),
    ("row required was excluded", lambda: report(good(), example.excluded()), GatePolicy(rows=("mlp-h100-30m",)), 1,
     "'mlp-h100-30m' is required and matched only by mlp-h100-30m, which is excluded"),
    ("outstanding release", outstanding, LIMIT, 1, "exit evidence did not come back"),
    ("outstanding release and nothing measured", lambda: outstanding(example.excluded()), GatePolicy(), 1, "exit evidence"),
    ("cleanup not proven", leaky, LIMIT, 1, "an allocation may still exist"),
    ("tamper case not refused", unrefused, LIMIT, 1, "was not refused as expected"),
    ("too few lifecycles", report, GatePolicy(min_lifecycle=0.99), 1, "0.99 was required"),
    ("not authentic", report, GatePolicy(level=Level.AUTHENTIC), 1, "authentic was required: the report key"),
    ("older report", golden, GatePolicy(), 5, "GATE NOTHING TO JUDGE"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "policy", "code", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_gate_answers_each_kind_of_report(
    make: Callable[[], dict[str, Any]], policy: GatePolicy, code: int, message: str
) -> None:
    gated = ruled(make(), policy)

    assert gated.ruling.code == code, [str(each) for each in gated.objections]
    assert message in "\n".join([*map(str, gated.objections), gated.sentence])


def test_cause_comes_first_and_names_what_was_asked_for() -> None:
    """A dry run of a required row in a dirty tree: nothing else matters before the row is measured."""
    dry = example.measured(name="mlp-10min", rounds=6)
    document = with_facts(dry, subject={**example.facts().subject, "dirty": True})
    texts = [each.text for each in ruled(document, GatePolicy(rows=("mlp-*",))).objections]

    assert texts[:2] == [
        f"mlp-10min is a dry run: it says nothing about the {document['rows'][0]['namedGpuModel']} it names",
        "'mlp-*' is required and matched only by mlp-10min, which is a dry run",
    ]


def test_dry_run_of_a_row_for_any_gpu_names_no_gpu() -> None:
    document = report(example.measured(row=example.row(gpu="anygpu", rounds=6), rounds=6))
    (objection, *_) = ruled(document).objections

    assert objection.text.endswith("is a dry run: it says nothing about any GPU")


def test_implausible_negative_row_fails_the_gate() -> None:
    """It stays a row with its figure; it lets nothing through."""
    document = report()
    row = {**document["rows"][0], "verdict": "implausible negative"}
    gated = ruled(example.sealed_again({**document, "rows": [row]}), GatePolicy())

    assert any(each.path == "$.rows[0].verdict" for each in gated.objections)


@pytest.mark.parametrize(
    ("now", "code"),
    [(MADE_AT + timedelta(hours=23), 0), (MADE_AT + timedelta(hours=25), 1), (MADE_AT - timedelta(hours=1), 1)],
    ids=["fresh", "stale", "from the future"],
)
def test_age_counts_in_both_directions(now: datetime, code: int) -> None:
    assert ruled(with_facts(), GatePolicy(max_age_h=24), now=now).ruling.code == code


def test_level_counts_with_the_readers_keys() -> None:
    keys = frozenset(public_text(getattr(example.KEYS, name).public_key()) for name in ("report", "server", "owner"))

    assert ruled(report(), GatePolicy(level=Level.AUTHENTIC), trust=Trust(keys=keys)).ruling is Ruling.PASSED


def test_report_of_a_version_nobody_knows_cannot_be_used() -> None:
    document = copy.deepcopy(report())
    document["schemaVersion"] = "0.9"

    with pytest.raises(ReportError, match=r"schemaVersion: expected one of"):
        load_document(report_bytes(document))


def test_table_gives_the_policy_and_a_flag_wins(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(
        '[tool.glasshouse.gate]\nrows = ["h100-*"]\nmax-overhead = 3\nmin-rounds = 5\nlevel = "authentic"\nmax-age = 24\n',
        "utf-8",
    )
    table = read_table(path, required=False)

    assert policy_of(table, {"max-overhead": 2.0, "publishable": None}) == GatePolicy(
        rows=("h100-*",), max_overhead_pct=2.0, min_rounds=5, level=Level.AUTHENTIC, max_age_h=24
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_overhead = 3", "gate.max_overhead: .* did you mean max-overhead"),
        ("max-overheads = 3", "gate.max-overheads: .* did you mean max-overhead"),
        ("limit = 3", "gate.limit: .* expected one of rows, max-overhead"),
        ('max-overhead = "3"', r"pyproject.toml: tool.glasshouse.gate.max-overhead: expected a number, saw '3'"),
        ('trust = "lab.pub"', r"pyproject.toml: tool.glasshouse.gate.trust: expected a list of key files"),
        ("max-overhead = nan", "max-overhead: expected a number"),
        ("min-rounds = true", "min-rounds: expected a whole number"),
        ("min-lifecycle = 95", "expected a share from 0 to 1"),
        ('level = "verified"', "level: expected one of consistent"),
        ('commit = "main"', "commit: expected 7 to 40"),
        ('rows = "h100-*"', "rows: expected a list"),
        ("publishable = 1", "publishable: expected true or false"),
        ("max-age = 0", "max-age: expected a number"),
    ],
)
def test_misspelt_policy_is_refused(tmp_path: Path, line: str, message: str) -> None:
    """A limit that is ignored is no limit."""
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[tool.glasshouse.gate]\n{line}\n", "utf-8")

    with pytest.raises(ConfigurationError, match=message):
        _read_whole(path)


def _read_whole(path: Path) -> None:
    table = read_table(path, required=True)
    trusted_of(table)
    policy_of(table, {})


@pytest.mark.parametrize("required", [False, True], ids=["found", "named"])
@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("tool.glasshouse.gates", r"tool.glasshouse.gates: .* did you mean gate\?"),
        ("tool.glasshouse.judge", r"tool.glasshouse.judge: .* expected one of gate"),
        ("tool.glashouse.gate", r"\[tool.glashouse\]: did you mean \[tool.glasshouse\]\?"),
        ("tool.Glasshouse.gate", r"\[tool.Glasshouse\]: did you mean"),
        ("tool.glass-house.gate", r"\[tool.glass-house\]: did you mean"),
        ("tool.pytest-glasshouse.gate", r"\[tool.pytest-glasshouse\]: did you mean"),
        ("tools.glasshouse.gate", r"\[tools.glasshouse\]: did you mean"),
        ("glasshouse.gate", r"\[glasshouse\]: did you mean"),
    ],
)
def test_policy_under_a_misspelt_table_is_refused(tmp_path: Path, header: str, message: str, *, required: bool) -> None:
    """A table that is not read removes the whole policy, and the gate would pass."""
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[{header}]\nmax-overhead = 3\n", "utf-8")

    with pytest.raises(ConfigurationError, match=message):
        read_table(path, required=required)


@pytest.mark.parametrize("text", ["tool = 3", "tool.glasshouse = 3", "tool.glasshouse.gate = 3"])
def test_policy_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(text, "utf-8")

    with pytest.raises(ConfigurationError, match="expected a table"):
        read_table(path, required=False)


def test_tables_of_other_tools_are_ignored_by_the_gate(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    others = (
        '[project]\nname = "glasshouse"\n[project.scripts]\nglasshouse = "a:b"\n[dependency-groups]\nglasshouse = ["a"]\n'
        "[tool.pytest.ini_options]\n[tool.greenhouse]\n[tool.hatch.envs.glasshouse]\n"
    )
    path.write_text(others, "utf-8")

    assert read_table(path, required=False).source == f"no policy: {path} has no table [tool.glasshouse.gate]"


def test_policy_file_that_was_named_must_hold_a_policy(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[tool.other]\n", "utf-8")

    with pytest.raises(ConfigurationError, match="saw none"):
        read_table(tmp_path / "other.toml", required=True)
    with pytest.raises(ConfigurationError, match="no such file"):
        read_table(tmp_path / "missing.toml", required=True)
    assert read_table(tmp_path / "other.toml", required=False).values is None


def test_subject_is_compared_by_its_bytes(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"wheel")
    policy = policy_of(None, {}, subject=wheel)
    document = with_facts(subject={**example.facts().subject, "wheelSha256": policy.subject_sha256})

    assert ruled(document, policy).ruling is Ruling.PASSED
    wheel.write_bytes(b"another")
    assert ruled(document, policy_of(None, {}, subject=wheel)).ruling is Ruling.FAILED
    json.dumps(document)


def test_failed_limit_says_that_another_run_is_another_try() -> None:
    """Three tries at the limit pass 14 %."""
    checked = check_bytes(report_bytes(report()), derivation=example.EXAMPLE)
    failed, passed = (gate(report(), checked, GatePolicy(max_overhead_pct=limit), now=MADE_AT) for limit in (0.5, 3.0))
    assert any("3 tries 14 %" in note for note in failed.notes)
    assert passed.notes == ()
