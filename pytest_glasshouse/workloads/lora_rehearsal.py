"""Builds the base model and its adapter with the installed libraries and compares shapes with those in the model's files.

Runs in a process of its own, because it imports torch, before anything is rented and where this machine has the libraries. The
model is built on the meta device, without weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT
from pytest_glasshouse.workloads.lora_model import tensors_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.workloads.base import BaseModel, Material
    from pytest_glasshouse.workloads.training_config import LoraSettings, TokenizerProbe

_LIBRARIES = ("torch", "transformers", "peft")
#: Importing the libraries takes seconds, and minutes on a very busy machine.
_LIMIT_S = 600.0


class RehearsalInput(TypedDict):
    """The other process's input: the model's directory, settings and probe, and the shapes of the adapter and of its files."""

    directory: str
    lora: LoraSettings
    probe: TokenizerProbe
    initial: dict[str, list[int]]
    files: dict[str, list[int]]


def rehearse(material: Material) -> None:
    """Load the tokenizer and build model and adapter as the guest will. Raises `ConfigurationError` if that fails.

    Does nothing for a stand-in, or on a machine that lacks the libraries.
    """
    base = material.base
    if base is None or base.stand_in or any(find_spec(name) is None for name in _LIBRARIES):
        return
    with _directory_of(base) as directory:
        _rehearse(material, base, directory)


@contextlib.contextmanager
def _directory_of(base: BaseModel) -> Iterator[Path]:
    """The directory of the model's config and tokenizer."""
    if base.directory is not None:
        yield base.directory
        return
    with tempfile.TemporaryDirectory(prefix="glasshouse-model-") as made:
        for name, content in base.content.items():
            (Path(made) / name).write_bytes(content)
        yield Path(made)


def _rehearse(material: Material, base: BaseModel, directory: Path) -> None:
    try:
        request = json.dumps(request_for(material, directory))
        done = subprocess.run(
            [sys.executable, "-m", "pytest_glasshouse.workloads.lora_rehearsal"], input=request, check=False,
            capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, env={**os.environ, **GUEST_ENVIRONMENT},
        )  # fmt: skip
        wrong = (
            json.loads(done.stdout.splitlines()[-1])["wrong"]
            if done.returncode == 0
            else f"the check exited with {done.returncode}"
        )
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError, KeyError, TypeError) as error:
        wrong = f"the check gave no result ({type(error).__name__})"
    if wrong:
        raise ConfigurationError(
            f"model {base.model_id} cannot be trained with the libraries of this machine: {printable(wrong)}"
        )


def request_for(material: Material, directory: Path) -> RehearsalInput:
    """The other process's input for `material`."""
    config = json.loads(material.parts["config"])
    initial = {name: list(entry.shape) for name, entry in parse_safetensors(material.parts["initial"]).items()}
    base = material.base
    files = {} if base is None else {name: list(entry.shape) for name, entry in tensors_of(base).items()}
    return {"directory": str(directory), "lora": config["lora"], "probe": config["probe"], "initial": initial, "files": files}


def problem(request: RehearsalInput) -> str:
    """The first problem, or an empty text. Runs in the process that imports torch."""
    from transformers import AutoConfig

    from pytest_glasshouse.workloads.lora import adapted, probe_tokenizer

    directory = Path(request["directory"])
    try:
        probe_tokenizer(directory, request["probe"])
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  (the libraries raise anything)
        return _told(error)

    # Only now: importing them takes seconds.
    import torch
    from peft import get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    try:
        auto: Any = AutoModelForCausalLM  # its methods are untyped
        with torch.device("meta"):
            plain = auto.from_config(config, dtype=torch.bfloat16)
            whole = {name: list(tensor.shape) for name, tensor in plain.state_dict().items()}
            model = adapted(plain, request["lora"])
            made = {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    except Exception as error:  # noqa: BLE001  (the libraries raise anything)
        return _told(error)
    # The guest refuses these when it loads. Files saved without the head have other names and are not compared.
    if other := sorted(name for name, shape in request["files"].items() if whole.get(name, shape) != shape):
        return f"{other[0]} has shape {request['files'][other[0]]} in its files, and {whole[other[0]]} by config.json"
    odd = sorted(name for name in made.keys() | request["initial"].keys() if made.get(name) != request["initial"].get(name))
    return f"{len(odd)} adapter tensors do not match the layers in its files, first {odd[0]}" if odd else ""


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"wrong": problem(json.load(sys.stdin))}) + "\n")
