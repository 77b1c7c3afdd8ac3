"""The guest's half of lora: a causal LM in bfloat16 and a LoRA adapter, one packed sequence per step.

The loss is computed from the logits and a view of the token ids, because a model called with `labels=` leaves copies of the last
batch in freed memory.
"""

from __future__ import annotations

import gc
import itertools
import warnings
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.workloads import cuda, sealed_base
from pytest_glasshouse.workloads import device as devices
from pytest_glasshouse.workloads.base import PROLOGUE_STEPS, NonFiniteLossError
from pytest_glasshouse.workloads.training_config import LoraConfig
from pytest_glasshouse.workloads.used_batches import UsedBatches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.base import DeviceName, Facts, Parts
    from pytest_glasshouse.workloads.data_parallel import DataParallel
    from pytest_glasshouse.workloads.training_config import LoraSettings, TokenizerProbe

_PROLOGUE_ORDER = 0
#: What a training goes on from, beside its adapter.
_GOES_ON = ("_optimizer", "_order", "_loss", "_all_finite", "_used", "_last")


class LoraTrainer:
    """Trains an adapter on the model in `base_dir`, or one that the parts hold; see `Trainer` for what each method promises.

    The caller must have verified `base_dir` (`VerifiedBase`), and must check it again after loading and after training.
    Of several `ranks`, each trains a sequence of its own in every step: a step is as many sequences.
    """

    unit = "steps"

    def __init__(self, parts: Parts, *, base_dir: Path | None, device: DeviceName, ranks: DataParallel | None = None) -> None:
        devices.set_threads(device)
        config = devices.read_config(parts, LoraConfig, workload="lora")
        self._device = device
        self._ranks = ranks
        self._owns_parts = devices.on_device(parts, device)
        self._learning_rate = float(config["optimizer"]["learningRate"])
        self._clip_norm = float(config["optimizer"]["clipNorm"])
        self._tokens = _tokens(devices.tensors_in(devices.part(parts, "tokens"), device), config["sequenceTokens"])
        self._rows = devices.rows_in(devices.part(parts, "tokens"), "ids")
        self._last: int | None = None
        base, self._copied = _load_base(parts, config, base_dir, device)
        sealed = config["base"].get("parts")
        self._base = list(base.parameters()) if sealed is not None and sealed_base.wipeable(parts, sealed) else []
        self._model = adapted(base, config["lora"])
        if int(self._tokens.min()) < 0 or int(self._tokens.max()) >= self._model.config.vocab_size:
            # On a GPU an index out of range would abort the process without a reason.
            raise IntegrityError("parts", "tokens: ids that the base model's vocabulary does not have")
        self._initial = devices.tensors_in(devices.part(parts, "initial"), device)
        self._adapter = _load_adapter(self._model, self._initial)
        self._parameters = list(self._adapter.values())
        self._optimizer: Any = None
        self._initial_sha256 = devices.digest(self._adapter)
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

        kept = [parameter.detach().clone() for parameter in self._parameters]
        going_on = {name: self.__dict__[name] for name in _GOES_ON}
        self._optimizer = None  # a reset would zero its state
        try:
            return self.prologue(steps)
        finally:
            if self._optimizer is not None:
                devices.zero(devices.optimizer_tensors(self._optimizer))
            with torch.no_grad():
                for parameter, before in zip(self._parameters, kept, strict=True):
                    parameter.copy_(before)
            devices.zero(kept)
            self.__dict__.update(going_on)

    def reset(self, order_seed: int) -> None:
        import torch

        if self._optimizer is not None:
            devices.zero(devices.optimizer_tensors(self._optimizer))
        with torch.no_grad():
            for name, parameter in self._adapter.items():
                parameter.copy_(self._initial[name])
                parameter.grad = None
        self._optimizer = torch.optim.AdamW(self._parameters, lr=self._learning_rate, fused=True)
        order = self._sequences(order_seed)
        self._order = order if self._ranks is None else itertools.islice(order, self._ranks.rank, None, self._ranks.size)
        self._used = UsedBatches()
        self._loss = torch.zeros((), device=self._device)
        self._all_finite = torch.ones((), dtype=torch.bool, device=self._device)

    def _sequences(self, order_seed: int) -> Iterator[int]:
        """Every sequence once per pass, each pass in a new order; drawn on the host, so that indexing does not synchronise."""
        import torch

        generator = torch.Generator().manual_seed(order_seed)
        while True:
            yield from torch.randperm(len(self._tokens), generator=generator).tolist()

    def step(self) -> None:
        self._last = next(self._order)
        self._train_on(self._tokens[self._last])

    def _train_on(self, ids: Any) -> None:
        import torch

        # Before the forward pass: what it keeps for the backward pass needs the room that the last gradients had.
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss_of(ids)
        loss.backward()
        if self._ranks is not None:
            self._ranks.average([parameter.grad for parameter in self._parameters])
        torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()
        self._loss = loss.detach()
        self._all_finite &= torch.isfinite(self._loss)

    def _loss_of(self, ids: Any) -> Any:
        import torch

        logits = self._model(input_ids=ids.unsqueeze(0), use_cache=False).logits  # [1, tokens, vocabulary]
        self._used.note(ids.unsqueeze(0), self._parameters[0], logits)
        # Each position predicts the next; float32, because a log-sum-exp over a vocabulary is too coarse in bfloat16.
        return torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[1:])

    def synchronize(self) -> None:
        devices.synchronize(self._device)

    def check(self) -> str:
        loss = float(self._loss)
        if not bool(self._all_finite):
            raise NonFiniteLossError(f"expected finite losses; the last was {loss!r}")
        return repr(loss)

    def sample_sha256(self) -> str:
        return devices.sample_digest(self._adapter)

    def batches(self) -> dict[str, Json]:
        return self._used.to_json()

    def export(self) -> bytes:
        from safetensors.torch import save

        return save({name: parameter.detach().cpu().contiguous() for name, parameter in self._adapter.items()})

    def last_batch(self) -> list[memoryview]:
        return [] if self._last is None else [self._rows[self._last]]

    def close(self) -> None:
        import torch

        # The model's own weights first, where they are secret: the pass would leave rows of its embedding behind.
        devices.zero([*self._parameters, *self._base])
        if self._device == "cpu":
            # A pass over zeros overwrites the ids, activations and gradients that the last batch left in freed memory; on a GPU
            # `release` zeroes that, which needs no more memory.
            self._ranks = None  # this pass is this rank's own
            self._train_on(torch.zeros_like(self._tokens[0]))
        devices.zero(devices.optimizer_tensors(self._optimizer))
        devices.zero(parameter.grad for parameter in self._parameters)
        devices.zero([*self._parameters, *self._copied, self._loss])
        if self._owns_parts:
            devices.zero([self._tokens, *self._initial.values()])
        self.synchronize()
        self.__dict__ = {"_device": self._device}
        gc.collect()
        devices.release(self._device)

    def facts(self) -> Facts:
        trainable, total = _counted(self._model)
        facts = devices.facts_of(self._device, trainable=trainable, total=total, dtype="bfloat16")
        return {
            **facts,
            "batchesPerUnit": {f"1x{self._tokens.shape[1]}": 1},
            "adapterDtype": str(self._parameters[0].dtype).removeprefix("torch."),
            **_versions(),
        }


