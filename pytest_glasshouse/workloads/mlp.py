"""The guest's half of mlp: a small classifier whose unit is one epoch of shuffled mini-batches.

Everything an epoch needs is created on the device, so that on a GPU the host only launches kernels.
"""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.workloads import device as devices
from pytest_glasshouse.workloads.base import PROLOGUE_STEPS, NonFiniteLossError
from pytest_glasshouse.workloads.mlp_material import layer_sizes
from pytest_glasshouse.workloads.training_config import MlpConfig
from pytest_glasshouse.workloads.used_batches import UsedBatches

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.base import DeviceName, Facts, Parts
    from pytest_glasshouse.workloads.data_parallel import DataParallel

_PROLOGUE_ORDER = 0
#: What a training goes on from, beside its weights and their momentum.
_GOES_ON = ("_order", "_epoch_loss", "_all_finite", "_used", "_chosen")


class MlpTrainer:
    """Trains on views of the parts; see `Trainer` for what each method promises.

    Of several `ranks`, each trains its share of every mini-batch: together they train what one would.
    """

    unit = "epochs"

    def __init__(self, parts: Parts, *, device: DeviceName, ranks: DataParallel | None = None) -> None:
        import torch

        devices.set_threads(device)
        config = devices.read_config(parts, MlpConfig, workload="mlp")
        self._device = device
        self._ranks = ranks
        self._owns_parts = devices.on_device(parts, device)
        self._sizes = config["sizes"]
        self._learning_rate = float(config["optimizer"]["learningRate"])
        self._momentum_factor = float(config["optimizer"]["momentum"])
        self._weight_decay = float(config["optimizer"]["weightDecay"])
        data = devices.tensors_in(devices.part(parts, "data"), device)
        self._rows = devices.rows_in(devices.part(parts, "data"), "features")
        self._chosen: Any = ()
        self._features, self._labels = data["features"], data["labels"]  # [samples, features], [samples]
        self._initial = devices.tensors_in(devices.part(parts, "initial"), device)
        self._expect_shapes()
        self._weights = {name: tensor.clone().requires_grad_() for name, tensor in self._initial.items()}
        self._layers = [
            (self._weights[f"layers.{n}.weight"], self._weights[f"layers.{n}.bias"]) for n in range(len(layer_sizes(self._sizes)))
        ]
        batch = self._sizes["batch"]
        self._share = (0, batch) if ranks is None else ranks.share_of(batch)
        size = self._share[1] - self._share[0]
        if size * (1 if ranks is None else ranks.size) != batch:
            raise IntegrityError("parts", f"config: {batch} samples of a batch cannot be shared out evenly")
        # Every batch is gathered into the same two buffers, so that no data is left in freed memory.
        self._batch_features = torch.empty((size, self._sizes["features"]), device=device)
        self._batch_labels = torch.empty(size, dtype=torch.int64, device=device)
        self._momentum = [torch.zeros_like(weight) for weight in self._weights.values()]
        self._initial_sha256 = devices.digest(self._weights)
        self.reset(_PROLOGUE_ORDER)

    def initial_sha256(self) -> str:
        return self._initial_sha256

    def prologue(self, steps: int = PROLOGUE_STEPS) -> list[str]:
        self.reset(_PROLOGUE_ORDER)
        losses = []
        for _ in range(steps):
            self.step()
            losses.append(self.check())
        return losses

    def repeat_prologue(self, steps: int) -> list[str]:
        import torch

        tensors = [*self._weights.values(), *self._momentum]
        kept = [tensor.detach().clone() for tensor in tensors]
        going_on = {name: self.__dict__[name] for name in _GOES_ON}
        try:
            return self.prologue(steps)
        finally:
            with torch.no_grad():
                for tensor, before in zip(tensors, kept, strict=True):
                    tensor.copy_(before)
            devices.zero(kept)
            self.__dict__.update(going_on)

    def reset(self, order_seed: int) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(self._initial[name])
        devices.zero(self._momentum)
        self._order = devices.generator(self._device).manual_seed(order_seed)
        self._used = UsedBatches()
        self._epoch_loss = torch.zeros((), device=self._device)
        self._all_finite = torch.ones((), dtype=torch.bool, device=self._device)

    def step(self) -> None:
        import torch

        samples, batch = self._sizes["samples"], self._sizes["batch"]
        order = torch.randperm(samples, generator=self._order, device=self._device)
        self._epoch_loss.zero_()
        for start in range(0, samples, batch):
            chosen = order[start + self._share[0] : start + self._share[1]]
            self._chosen = chosen
            torch.index_select(self._features, 0, chosen, out=self._batch_features)
            torch.index_select(self._labels, 0, chosen, out=self._batch_labels)
            self._epoch_loss += self._train_on_batch()
        # One flag per epoch: a NaN or infinite batch makes the sum NaN or infinite. It stays on the device until it is read.
        self._all_finite &= torch.isfinite(self._epoch_loss)

    def _train_on_batch(self) -> Any:
        import torch
        from torch.nn import functional

        hidden = self._batch_features  # [batch, features]
        for weight, bias in self._layers[:-1]:
            hidden = functional.relu(functional.linear(hidden, weight, bias))  # [batch, hidden]
        logits = functional.linear(hidden, *self._layers[-1])  # [batch, classes]
        loss = functional.cross_entropy(logits, self._batch_labels)
        self._used.note(self._batch_features, self._layers[0][0], logits)
        weights = list(self._weights.values())
        gradients = list(torch.autograd.grad(loss, weights))
        if self._ranks is not None:
            self._ranks.average(gradients)
        # SGD by hand: constructing a torch.optim optimizer imports the compiler, which costs a leg a second of start-up.
        with torch.no_grad():
            torch._foreach_add_(gradients, weights, alpha=self._weight_decay)
            torch._foreach_mul_(self._momentum, self._momentum_factor)
            torch._foreach_add_(self._momentum, gradients)
            torch._foreach_add_(weights, self._momentum, alpha=-self._learning_rate)
        return loss.detach()

    def synchronize(self) -> None:
        devices.synchronize(self._device)

    def check(self) -> str:
        loss = float(self._epoch_loss) * self._sizes["batch"] / self._sizes["samples"]
        if not bool(self._all_finite):
            raise NonFiniteLossError(f"expected finite losses; the last was {loss!r}")
        return repr(loss)

    def sample_sha256(self) -> str:
        return devices.sample_digest(self._weights)

    def batches(self) -> dict[str, Json]:
        return self._used.to_json()

    def export(self) -> bytes:
        from safetensors.torch import save

        return save({name: weight.detach().cpu() for name, weight in self._weights.items()})

    def last_batch(self) -> list[memoryview]:
        return [self._rows[int(index)] for index in self._chosen]

    def close(self) -> None:
        tensors = [*self._momentum, *self._weights.values(), self._epoch_loss, self._batch_features, self._batch_labels]
        devices.zero(tensors)
        if self._device == "cpu":
            # A pass over zeros with weights of zero overwrites the activations and gradients left in freed memory; on a GPU
            # `release` zeroes that, which needs no more memory.
            self._ranks = None  # this pass is this rank's own
            self._train_on_batch()
            devices.zero(tensors)
        if self._owns_parts:
            devices.zero([self._features, self._labels, *self._initial.values()])
        self.synchronize()
        self.__dict__ = {"_device": self._device}
        gc.collect()
        devices.release(self._device)

    def facts(self) -> Facts:
        trainable = sum(math.prod(weight.shape) for weight in self._weights.values())
        facts = devices.facts_of(self._device, trainable=trainable, total=trainable, dtype="float32")
        # The batches of one unit by shape; every epoch has the same.
        batches, rest = divmod(self._sizes["samples"], self._sizes["batch"])
        shape = f"{len(self._batch_labels)}x{self._sizes['features']}"
        return {**facts, "batchesPerUnit": {shape: batches + (rest > 0)}}

    def _expect_shapes(self) -> None:
        sizes = self._sizes
        expected: dict[str, tuple[int, ...]] = {}
        for number, (inputs, outputs) in enumerate(layer_sizes(sizes)):
            expected |= {f"layers.{number}.weight": (outputs, inputs), f"layers.{number}.bias": (outputs,)}
        seen = {name: tuple(tensor.shape) for name, tensor in self._initial.items()}
        if seen != expected:
            raise IntegrityError("parts", f"initial: expected {expected}; saw {seen}")
        if self._features.shape != (sizes["samples"], sizes["features"]) or self._labels.shape != (sizes["samples"],):
            raise IntegrityError("parts", "data: features and labels do not have the configured sizes")
