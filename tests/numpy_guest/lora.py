"""The guest's half of lora in numpy: it reads the base model and moves the adapter towards a point that the batch gives.

No model is built. The subject of such rows is how a base model reaches the guest: it is verified, read and checked again as for
the product's trainer, and the losses depend on its bytes. See `archive.py` for the rest.
"""

from __future__ import annotations

import math
import resource
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from pytest_glasshouse.wire.canonical import parse_object
from pytest_glasshouse.wire.tensors import SAMPLE_NUMBERS, digest_of_tensors, parse_safetensors, sampled_names
from pytest_glasshouse.workloads.base import PROLOGUE_STEPS, NonFiniteLossError
from pytest_glasshouse.workloads.used_batches import UsedBatches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_glasshouse.workloads.base import DeviceName, Facts, Parts

_DTYPES = {"F32": np.float32, "I64": np.int64}
_CHUNK = 1 << 20


class LoraTrainer:
    """See `Trainer`."""

    unit = "steps"

    def __init__(self, parts: Parts, *, base_dir: Path, device: DeviceName, ranks: None = None) -> None:
        assert ranks is None, "a row of several ranks needs torch"
        config: Any = parse_object(bytes(memoryview(parts["config"]).cast("B")))  # type: ignore[arg-type]
        self._device = device
        self._rate = np.float32(1000 * float(config["optimizer"]["learningRate"]))
        self._tokens = _arrays(parts["tokens"])["ids"]
        self._rows = memoryview(self._tokens).cast("B")
        self._initial = _arrays(parts["initial"])
        self._weights = {name: array.copy() for name, array in sorted(self._initial.items())}
        self._point = np.float32(_mean_of(sorted(base_dir.glob("*.safetensors"))))
        self._last, self._loss = -1, 0.0
        self.reset(0)

    def initial_sha256(self) -> str:
        return digest_of_tensors(
            (name, "F32", array.shape, memoryview(array).cast("B")) for name, array in sorted(self._initial.items())
        )

    def prologue(self, steps: int = PROLOGUE_STEPS) -> list[str]:
        self.reset(0)
        losses = []
        for _ in range(steps):
            self.step()
            losses.append(self.check())
        return losses

    def repeat_prologue(self, steps: int) -> list[str]:
        kept = {name: weight.copy() for name, weight in self._weights.items()}
        going_on = {name: self.__dict__[name] for name in ("_order", "_last", "_loss", "_finite", "_used")}
        losses = self.prologue(steps)
        for name, weight in self._weights.items():
            weight[...] = kept[name]
        self.__dict__.update(going_on)
        return losses

    def reset(self, order_seed: int) -> None:
        for name, weight in self._weights.items():
            weight[...] = self._initial[name]
        self._order, self._finite, self._used = np.random.default_rng(order_seed), True, UsedBatches()

    def step(self) -> None:
        self._last = int(self._order.integers(len(self._tokens)))
        point = self._point + np.float32(int(self._tokens[self._last, 0]) * 1e-4)
        self._loss = 0.0
        for weight in self._weights.values():
            self._loss += float(np.square(weight - point).mean())
            weight += self._rate * (point - weight)
        weight = next(iter(self._weights.values()))
        self._used.note(self._tokens[self._last : self._last + 1], weight, weight)
        self._finite = self._finite and math.isfinite(self._loss)

    def synchronize(self) -> None:
        """Nothing runs on a device."""

    def check(self) -> str:
        if not self._finite:
            raise NonFiniteLossError(f"expected finite losses; the last was {self._loss!r}")
        return repr(self._loss)

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
        size = len(self._rows) // len(self._tokens)
        return [] if self._last < 0 else [self._rows[size * self._last : size * (self._last + 1)]]

    def close(self) -> None:
        for array in self._weights.values():
            array.fill(0)
        self.__dict__ = {}

    def facts(self) -> Facts:
        trainable = sum(array.size for array in self._weights.values())
        return {
            "device": "cpu",
            "dtype": "bfloat16",
            "pythonVersion": sys.version.split()[0],
            "torchVersion": "0",
            "threads": 1,
            "trainableParameters": trainable,
            "totalParameters": trainable,
            "peakMemoryBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peakMemorySource": "ru_maxrss",
            "batchesPerUnit": {f"1x{self._tokens.shape[1]}": 1},
            "adapterDtype": "float32",
            "transformersVersion": "0",
            "peftVersion": "0",
        }


def _arrays(part: Any) -> dict[str, Any]:
    """Views into a part."""
    octets = memoryview(part).cast("B")
    return {
        name: np.frombuffer(octets[entry.start : entry.end], dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
        for name, entry in parse_safetensors(octets).items()
    }


def _mean_of(files: Sequence[Path]) -> float:
    """Of the files' bytes, between 0 and 1."""
    total = size = 0
    for file in files:
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                total, size = total + int(np.frombuffer(chunk, dtype=np.uint8).sum()), size + len(chunk)
    return total / size / 255
