"""The guest's half of mlp in numpy: it trains the same model on the same parts. See `archive.py` for what it is for."""

from __future__ import annotations

import math
import resource
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.random
import safetensors.numpy

from pytest_glasshouse.wire.canonical import parse_object
from pytest_glasshouse.wire.tensors import SAMPLE_NUMBERS, digest_of_tensors, parse_safetensors, sampled_names
from pytest_glasshouse.workloads.base import PROLOGUE_STEPS, NonFiniteLossError
from pytest_glasshouse.workloads.used_batches import UsedBatches

if TYPE_CHECKING:
    from pytest_glasshouse.workloads.base import DeviceName, Facts, Parts

_DTYPES = {"F32": np.float32, "I64": np.int64}
_NAMES = {np.dtype(np.float32): "F32"}


def _arrays(part: Any) -> dict[str, Any]:
    """Views into a part."""
    octets = memoryview(part).cast("B")
    return {
        name: np.frombuffer(octets[entry.start : entry.end], dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
        for name, entry in parse_safetensors(octets).items()
    }


class MlpTrainer:
    """See `Trainer`."""

    unit = "epochs"

    def __init__(self, parts: Parts, *, device: DeviceName, ranks: Any = None) -> None:
        config: Any = parse_object(bytes(memoryview(parts["config"]).cast("B")))  # type: ignore[arg-type]
        self._device = device
        self._ranks = ranks
        self._sizes, self._optimizer = config["sizes"], config["optimizer"]
        self._learning_rate = float(self._optimizer["learningRate"])
        data = _arrays(parts["data"])
        self._features, self._labels = data["features"], data["labels"]
        octets = memoryview(parts["data"]).cast("B")  # type: ignore[arg-type]
        entry = parse_safetensors(octets)["features"]
        self._rows = octets[entry.start : entry.end]
        self._initial = _arrays(parts["initial"])
        self._weights = {name: array.copy() for name, array in self._initial.items()}
        self._momentum = {name: np.zeros_like(array) for name, array in self._initial.items()}
        self._chosen: Any = ()
        self._epoch: Any = ()
        # Every batch is gathered into the same two buffers, so that no data is left in freed memory.
        self._share = (0, self._sizes["batch"]) if ranks is None else ranks.share_of(self._sizes["batch"])
        self._batch = np.empty((self._share[1] - self._share[0], self._sizes["features"]), dtype=np.float32)
        self._batch_labels = np.empty(len(self._batch), dtype=np.int64)
        self._initial_sha256 = self._digest()
        self.reset(0)

    def _digest(self) -> str:
        return digest_of_tensors(
            (name, _NAMES[array.dtype], array.shape, memoryview(array).cast("B")) for name, array in sorted(self._weights.items())
        )

    def initial_sha256(self) -> str:
        return self._initial_sha256

    def prologue(self, steps: int = PROLOGUE_STEPS) -> list[str]:
        """Each step is one batch of an epoch: a row compares losses, and how many there are for each is not its subject."""
        self.reset(0)
        losses = []
        for _ in range(steps):
            self._begin_epoch()
            self._train_from(0)
            losses.append(self.check())
        return losses

    def repeat_prologue(self, steps: int) -> list[str]:
        arrays = [*self._weights.values(), *self._momentum.values()]
        kept = [array.copy() for array in arrays]
        going_on = {name: self.__dict__[name] for name in ("_order", "_loss", "_finite", "_used", "_chosen", "_epoch")}
        losses = self.prologue(steps)
        for array, before in zip(arrays, kept, strict=True):
            array[...] = before
            before.fill(0)
        self.__dict__.update(going_on)
        return losses

    def reset(self, order_seed: int) -> None:
        for name, weight in self._weights.items():
            weight[...] = self._initial[name]
            self._momentum[name][...] = 0
        self._order = np.random.default_rng(order_seed)
        self._loss, self._finite, self._used = 0.0, True, UsedBatches()

    def step(self) -> None:
        self._begin_epoch()
        for start in range(0, self._sizes["samples"], self._sizes["batch"]):
            self._train_from(start)

    def _begin_epoch(self) -> None:
        self._epoch, self._loss = self._order.permutation(self._sizes["samples"]), 0.0

    def _train_from(self, start: int) -> None:
        """Train on the batch of this epoch that begins there."""
        self._chosen = self._epoch[start + self._share[0] : start + self._share[1]]
        np.take(self._features, self._chosen, axis=0, out=self._batch, mode="clip")
        np.take(self._labels, self._chosen, out=self._batch_labels, mode="clip")
        self._loss += self._train_on(self._batch, self._batch_labels)
        self._finite = self._finite and math.isfinite(self._loss)

    def _train_on(self, features: Any, labels: Any) -> float:
        layers = len(self._weights) // 2
        activations = [features]
        for n in range(layers):
            output = activations[-1] @ self._weights[f"layers.{n}.weight"].T + self._weights[f"layers.{n}.bias"]
            activations.append(output if n == layers - 1 else np.maximum(output, 0))
        logits = activations[-1] - activations[-1].max(axis=1, keepdims=True)
        self._used.note(features, self._weights["layers.0.weight"], logits)
        odds = np.exp(logits)
        odds /= odds.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = float(-np.log(np.maximum(odds[rows, labels], 1e-30)).mean())
        gradient = odds
        gradient[rows, labels] -= 1
        gradient /= len(labels)
        gradients: dict[str, Any] = {}
        for n in reversed(range(layers)):
            weight = self._weights[f"layers.{n}.weight"]
            below = gradient @ weight
            gradients |= {f"layers.{n}.weight": gradient.T @ activations[n], f"layers.{n}.bias": gradient.sum(axis=0)}
            gradient = below * (activations[n] > 0)
        if self._ranks is not None:
            self._ranks.average([*gradients.values()])
        for name, found in gradients.items():
            self._update(name, found)
        return loss

    def _update(self, name: str, gradient: Any) -> None:
        settings, weight, momentum = self._optimizer, self._weights[name], self._momentum[name]
        momentum *= float(settings["momentum"])
        momentum += gradient + float(settings["weightDecay"]) * weight
        weight -= np.float32(self._learning_rate) * momentum

    def synchronize(self) -> None:
        """Nothing runs on a device."""

    def check(self) -> str:
        loss = self._loss * self._sizes["batch"] / self._sizes["samples"]
        if not self._finite:
            raise NonFiniteLossError(f"expected finite losses; the last was {loss!r}")
        return repr(loss)

    def sample_sha256(self) -> str:
        return digest_of_tensors(
            (name, "F32", (SAMPLE_NUMBERS,), memoryview(self._weights[name].reshape(-1)[:SAMPLE_NUMBERS]).cast("B"))
            for name in sampled_names(self._weights)
        )

    def batches(self) -> dict[str, Any]:
        return self._used.to_json()

    def export(self) -> bytes:
        return safetensors.numpy.save(self._weights)

    def last_batch(self) -> list[memoryview]:
        size = len(self._rows) // self._sizes["samples"]
        return [self._rows[size * int(index) : size * (int(index) + 1)] for index in self._chosen]

    def close(self) -> None:
        arrays = (*self._weights.values(), *self._momentum.values(), self._batch, self._batch_labels)
        for array in arrays:
            array.fill(0)
        # The matrix library packs its operands into buffers that it keeps: a pass over zeros overwrites them.
        self._ranks = None
        self._train_on(self._batch, self._batch_labels)
        for array in arrays:
            array.fill(0)
        self.__dict__ = {}

    def facts(self) -> Facts:
        trainable = sum(array.size for array in self._weights.values())
        batches, rest = divmod(self._sizes["samples"], self._sizes["batch"])
        return {
            "device": "cpu",
            "dtype": "float32",
            "pythonVersion": sys.version.split()[0],
            "torchVersion": "0",
            "threads": 1,
            "trainableParameters": trainable,
            "totalParameters": trainable,
            "peakMemoryBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peakMemorySource": "ru_maxrss",
            "batchesPerUnit": {f"{len(self._batch)}x{self._sizes['features']}": batches + (rest > 0)},
        }
