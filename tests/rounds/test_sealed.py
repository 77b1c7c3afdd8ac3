"""A row whose base model is in the package: a whole lifecycle on a real guest, no file of the model there, and no raw leg."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.invariants import SEALED, judge
from pytest_glasshouse.legs import row_runner
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.wire.tensors import parse_safetensors
from tests.loopback.causal_models import causal_lm
from tests.rounds.conftest import carry_out, short_row
from tests.rounds.plaintext import Search, windows

MODEL = causal_lm("qwen2", shards=2)


@pytest.fixture(name="model")
def a_model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for name, content in MODEL.items():
        (directory / name).write_bytes(content)
    return directory


def weights() -> list[bytes]:
    """Pieces of every tensor of the model, and of its config and tokenizer."""
    pieces: list[bytes] = []
    for name, content in MODEL.items():
        if name.endswith(".safetensors"):
            for entry in parse_safetensors(content).values():
                pieces += [each for each in windows(content[entry.start : entry.end])[:4] if any(each)]
        elif name in ("config.json", "tokenizer.json"):
            pieces += windows(content)[2:6]
    return pieces


@pytest.mark.torch
def test_a_sealed_model_is_trained_on_and_is_in_no_file_of_its_guest(model: Path, tmp_path: Path) -> None:
    """What the whole of Glasshouse is for: weights that the owner of the machine must not have."""
    row, search, patterns = short_row("lora", "protected-first", base="sealed", model=model.name), Search(), weights()
    looked: set[str] = set()

    def on_progress(progress: Progress, directory: Path) -> None:
        looked.add(f"{progress.leg} {progress.phase}")
        search.look(directory, patterns)

    ran = carry_out(row, tmp_path, model=str(model), on_progress=on_progress)
    observation = ran.outcome.observation
    assert ran.outcome.ended is None
    findings = judge(observation)
    assert [(each.invariant, each.reason) for each in findings if each.finding != "held"] == []
    assert len(findings) == len(SEALED)
    assert search.hits == []
    assert {"protected load", "protected train", "protected exit"} <= looked
    assert not [each for each in looked if each.startswith("raw")]
    assert "baseModel" not in observation, "no file was brought"
    assert [(notes["order"], notes["raw"]) for notes in observation["rounds"]] == [(["protected"], None)]
    (measured,) = results(observation)
    size = sum(len(content) for name, content in MODEL.items() if name.endswith(".safetensors"))
    assert measured.protected is not None
    assert (measured.protected.exposure_peak_bytes or 0) > size, "the arena holds it"


@pytest.mark.torch
def test_a_raw_leg_of_a_sealed_row_is_refused_and_the_guest_gets_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever asks for one: a raw leg trains on the plaintext, which the machine's owner can read."""
    monkeypatch.setattr(row_runner, "sealed_orders", lambda rounds: (("raw",),) * rounds)
    sent: list[str] = []
    with pytest.raises(ConfigurationError, match="its package is confidential; a raw leg would publish"):
        carry_out(
            short_row("lora", "protected-first", base="sealed", model=model.name),
            tmp_path,
            model=str(model),
            on_progress=lambda progress, _directory: sent.append(progress.phase),
        )
    assert sent == []
