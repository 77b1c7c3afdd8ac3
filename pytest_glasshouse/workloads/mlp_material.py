"""The host's half of mlp: sizes, data and initial weights, drawn with numpy from a recorded seed."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.tensors import tensor_digest
from pytest_glasshouse.workloads.base import Material

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from pytest_glasshouse.workloads.training_config import MlpConfig, SgdSettings

SIZES: dict[str, int] = {
    "samples": 1024,
    "features": 32,
    "hidden": 256,
    "hiddenLayers": 2,
    "classes": 16,
    "batch": 256,
}

#: Weight decay keeps the weights, and so the loss, bounded in an hour of training.
OPTIMIZER: SgdSettings = {
    "name": "sgd",
    "learningRate": "0.05",
    "momentum": "0.9",
    "weightDecay": "0.0005",
}


def prepare(*, seed: int) -> Material:
    """Inputs, their labels by a random teacher, and the initial weights of the student."""
    import numpy as np
    from safetensors.numpy import save

    rng = np.random.default_rng([seed, 0x6D6C70])
    config: MlpConfig = {"workload": "mlp", "unit": "epochs", "seed": seed, "sizes": SIZES, "optimizer": OPTIMIZER}
    features = rng.standard_normal((SIZES["samples"], SIZES["features"]), dtype=np.float32)
    teacher = rng.standard_normal((SIZES["features"], SIZES["classes"]), dtype=np.float32)
    labels = (np.tanh(features) @ teacher).argmax(axis=1).astype(np.int64)
    initial = save(_initial_weights(rng))
    parts = {"config": canonical(config), "data": save({"features": features, "labels": labels}), "initial": initial}
    return Material(parts=parts, initial_sha256=tensor_digest(initial), base=None, facts={"seed": seed, **SIZES})


def mean_loss(data: Mapping[str, Any], weights: Mapping[str, Any]) -> float:
    """The mean cross-entropy of `weights` over all samples of `data`: [samples, features] and [samples]."""
    import numpy as np

    hidden, labels = data["features"], data["labels"]
    layers = len(weights) // 2
    for number in range(layers):
        hidden = hidden @ weights[f"layers.{number}.weight"].T + weights[f"layers.{number}.bias"]
        if number < layers - 1:
            hidden = np.maximum(hidden, 0)
    logits = hidden - hidden.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(labels)), labels]
    return float((np.log(np.exp(logits).sum(axis=1)) - chosen).mean())


def layer_sizes(sizes: dict[str, int]) -> list[tuple[int, int]]:
    """(inputs, outputs) of every layer."""
    widths = [sizes["features"], *[sizes["hidden"]] * sizes["hiddenLayers"], sizes["classes"]]
    return list(itertools.pairwise(widths))


def _initial_weights(rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    weights: dict[str, np.ndarray[Any, Any]] = {}
    for number, (inputs, outputs) in enumerate(layer_sizes(SIZES)):
        # He initialisation: the variance of the activations survives a ReLU.
        weights[f"layers.{number}.weight"] = rng.normal(0.0, (2.0 / inputs) ** 0.5, (outputs, inputs)).astype(np.float32)
        weights[f"layers.{number}.bias"] = np.zeros(outputs, dtype=np.float32)
    return weights
