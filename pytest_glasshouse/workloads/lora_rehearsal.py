"""Whether the libraries make of a base model what the heads of its files promised: in a process of its own, for it brings torch.

Asked before anything is rented, where this machine has them. No weights are made: the model is built on the meta device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT
from pytest_glasshouse.workloads.lora_model import tensors_of

if TYPE_CHECKING:
    from pytest_glasshouse.workloads.base import Material

_LIBRARIES = ("torch", "transformers", "peft")
#: Importing the libraries takes seconds, and minutes on a machine that is busy enough.
_LIMIT_S = 600.0


def rehearse(material: Material) -> None:
    """Load the tokenizer and build model and adapter as the guest will. Raises `ConfigurationError` for another outcome.

    A stand-in, and a machine that lacks the libraries, is not asked.
    """
    base = material.base
    if base is None or base.directory is None or any(find_spec(name) is None for name in _LIBRARIES):
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_glasshouse.workloads.lora_rehearsal"], input=json.dumps(question(material)),
            check=False, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S,
            env={**os.environ, **GUEST_ENVIRONMENT},
        )  # fmt: skip
        wrong = json.loads(done.stdout.splitlines()[-1])["wrong"] if done.returncode == 0 else f"it ended with {done.returncode}"
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError, KeyError, TypeError) as error:
        wrong = f"it did not say ({type(error).__name__})"
    if wrong:
        raise ConfigurationError(
            f"model {base.model_id} cannot be trained with the libraries of this machine: {printable(wrong)}"
        )


def question(material: Material) -> dict[str, Any]:
    """What the other process is asked: a directory, an adapter's settings and shapes, and a sentence with its ids."""
    config = json.loads(material.parts["config"])
    initial = {name: list(entry.shape) for name, entry in parse_safetensors(material.parts["initial"]).items()}
    base = material.base
    files = {} if base is None else {name: list(entry.shape) for name, entry in tensors_of(base).items()}
    directory = "" if base is None else str(base.directory)
    return {"directory": directory, "lora": config["lora"], "probe": config["probe"], "initial": initial, "files": files}


def outcome(asked: dict[str, Any]) -> str:
    """What is wrong, in the process that has torch; empty for nothing."""
    from pathlib import Path

    import torch
    from peft import get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    from pytest_glasshouse.workloads.lora import adapted, probe_tokenizer

    directory = Path(asked["directory"])
    try:
        probe_tokenizer(directory, asked["probe"])
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        auto: Any = AutoModelForCausalLM  # its methods are untyped
        with torch.device("meta"):
            plain = auto.from_config(config, dtype=torch.bfloat16)
            whole = {name: list(tensor.shape) for name, tensor in plain.state_dict().items()}
            model = adapted(plain, asked["lora"])
            made = {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    except Exception as error:  # noqa: BLE001  (whatever the libraries say of it)
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    # Loading refuses these on the guest; files saved without the head have other names, and are not compared.
    if other := sorted(name for name, shape in asked["files"].items() if whole.get(name, shape) != shape):
        return f"{other[0]} has shape {asked['files'][other[0]]} in its files, and {whole[other[0]]} by config.json"
    odd = sorted(name for name in made.keys() | asked["initial"].keys() if made.get(name) != asked["initial"].get(name))
    return f"{len(odd)} adapter tensors are others than its files have layers for, first {odd[0]}" if odd else ""


if __name__ == "__main__":
    told = outcome(json.load(sys.stdin))
    sys.stdout.write(json.dumps({"wrong": told}) + "\n")
