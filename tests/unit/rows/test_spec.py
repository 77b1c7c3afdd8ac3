"""What a row may be, and that its id is its content."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from typing import Any, cast

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.rows import Published, RowSpec

GOOD: dict[str, Any] = {"name": "mine", "workload": "mlp", "gpu": "h100", "order": "raw-first", "target_s": 60}
CHANGES: dict[str, Any] = {
    "name": "other",
    "workload": "lora",
    "gpu": "a4000",
    "gpus": 2,
    "nodes": 2,
    "order": "protected-first",
    "target_s": 61,
    "steps": 5,
    "warmup_s": 1.0,
    "rounds": 2,
    "provider": "runpod",
    "model": "some/model",
    "data": "some.txt",
    "rank": 8,
    "alpha": 12,
    "targets": ("qkv_proj",),
    "base": "sealed",
    "margin_pct": 2.0,
    "preset": "quick",
    "null": True,
    "resident": False,
    "cut": True,
    "parameters": (("batch", "1"),),
}
INTERLEAVED = ("preset", "cut", "null", "resident")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({**GOOD, "target": 600}, "row 'mine': no field target. Did you mean target_s? A row has name, workload, gpu, order, "),
        ({**GOOD, "gpux": "h100"}, "row 'mine': no field gpux. Did you mean gpu? A row has name, "),
        ({**GOOD, "weekday": "red"}, "row 'mine': no field weekday. A row has name, "),
        ({"name": "mine", "workload": "mlp", "order": "raw-first"}, "row 'mine': field gpu: expected one of h100, pro6000, "),
        ({"name": "mine", "workload": "mlp", "gpu": "h100"}, "row 'mine': field order: expected one of raw-first, "),
        ({"name": "mine"}, "row 'mine': field workload: expected one of mlp, lora; saw none (nor gpu, order)"),
        ({}, "a row: field name: expected a name; saw none (nor workload, gpu, order)"),
    ],
)
def test_fields_that_are_misspelt_or_missing_are_reported_like_values(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RowSpec(**fields)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_fields_go_by_name_only_and_a_row_can_be_copied() -> None:
    build: Any = RowSpec
    with pytest.raises(ConfigurationError, match="row 'mine': expected every field by its name; saw 1 without"):
        build("mlp", **GOOD)
    row = RowSpec(**GOOD)
    assert copy.deepcopy(row) == copy.copy(row) == row


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a b"),
        ("name", ""),
        ("name", "a::b"),
        ("workload", "cnn"),
        ("gpu", "h200"),
        ("order", "random"),
        ("target_s", 0),
        ("target_s", -1),
        ("target_s", math.nan),
        ("target_s", math.inf),
        ("target_s", True),
        ("target_s", "60"),
        ("target_s", None),
        ("warmup_s", -0.1),
        ("rounds", 0),
        ("rounds", 1.5),
        ("rounds", 10_001),
        ("margin_pct", 0),
        ("model", "some/model"),
        ("data", "text.txt"),
        ("preset", "quick"),
        ("null", True),
        ("resident", False),
    ],
)
def test_malformed_row_is_refused_naming_row_and_field(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"row .*: field {field}: expected .*; saw"):
        RowSpec(**{**GOOD, field: value})


def test_every_bad_field_is_told_at_once() -> None:
    """They were told one a run."""
    with pytest.raises(ConfigurationError) as caught:
        RowSpec(**{**GOOD, "gpu": "h200", "order": "sideways", "rounds": 0, "warmup_s": -1, "rank": "four", "model": "x"})

    told = str(caught.value)
    assert told.startswith("row 'mine': field gpu: expected one of h100, ")
    assert re.findall(r"field (\w+): expected", told) == ["gpu", "order", "warmup_s", "rounds", "rank", "model"]
    with pytest.raises(
        ConfigurationError, match=r"no field gpux. Did you mean gpu\? no field target. Did you mean target_s\? A row has"
    ):
        RowSpec(**{**GOOD, "gpux": 1, "target": 1})


def test_row_with_both_targets_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="exactly one of target_s"):
        RowSpec(**GOOD, steps=5)


def test_lora_row_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="field model"):
        RowSpec(**{**GOOD, "workload": "lora"})


LORA: dict[str, Any] = {**GOOD, "workload": "lora", "model": "some/model"}


def test_a_lora_row_with_the_default_adapter_keeps_its_old_id() -> None:
    """Ids were published."""
    row = RowSpec(**LORA)
    assert row.row_id == RowSpec(**LORA, rank=4, targets=("v_proj", "q_proj")).row_id == "mine-7b89ec794034"
    assert (row.rank, row.targets, row.adapter) == (4, ("q_proj", "v_proj"), {})


def test_the_order_and_type_of_a_list_of_layers_do_not_change_the_row_id() -> None:
    first, second = RowSpec(**LORA, targets=("c_proj", "c_attn")), RowSpec(**LORA, targets=cast("Any", ["c_attn", "c_proj"]))
    assert (first, first.row_id, hash(first)) == (second, second.row_id, hash(second))
    assert RowSpec.from_json(json.loads(json.dumps(first.to_json()))) == first
    assert first.adapter == {"adapter": {"rank": 4, "targets": ["c_attn", "c_proj"]}}
    assert RowSpec(**LORA, alpha=16).adapter == {"adapter": {"rank": 4, "targets": ["q_proj", "v_proj"], "alpha": 16}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("rank", value) for value in (0, -1, 1.0, "4", True, None, 1025)),
        *(("alpha", value) for value in (0, -1, 1.0, "8", True, 65537)),
        *(("targets", value) for value in ((), "q_proj", None, ("q_proj", "q_proj"), ("q proj",), ("",), (1,), ("a.b",), ("x" * 65,), {"q"})),
        ("targets", ("q_proj\n",)),
        ("targets", tuple(f"l{n}" for n in range(17))),
    ],
    ids=repr,
)  # fmt: skip
def test_an_invalid_adapter_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"row 'mine': field {field}: expected"):
        RowSpec(**LORA, **{field: value})


def test_an_mlp_row_has_no_adapter() -> None:
    unfit: tuple[tuple[str, Any], ...] = (("rank", 8), ("alpha", 4), ("targets", ("c_attn",)))
    for field, value in unfit:
        with pytest.raises(ConfigurationError, match=f"field {field}: expected nothing, for an mlp row"):
            RowSpec(**GOOD, **{field: value})


def test_row_id_changes_with_every_measured_property() -> None:
    """Two rows with one id would overwrite each other in a report."""
    base = RowSpec(**GOOD, published=None)
    unmeasured = {"published", "smoke", "model_source"}
    assert set(CHANGES) | unmeasured == {field.name for field in dataclasses.fields(RowSpec)}
    ids = {_changed(field).row_id for field in CHANGES}
    assert RowSpec(**{**GOOD, "order": "interleaved"}).row_id not in {_changed(field).row_id for field in INTERLEAVED}
    assert len(ids) == len(CHANGES)
    assert base.row_id not in ids


def _changed(field: str) -> RowSpec:
    content = {**GOOD, field: CHANGES[field]}
    if field == "steps":
        content["target_s"] = None
    if field in INTERLEAVED:
        content["order"] = "interleaved"
    if field == "cut":
        content["preset"] = "publish"
    if field in ("model", "data", "workload", "rank", "alpha", "targets", "base"):
        content |= {"workload": "lora", "model": "some/model" if field != "workload" else "third/model"}
    if field == "nodes":
        content["gpus"] = 4
    if field == "base":
        content["order"] = "protected-first"
    return RowSpec(**{**content, "name": content["name"]})


SEALED: dict[str, Any] = {**GOOD, "workload": "lora", "model": "some/model", "order": "protected-first", "base": "sealed"}


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"order": "raw-first"}, "order", "protected-first, for a row whose base is sealed: it has no raw leg"),
        ({"order": "interleaved"}, "order", "protected-first, for a row whose base is sealed: it has no raw leg"),
        ({"model_source": "hub"}, "model_source", "nothing, for a row whose base is sealed"),
        ({"gpus": 2}, "gpus", "1, for a row whose base is sealed"),
        ({"base": "secret"}, "base", "one of pinned, sealed"),
        ({"workload": "mlp", "model": None}, "base", "nothing, for an mlp row"),
    ],
)
def test_a_sealed_base_goes_with_one_protected_leg_only(changes: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RowSpec(**{**SEALED, **changes})
    assert f"field {field}: expected {expected}" in str(caught.value)


@pytest.mark.parametrize("gpus", [0, 3, 16, True, 2.0, "2", None])
def test_a_number_of_gpus_that_no_leg_can_have_is_refused(gpus: Any) -> None:
    with pytest.raises(ConfigurationError, match="field gpus: expected"):
        RowSpec(**{**GOOD, "gpus": gpus})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nodes": 0}, "a whole number"), ({"nodes": True}, "a whole number"), ({"nodes": 2}, "a divisor of the 1 GPUs"),
        ({"gpus": 4, "nodes": 3}, "a divisor of the 4 GPUs"), ({"gpus": 2, "nodes": 4}, "a divisor of the 2 GPUs"),
        ({"gpus": 2, "nodes": 2, "order": "interleaved"}, "1, for an interleaved row"),
    ],
)  # fmt: skip
def test_nodes_that_no_leg_can_have_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=f"field nodes: expected {expected}"):
        RowSpec(**{**GOOD, **changes})


def test_a_sealed_row_is_another_row_than_the_pinned_one_and_that_one_keeps_its_id() -> None:
    row, pinned = RowSpec(**SEALED), RowSpec(**{**SEALED, "base": "pinned"})
    assert (row.sealed, pinned.sealed) == (True, False)
    assert pinned.row_id == RowSpec(**{name: value for name, value in SEALED.items() if name != "base"}).row_id
    assert row.row_id != pinned.row_id
    assert RowSpec.from_json(row.to_json()) == row


def test_row_id_ignores_properties_that_change_no_measurement() -> None:
    given = RowSpec(**GOOD, smoke=True, published=Published(source="a paper", overhead_pct=1.0))
    assert given.row_id == RowSpec(**GOOD).row_id
    lora: dict[str, Any] = {**GOOD, "workload": "lora", "model": "some/model"}
    assert RowSpec(**lora, model_source="hub").row_id == RowSpec(**lora).row_id


def test_row_without_other_parameters_keeps_its_old_id() -> None:
    """`glasshouse history` joins old and new reports by it."""
    row = RowSpec(name="mine", workload="mlp", gpu="h100", order="raw-first", target_s=2.0, warmup_s=0.5)
    assert row.row_id == "mine-a698de9bc596"


def test_ambiguous_parameters_are_refused() -> None:
    content = {**GOOD, "parameters": (("batch", "1"), ("rate", "2"))}
    assert RowSpec.from_json(json.loads(json.dumps(RowSpec(**content).to_json()))) == RowSpec(**content)
    for given in (
        (("b", "1"), ("a", "1")),
        (("a", "1"), ("a", "2")),
        (("a", ""),),
        (("a", "x" * 200),),
        (("a", 1),),
        [("a", "1")],
        "a",
    ):
        with pytest.raises(ConfigurationError, match="field parameters: expected at most 32 pairs of short texts"):
            RowSpec(**{**GOOD, "parameters": given})


def test_marks_name_gpu_workload_and_kind() -> None:
    assert RowSpec(**{**GOOD, "target_s": 900}, smoke=True).marks == ("h100", "mlp", "smoke", "sustained")


def test_run_passes_the_row_and_its_legs_to_the_allocation() -> None:
    class Stage:
        def carry_out(self, row: RowSpec, protected: Any, raw: Any) -> tuple[str, Any, Any]:
            return (row.name, protected, raw)

    assert RowSpec(**GOOD).run(Stage(), "protected", "raw") == ("mine", "protected", "raw")
