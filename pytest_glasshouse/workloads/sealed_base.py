"""A base model that the package holds: built from memory, so that nothing of it is ever in a file of the guest.

On the CPU the model's tensors are views into the parts; on a GPU, into the parts on it. Where the files have another type of
number than the model is trained in, they are copies, which the caller must zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.package import SEALED_WEIGHTS
from pytest_glasshouse.workloads import device as devices
from pytest_glasshouse.workloads.model_files import JSON_LIMIT
from pytest_glasshouse.workloads.resident import Resident

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.workloads.base import DeviceName, Parts
    from pytest_glasshouse.workloads.training_config import TokenizerProbe


def probe_tokenizer(parts: Parts, names: Mapping[str, str], probe: TokenizerProbe) -> None:
    """Raise `IntegrityError` (`tokenizer`) unless the model's tokenizer encodes the probe as the host's did."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(_file(parts, names, "tokenizer.json"))
    if tokenizer.encode(probe["text"], add_special_tokens=False).ids != probe["ids"]:
        raise IntegrityError("tokenizer", "the base model's tokenizer gives other ids than the sealed tokens were made with")


def load(parts: Parts, names: Mapping[str, str], device: DeviceName) -> tuple[Any, list[Any]]:
    """The model in bfloat16, and those of its tensors that do not lie in the parts. `names` gives the part of each file.

    Raises `IntegrityError` (`base`) for weights that are not all of this model's.
    """
    import torch

    from pytest_glasshouse.workloads.lora import without_dropout

    config = without_dropout(_config(_file(parts, names, "config.json")))
    weights: dict[str, Any] = {}
    for part in sorted(set(names.values())):
        if part.startswith(SEALED_WEIGHTS):
            weights |= devices.tensors_in(devices.part(parts, part), device)
    lie_in_parts = {tensor.untyped_storage().data_ptr() for tensor in weights.values()}
    model, found = _class_of(config).from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.bfloat16, output_loading_info=True,
        device_map={"": device} if device == "cuda" else None,
    )  # fmt: skip
    if missing := sorted(found["missing_keys"]):
        # The library would draw them at random.
        raise IntegrityError("base", f"the package has no weights for {len(missing)} of the model's tensors, first {missing[0]}")
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copies = [each for each in tensors.values() if each.untyped_storage().data_ptr() not in lie_in_parts]
    return model, copies


def wipeable(parts: Parts, names: Mapping[str, str]) -> bool:
    """Whether the model's tensors may be zeroed before the caller wipes the parts: nothing writes into read-only memory."""
    weights = [parts[part] for part in names.values() if part.startswith(SEALED_WEIGHTS)]
    return all(isinstance(each, Resident) or not memoryview(each).readonly for each in weights)


def _config(content: bytes) -> Any:
    from transformers import CONFIG_MAPPING

    given: Any = parse_tolerant(content, limit=JSON_LIMIT)
    kind = given.get("model_type") if isinstance(given, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise IntegrityError("base", "config.json names no type of model that the installed libraries know")
    return CONFIG_MAPPING[kind].from_dict(given)


def _class_of(config: Any) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not isinstance(found, tuple):
        return found
    by_name = {each.__name__: each for each in found}
    return next((by_name[name] for name in config.architectures or () if name in by_name), found[0])


def _file(parts: Parts, names: Mapping[str, str], name: str) -> bytes:
    if name not in names:
        raise IntegrityError("parts", f"expected the part that holds {name}; saw none")
    return bytes(devices.part(parts, names[name]))