def _tokens(tensors: Mapping[str, torch.Tensor], sequence_tokens: int) -> torch.Tensor:
    ids = tensors.get("ids")
    if ids is None or ids.dim() != 2 or ids.shape[1] != sequence_tokens or str(ids.dtype) != "torch.int64":  # noqa: PLR2004
        raise IntegrityError("parts", f"tokens: expected ids of shape [sequences, {sequence_tokens}] in int64")
    return ids


def probe_tokenizer(base_dir: Path, probe: TokenizerProbe) -> None:
    """Raise `IntegrityError` (`tokenizer`) unless the base model's tokenizer encodes the probe as the host's did."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_dir, local_files_only=True)
    if tokenizer(probe["text"], add_special_tokens=False)["input_ids"] != probe["ids"]:
        raise IntegrityError("tokenizer", "the base model's tokenizer gives other ids than the sealed tokens were made with")


def _load_base(parts: Parts, config: LoraConfig, base_dir: Path | None, device: DeviceName) -> tuple[Any, list[Any]]:
    """The base model, with those of its tensors that are copies of what the parts hold."""
    sealed = config["base"].get("parts")
    if (sealed is None) == (base_dir is None):
        raise IntegrityError("parts", "expected a base model either in the package or in a directory")
    if sealed is not None:
        sealed_base.probe_tokenizer(parts, sealed, config["probe"])
        return sealed_base.load(parts, sealed, device)
    assert base_dir is not None  # noqa: S101  (for the type checker)
    probe_tokenizer(base_dir, config["probe"])
    return _load_directory(base_dir, device), []


def _load_directory(base_dir: Path, device: DeviceName) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = without_dropout(AutoConfig.from_pretrained(base_dir, local_files_only=True, trust_remote_code=False))
    # On a GPU each tensor goes to the device as it is read, so that no whole copy is in host memory.
    where: dict[str, Any] = {"device_map": {"": device}} if device == "cuda" else {}
    model: Any = AutoModelForCausalLM.from_pretrained(
        base_dir,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.bfloat16,
        **where,
    )
    return model


def without_dropout(config: Any) -> Any:
    """`config`, with every dropout set to 0."""
    for name, value in config.to_dict().items():
        # Dropout is drawn anew in each process: two legs of the same work would have different losses.
        if isinstance(value, float) and name.endswith(("dropout", "pdrop", "layerdrop", "dropout_p")):
            setattr(config, name, 0.0)
    return config


def adapted(model: Any, lora: LoraSettings) -> Any:
    """`model` with an adapter on it, ready to train."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets = set(lora["targets"])
    settings = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=list(lora["targets"]),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        # Whether weights are stored as [inputs, outputs], as GPT-2's are.
        fan_in_fan_out=any(
            isinstance(part, Conv1D) and name.rpartition(".")[2] in targets for name, part in model.named_modules()
        ),
    )
    with warnings.catch_warnings():
        # peft asks the model for a property that transformers has since renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = get_peft_model(model, settings)
    return adapted.train()


