"""A request for a base model has what its source needs: no path of this machine for a rented guest, no token that was not asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.legs import base_model
from pytest_glasshouse.legs.base_model import _directory
from pytest_glasshouse.legs.model_sources import ModelSources
from pytest_glasshouse.workloads.base import BaseModel
from pytest_glasshouse.workloads.model_files import ModelFile
from tests.loopback.causal_models import write
from tests.unit.agent.arriving_models import FILES, MODEL, TOTAL
from tests.unit.channel.lying_agent import LyingAgent
from tests.unit.legs.model_row import base_of, brought_to, state

TOKEN = "hf_" + "a" * 34
HUB = "https://hub.example"


@pytest.fixture(autouse=True)
def _ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "_ASK_S", 0.0)


def requests(sources: ModelSources, base: BaseModel, *answers: dict[str, Any], **grant: Any) -> list[dict[str, Any]]:
    failed = state("failed", reason="absent", detail="x")
    with LyingAgent({"arrival": [*answers, failed]}) as agent:
        brought_to(agent.address, base, sources, **grant)
        return agent.asked["model"]


def test_a_request_has_what_its_source_needs_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of this machine goes to no rented guest, and a token to none that was not asked for one."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    base = base_of(FILES, directory=write(FILES, tmp_path / "model"), hub=HUB)
    there, hub, pushed = requests(ModelSources(directory="/models"), base)
    assert [each["source"] for each in (there, hub, pushed)] == ["there", "hub", "pushed"]
    assert (there["directory"], hub["endpoint"]) == ("/models", HUB)
    for each in (there, hub, pushed):
        assert each["model"] == MODEL
        assert {one["name"] for one in each["files"]} == set(FILES)
        assert "token" not in each
        assert str(tmp_path) not in str(each)
    assert "endpoint" not in there
    assert not {"endpoint", "directory"} & pushed.keys()
    assert hub["directory"] == "/models", "what that has of it is not downloaded"
    for sources in (ModelSources(), ModelSources(directory="/models", only="hub")):
        [local] = requests(sources, base, remote=False)
        assert (local["source"], local["directory"]) == ("there", str(tmp_path / "model"))
        assert "keep" not in local
    assert "keep" not in hub


@pytest.mark.parametrize(("reason", "endpoint", "handed"), [
    ("gated", HUB, True), ("hidden", HUB, True), ("absent", HUB, False), ("busy", HUB, False), ("failed", HUB, False),
    ("gated", "http://127.0.0.1:8080", True), ("gated", "http://hub.example", False), ("gated", "http://192.0.2.7", False),
])  # fmt: skip
def test_a_token_is_handed_over_for_one_reason_only(
    reason: str, endpoint: str, handed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never for a hub to which it would go in clear text."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    sources = ModelSources(only="hub")
    asked = requests(sources, base_of(FILES, hub=endpoint), {**state("failed", reason=reason, detail="x"), "source": "hub"})
    assert [each.get("token") for each in asked] == ([None, TOKEN] if handed else [None])


def test_a_directory_of_the_guest_that_asks_for_a_token_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    asked = requests(
        ModelSources(directory="/models", only="there"), base_of(FILES, hub=HUB), state("failed", reason="gated", detail="x")
    )
    assert [each.get("token") for each in asked] == [None]


def test_the_time_for_a_model_grows_with_its_size() -> None:
    small = base_of(FILES, hub=HUB)
    large = replace(small, files=(*small.files, ModelFile(name="z.safetensors", size=15 * 10**9, sha256="0" * 64)))
    [first], [second] = (requests(ModelSources(only="hub"), each) for each in (small, large))
    assert first["within_s"] == 900
    assert second["within_s"] == 900 + (15 * 10**9 + TOTAL) // (2 << 20)
    assert first["idle_s"] == second["idle_s"] == 180


def test_a_row_without_a_model_asks_for_none() -> None:
    with LyingAgent() as agent:
        assert brought_to(agent.address, None, ModelSources()) == (None, None)
        assert agent.asked == {}


def test_a_guest_on_this_machine_is_told_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has of the model is not downloaded again; no other guest is told a path of this machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert _directory(base_of(FILES, hub=HUB, on_host=False)) == str(tmp_path / "cache")
    assert _directory(base_of(FILES, directory=tmp_path)) == str(tmp_path)
    elsewhere = base_of(FILES, hub=HUB, on_host=False)
    [local] = requests(ModelSources(), elsewhere, remote=False)
    assert (local["source"], local["directory"], local["keep"]) == ("hub", str(tmp_path / "cache"), True)
    [rented] = requests(ModelSources(), elsewhere)
    assert rented["source"] == "hub"
    assert not {"directory", "keep"} & rented.keys()
