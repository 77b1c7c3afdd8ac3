"""Legs trained again from a record alone: what was trained comes out bit for bit, and any other work does not."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.attacks.lying_legs import LyingGuest, LyingLeg, lying_archive
from pytest_glasshouse.cli import replay as module
from pytest_glasshouse.cli.replay import Replayed, replay
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.observation.training_trace import checkpoints_of
from tests.limits import HANG_S
from tests.numpy_guest.bytecode import use_kept
from tests.rounds.conftest import RowGuest, short_row

pytestmark = pytest.mark.torch

Json = dict[str, Any]


@pytest.fixture(scope="module", name="observation")
def an_observation(torch_guest: RowGuest) -> Any:
    """One interleaved mlp row on the product's own guest: its legs have warm-ups, wash-outs and segments."""
    outcome = torch_guest.carry_out(short_row(order="interleaved", target_s=0.4))
    assert outcome.ended is None
    return outcome.observation


@pytest.fixture(autouse=True)
def trained_in_one_process(monkeypatch: pytest.MonkeyPatch, trained: Callable[..., Any]) -> None:
    monkeypatch.setattr(module, "_trained", trained)


_really = module._trained


def _replayed(observation: Json, count: int = 1) -> list[Replayed]:
    """As `glasshouse check` does it with a report of this row alone."""
    document: Any = {"rows": [{"rowId": "a-row", "observation": observation}], "nullRows": []}
    return list(replay(document, count))


def _raw_only(observation: Json) -> Json:
    """One round, with a raw leg that ended and a protected one whose journal is not whole."""
    changed = copy.deepcopy(observation)
    changed["rounds"] = changed["rounds"][:1]
    changed["rounds"][0]["protected"]["journal"].pop()
    return changed


def test_both_legs_give_their_adapters_again(
    monkeypatch: pytest.MonkeyPatch, observation: Json, trained: Callable[..., Any]
) -> None:
    """The first in the process that `glasshouse check` starts for each."""
    ways = iter((lambda task: _really(task, within_s=HANG_S), trained))
    monkeypatch.setattr(module, "_trained", lambda task, **_within: next(ways)(task))
    found = _replayed({**observation, "rounds": observation["rounds"][:1]}, count=5)
    assert {each.leg for each in found} == {"protected", "raw"}
    assert all(each.equal and "the same adapter" in str(each) and "bit for bit" in str(each) for each in found)
    assert not any(" 0 checkpoints" in str(each) for each in found)


def _one_step_more(raw: Json) -> None:
    raw["callback"]["units"] += 1


def _another_order(raw: Json) -> None:
    raw["callback"]["order_seed"] += 1


def _another_adapter(raw: Json) -> None:
    raw["adapterSha256"] = "0" * 64


@pytest.mark.parametrize("change", [_one_step_more, _another_order, _another_adapter])
def test_a_leg_that_did_other_work_is_seen(change: Callable[[Json], None], observation: Json) -> None:
    changed = _raw_only(observation)
    change(changed["rounds"][0]["raw"])
    (found,) = _replayed(changed)
    assert not found.equal
    assert "the leg did not train what it reports" in found.reason


def _another_weight(raw: Json) -> None:
    raw["callback"]["checkpoints"][1][2] = "0" * 64


def _another_loss(raw: Json) -> None:
    raw["callback"]["checkpoints"][1][1] = "0.5"


@pytest.mark.parametrize("change", [_another_weight, _another_loss])
def test_the_first_checkpoint_that_differs_says_between_which_steps(change: Callable[[Json], None], observation: Json) -> None:
    changed = _raw_only(observation)
    change(changed["rounds"][0]["raw"])
    before, differs = (each[0] for each in changed["rounds"][0]["raw"]["callback"]["checkpoints"][:2])
    (found,) = _replayed(changed)
    assert not found.equal
    assert f"OTHER WEIGHTS after step {differs}, the same after step {before}" in found.reason


def _on_a_gpu(observation: Json) -> Json:
    changed = _raw_only(observation)
    changed["rounds"][0]["raw"]["callback"]["facts"]["device"] = "NVIDIA H100"
    return changed


def test_on_a_gpu_the_losses_of_checkpoints_decide_within_a_stated_tolerance(
    observation: Json, monkeypatch: pytest.MonkeyPatch, trained: Callable[..., Any]
) -> None:
    """Kernels may sum in another order, so neither weights nor adapter are the same bit for bit."""
    changed = _on_a_gpu(observation)
    again = trained({**module._task(*_leg_of(changed)), "device": "cpu"})
    again["adapterSha256"] = "0" * 64
    again["checkpoints"] = [[steps, repr(1.03 * float(loss)), "0" * 64] for steps, loss, _ in again["checkpoints"]]
    monkeypatch.setattr(module, "_trained", lambda *_task, **_within: again)
    (found,) = _replayed(changed)
    assert found.equal
    assert "within 5%, on a GPU of the same model" in found.reason
    again["checkpoints"][-1][1] = repr(1.1 * float(again["checkpoints"][-1][1]))
    (found,) = _replayed(changed)
    assert not found.equal
    assert "ANOTHER LOSS after step" in found.reason


def _leg_of(observation: Json) -> Any:
    document: Any = {"rows": [{"rowId": "a-row", "observation": observation}], "nullRows": []}
    (leg,) = module._legs(document)
    return leg, checkpoints_of(leg.end)


def test_without_checkpoints_a_leg_of_a_gpu_is_no_success(
    observation: Json, monkeypatch: pytest.MonkeyPatch, trained: Callable[..., Any]
) -> None:
    changed = _on_a_gpu(observation)
    del changed["rounds"][0]["raw"]["callback"]["checkpoints"]
    again = trained({**module._task(*_leg_of(changed)), "device": "cpu"})
    monkeypatch.setattr(module, "_trained", lambda *_task, **_within: again)
    (found,) = _replayed(changed)
    assert not found.equal
    assert "it has no checkpoints" in found.reason


