"""Before anything is rented every model is resolved to a commit, once, and whatever cannot reach a guest is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_glasshouse.errors import ConfigurationError, InfrastructureError
from pytest_glasshouse.rows.overrides import RowItem
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run.engine import Engine
from pytest_glasshouse.run.options import Options
from pytest_glasshouse.run.plan import ResolvedModel, RunPlan
from pytest_glasshouse.run.resume import _model_of
from pytest_glasshouse.run.run import Run
from pytest_glasshouse.workloads import lora_material, model_hub
from pytest_glasshouse.workloads.model_files import listed_content
from pytest_glasshouse.workloads.registry import prepare
from tests.loopback.causal_models import causal_lm, write
from tests.loopback.hub import Hub
from tests.loopback.hub_faults import Refused
from tests.loopback.hub_repository import commit_id
from tests.unit.workloads.hub_model import COMMIT, FILES, LATER, REPO, described

OTHER = "Tests/Llama-0.5B"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that this process asks, in this process and without a cache."""
    from huggingface_hub import constants

    with Hub({REPO: {COMMIT: FILES}, OTHER: {LATER: causal_lm("llama", shards=1)}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(lora_material, "_DESCRIBED", {})
        monkeypatch.setattr(model_hub, "describe", lambda repo, revision: described(hub, repo=repo, revision=revision))
        yield hub


def row(model: str, **fields: Any) -> RowSpec:
    return RowSpec(name="row", workload="lora", gpu="anygpu", order="raw-first", steps=1, model=model, **fields)


def checked(*rows: RowSpec, **options: Any) -> dict[str, ResolvedModel]:
    given = Options(**{"provider": "runpod", **options})
    return Engine().check_material([(each, None) for each in rows], given, seed=7, rehearsed=False)


def test_each_model_is_asked_for_once_and_by_its_commit_from_then_on(hub: Hub) -> None:
    rows = [row(REPO), row(REPO, rank=8), row(REPO, model_source="hub"), row(OTHER), row(f"{OTHER}@{LATER}")]
    models = checked(*rows)
    assert {name: found["reference"] for name, found in models.items()} == {
        REPO: f"{REPO}@{COMMIT}", OTHER: f"{OTHER}@{LATER}", f"{OTHER}@{LATER}": f"{OTHER}@{LATER}",
    }  # fmt: skip
    assert models[REPO]["size"] == sum(file.size for file in listed_content(FILES))
    assert [one.path for one in hub.asked("info")].count(f"/api/models/{REPO}") == 1
    assert hub.asked("info")[0].query == "blobs=true"
    assert checked(*rows) == models
    assert len(hub.asked("info")) == 3, "and a second check asks for nothing"


def test_a_worker_trains_the_commit_that_the_controller_resolved(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch moves after the controller asked; a worker is another process, which has asked for nothing yet."""
    with Hub({REPO: {COMMIT: FILES, LATER: causal_lm("qwen2", shards=2, seed=12)}}, refs={REPO: {"main": COMMIT}}) as moving:
        monkeypatch.setattr(model_hub, "describe", lambda repo, revision: described(moving, repo=repo, revision=revision))
        plan = RunPlan(run_id="run", seed=7, subject={}, models=checked(row(REPO)))  # type: ignore[typeddict-item]
        moving.move(REPO, "main", LATER)
        monkeypatch.setattr(lora_material, "_DESCRIBED", {})
        sent = RunPlan(**json.loads(json.dumps(dataclasses.asdict(plan))))
        material = prepare("lora", seed=7, model=sent.reference(row(REPO)), online=True)
        assert prepare("lora", seed=7, model=REPO, online=True).facts["revision"] == LATER
    assert (material.facts["revision"], material.facts["modelId"]) == (COMMIT, REPO)


def test_a_mock_run_asks_no_hub_and_resolves_nothing(hub: Hub) -> None:
    assert checked(row(REPO), row(f"{OTHER}@{LATER}"), provider="mock")[REPO]["reference"] is None
    assert hub.requests == []


def test_a_directory_is_no_model_of_a_hub(hub: Hub, tmp_path: Path) -> None:
    [found] = checked(row(str(write(FILES, tmp_path / "model")))).values()
    assert found["reference"] is None
    assert hub.requests == []


@pytest.mark.parametrize(("fields", "options", "why"), [
    ({"model_source": "pushed"}, {}, "pushed: this machine does not have its weights"),
    ({"model_source": "there"}, {}, "there: name a directory of the guest with --glasshouse-guest-models"),
    ({}, {"model_source": "pushed"}, "pushed: this machine does not have its weights"),
    ({"targets": ("c_attn",)}, {}, "no layer is called c_attn"),
])  # fmt: skip
def test_what_cannot_reach_a_guest_is_refused_before_renting(
    fields: dict[str, Any], options: dict[str, Any], why: str, hub: Hub
) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        checked(row(REPO, **fields), **options)
    assert str(caught.value).startswith("row row: model ")
    assert str(caught.value).endswith("Nothing was started")


def test_a_row_that_asks_for_another_source_is_checked_though_its_model_was(hub: Hub) -> None:
    with pytest.raises(ConfigurationError, match="does not have its weights"):
        checked(row(REPO), row(REPO, model_source="pushed"))


def test_a_hub_that_cannot_be_reached_is_no_fault_of_the_rows(hub: Hub) -> None:
    hub.arm(Refused(status=503), on="info", times=None)
    with pytest.raises(InfrastructureError, match=f"model {REPO}: the hub answered with status 503"):
        checked(row(REPO))


def test_a_commit_that_the_hub_does_not_know_is_refused(hub: Hub) -> None:
    with pytest.raises(ConfigurationError, match=r"no such revision of it.*check the name and the commit.*Nothing was started"):
        checked(row(f"{REPO}@{commit_id('unknown')}"))


def test_nothing_of_this_machine_is_in_what_a_report_has_of_a_model(hub: Hub, tmp_path: Path) -> None:
    directory = write(FILES, tmp_path / "private" / "model")
    for model in (str(directory), REPO):
        material = prepare("lora", seed=7, model=model, online=True)
        shown = json.dumps(material.facts) + material.parts["config"].decode() + repr(material)
        assert hub.url not in json.dumps(material.facts) + material.parts["config"].decode()
        assert str(tmp_path) not in json.dumps(material.facts) + material.parts["config"].decode()
        assert "hf_" not in shown


def test_a_resumed_run_trains_the_commit_that_its_first_attempt_recorded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch moved between the attempts; rows of one run would train two models."""
    with Hub({REPO: {COMMIT: FILES, LATER: causal_lm("qwen2", shards=2, seed=12)}}, refs={REPO: {"main": COMMIT}}) as moving:
        monkeypatch.setattr(model_hub, "describe", lambda repo, revision: described(moving, repo=repo, revision=revision))

        def attempt(earlier: Any) -> RunPlan:
            run: Any = SimpleNamespace(
                selected=SimpleNamespace(rows={"a": RowItem(declared=row(REPO), row=row(REPO))}), store=SimpleNamespace(judged_before=()),
                _inputs=SimpleNamespace(earlier=earlier), engine=Engine(), options=Options(provider="runpod"),
                plan=RunPlan(run_id="run", seed=7, subject={}),  # type: ignore[typeddict-item]
            )  # fmt: skip
            Run._check_material(run, rehearsed=False)
            monkeypatch.setattr(lora_material, "_DESCRIBED", {})
            return cast("RunPlan", run.plan)

        first = attempt(None).reference(row(REPO))
        assert first == f"{REPO}@{COMMIT}"
        moving.move(REPO, "main", LATER)
        assert attempt(SimpleNamespace(models={REPO: first})).reference(row(REPO)) == first
        assert attempt(SimpleNamespace(models={})).reference(row(REPO)) == f"{REPO}@{LATER}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, [(REPO, f"{REPO}@{COMMIT}")]),
        ({"material": {"modelId": REPO, "standIn": True, "facts": {"revision": COMMIT}}}, []),
        ({"material": {"modelId": "mine", "standIn": False, "facts": {"revision": None}}}, []),
        ({"plan": {"modelId": None}}, []),
    ],
)
def test_a_report_says_which_commit_its_rows_trained(change: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    material = {"modelId": REPO, "standIn": False, "facts": {"revision": COMMIT}}
    observation = {"plan": {"modelId": REPO}, "material": material, **change}
    for record in ({"observation": observation}, {"observation": None}, {}):
        assert list(_model_of(record)) == (expected if record.get("observation") else [])  # type: ignore[arg-type]