def _load_adapter(model: Any, initial: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Load the initial adapter. Returns the model's parameters by peft's names; all of them must be in `initial`."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    # Embeddings are never adapted; to find out whether they were resized, peft would look for the model in files and at the hub.
    names = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if names != set(initial):
        odd = sorted(names ^ set(initial))
        raise IntegrityError("parts", f"initial: {len(odd)} adapter tensors do not match the model's, first {odd[0]}")
    try:
        loaded: Any = set_peft_model_state_dict(model, dict(initial))
    except RuntimeError as error:  # a shape that does not fit
        if cuda.is_out_of_memory(error):
            raise
        raise IntegrityError("parts", f"initial: {str(error).splitlines()[-1].strip()}") from None
    if loaded.unexpected_keys:
        raise IntegrityError("parts", f"initial: not used: {loaded.unexpected_keys[0]}")
    parameters = dict(model.named_parameters())
    adapter = {name: parameters[name.replace(".weight", ".default.weight")] for name in sorted(names)}
    if {id(parameter) for parameter in adapter.values()} != {id(p) for p in model.parameters() if p.requires_grad}:
        raise IntegrityError("parts", "initial: the model trains other tensors than the adapter's")
    return adapter


def _counted(model: Any) -> tuple[int, int]:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _versions() -> Facts:
    import peft
    import transformers

    return {"transformersVersion": transformers.__version__, "peftVersion": peft.__version__}