def _another_seed(observation: Json) -> None:
    observation["plan"]["seed"] += 1


def _another_torch(observation: Json) -> None:
    observation["rounds"][0]["raw"]["callback"]["facts"]["torchVersion"] = "1.0"


def _other_losses(observation: Json) -> None:
    observation["rounds"][0]["raw"]["callback"]["prologue"][3] = "0.5"


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_another_seed, "initial weights"), (_another_torch, "torch"), (_other_losses, "losses of the prologue")],
)
def test_what_cannot_be_compared_is_no_success(change: Callable[[Json], None], reason: str, observation: Json) -> None:
    changed = _raw_only(observation)
    change(changed)
    (found,) = _replayed(changed)
    assert not found.equal
    assert found.reason.startswith("not comparable: ")
    assert reason in found.reason


def test_a_leg_of_a_gpu_that_is_not_here_is_not_trained_again_and_says_so(observation: Json) -> None:
    (found,) = _replayed(_on_a_gpu(observation))
    assert not found.equal
    assert "not trained again: it trained on NVIDIA H100, and" in found.reason


def test_a_model_that_is_not_here_is_no_success(observation: Json) -> None:
    changed = _raw_only(observation)
    changed["material"] |= {"workload": "lora", "modelId": "nobody/nowhere", "facts": {"revision": "0" * 40}}
    (found,) = _replayed(changed)
    assert not found.equal
    assert found.reason.startswith("not ")


def _a_directory(observation: Json, tmp_path: Path) -> None:
    observation["material"] |= {"workload": "lora", "modelId": str(tmp_path), "facts": {}}


def _above(observation: Json, _tmp_path: Path) -> None:
    observation["material"] |= {"workload": "lora", "modelId": "../../etc", "facts": {}}


def _a_giant_adapter(observation: Json, _tmp_path: Path) -> None:
    observation["material"] |= {"workload": "lora", "modelId": "nobody/nowhere", "facts": {}}
    observation["plan"]["adapter"] = {"rank": 10**9, "targets": ["q_proj"]}


def _no_steps(observation: Json, _tmp_path: Path) -> None:
    body = observation["rounds"][0]["raw"]["callback"]
    body["warmup_units"] = -sum(segment[4] for segment in body["segments"]) - body["units"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_a_directory, "a directory of its user's own"), (_above, "a directory of its user's own"), (_a_giant_adapter, "rank"),
     (_no_steps, "steps")],
)  # fmt: skip
def test_what_a_report_says_leads_to_no_path_and_to_no_row_that_cannot_be(
    change: Callable[[Json, Path], None], reason: str, observation: Json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is started for it."""
    monkeypatch.setattr(module, "_trained", lambda *_task, **_within: pytest.fail("a process was started"))
    changed = _raw_only(observation)
    change(changed, tmp_path)
    (found,) = _replayed(changed)
    assert not found.equal
    assert found.reason.startswith("not trained again: ")
    assert reason in found.reason


def test_a_leg_that_takes_far_longer_than_it_says_is_given_up(monkeypatch: pytest.MonkeyPatch, observation: Json) -> None:
    monkeypatch.setattr(module, "_trained", _really)
    monkeypatch.setattr(module, "_START_S", 0.0)
    monkeypatch.setattr(module, "_TIMES", 1e-6)
    (found,) = _replayed(_raw_only(observation))
    assert not found.equal
    assert "many times what the leg took" in found.reason


def test_which_legs_are_drawn_follows_from_what_was_signed_at_their_end(observation: Json) -> None:
    """Another exit draws another order; nobody chooses."""
    document: Any = {"rows": [{"rowId": "a-row", "observation": observation}], "nullRows": []}
    drawn = [each.drawn for each in module._legs(document)]
    changed = copy.deepcopy(document)
    changed["rows"][0]["observation"]["rounds"][0]["raw"]["exit"] += "x"
    redrawn = [each.drawn for each in module._legs(changed)]
    assert len(set(drawn)) == len(drawn) == len(redrawn)
    assert sum(one != other for one, other in zip(drawn, redrawn, strict=True)) == 1


#: By number of the row, and kind of leg.
_LIES: dict[int, dict[str, str]] = {
    0: {"protected": "one-step-skipped", "raw": "one-weight-changed"},
    1: {"protected": "one-batch-elsewhere", "raw": "every-50th-step-skipped"},
    **({2: {"protected": "bfloat16-after-the-prologue"}} if os.environ.get("SOAK") else {}),
}


@pytest.fixture(scope="module")
def lying() -> Iterator[LyingGuest]:
    """One guest for all of them."""
    with LyingGuest(lying_archive(_LIES), prepare=lambda provider: use_kept(provider, "torch")) as guest:
        yield guest


@pytest.mark.soak
@pytest.mark.parametrize("number", _LIES, ids=lambda number: " ".join(_LIES[number].values()))
def test_a_lie_that_no_finding_sees_is_seen_where_the_leg_is_trained_again(number: int, lying: LyingGuest) -> None:
    """One step, one weight, one batch: everything else is as it should be."""
    observation: Any = lying.carry_out(LyingLeg(lie="", steps=60).row, number)
    assert [(each.invariant, each.reason) for each in judge(observation) if each.finding == "broken"] == []
    found = {each.leg: each for each in _replayed(observation, count=9)}
    assert {*found} == {"protected", "raw"}
    for leg, replayed in found.items():
        assert replayed.equal is (leg not in _LIES[number]), str(replayed)
        assert replayed.equal or "the leg did not train what it reports" in replayed.reason
