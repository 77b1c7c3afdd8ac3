"""The small classifier: it learns, and every epoch is the same work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load, save

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.workloads.base import NonFiniteLossError
from pytest_glasshouse.workloads.mlp import MlpTrainer
from pytest_glasshouse.workloads.registry import prepare

pytestmark = pytest.mark.torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.workloads.base import Material

    Mapped = Callable[[Mapping[str, bytes]], dict[str, memoryview]]


class Watching(MlpTrainer):
    """Notes the shape of every batch and the samples in it."""

    def _train_on_batch(self) -> object:
        self.shapes = [*getattr(self, "shapes", []), (tuple(self._batch_features.shape), tuple(self._batch_labels.shape))]
        self.rows = [*getattr(self, "rows", []), *map(bytes, self._batch_features.numpy())]
        return super()._train_on_batch()


def test_loss_goes_down(mapped: Mapped, mlp_material: Material) -> None:
    losses = [float(loss) for loss in MlpTrainer(mapped(mlp_material.parts), device="cpu").prologue()]
    assert losses[-1] < losses[0] / 10


def test_legs_take_the_same_batch_shapes_in_another_order(mapped: Mapped, mlp_material: Material) -> None:
    seen = []
    for order_seed in (1, 2):
        trainer = Watching(mapped(mlp_material.parts), device="cpu")
        trainer.reset(order_seed)
        trainer.step()
        seen.append((trainer.shapes, trainer.rows))
    (first_shapes, first_rows), (second_shapes, second_rows) = seen
    assert first_shapes == second_shapes
    assert sorted(first_rows) == sorted(second_rows)
    assert first_rows != second_rows


def test_an_epoch_takes_every_sample_once_and_the_next_in_another_order(mapped: Mapped, mlp_material: Material) -> None:
    trainer = Watching(mapped(mlp_material.parts), device="cpu")
    trainer.step()
    trainer.step()
    first, second = trainer.rows[:1024], trainer.rows[1024:]
    assert sorted(first) == sorted(map(bytes, load(mlp_material.parts["data"])["features"]))
    assert sorted(first) == sorted(second)
    assert first != second


def test_one_poisoned_sample_is_seen_epochs_later(mapped: Mapped, mlp_material: Material) -> None:
    """The flag is kept on the device: a leg that reads it once a second must still see it."""
    data = load(mlp_material.parts["data"])
    features = data["features"].copy()
    features[17, 3] = np.inf
    trainer = MlpTrainer(mapped({**mlp_material.parts, "data": save({**data, "features": features})}), device="cpu")
    trainer.reset(3)
    for _ in range(3):
        trainer.step()
    with pytest.raises(NonFiniteLossError, match="finite"):
        trainer.check()


def test_same_seed_draws_the_same_material_and_another_seed_another(mlp_material: Material) -> None:
    assert prepare("mlp", seed=7).parts == mlp_material.parts
    other = prepare("mlp", seed=8)
    assert other.initial_sha256 != mlp_material.initial_sha256
    assert other.parts["data"] != mlp_material.parts["data"]


def test_data_of_another_size_is_refused(mapped: Mapped, mlp_material: Material) -> None:
    data = {name: tensor[:100].copy() for name, tensor in load(mlp_material.parts["data"]).items()}
    with pytest.raises(IntegrityError, match="configured sizes"):
        MlpTrainer(mapped({**mlp_material.parts, "data": save(data)}), device="cpu")
