"""How the base model of a lora row reaches a rented guest, which has a disk of its own.

The guests train with numpy (`numpy_guest/lora.py`); in soak the same rows train with torch, transformers and peft.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_glasshouse.workloads.registry import prepare
from tests.live.conftest import ROWS, Rental
from tests.loopback.pod_disk import Volume

#: No hub and no cache has it.
NOWHERE = "Nobody/Stand-In-0.5B-Nowhere"
#: The rows of a project by their names: a model that the host makes and sends, and one in a directory of the project.
MODELS = {"sent": NOWHERE, "directory": "models/mine"}
LORA_ROWS = ROWS.replace('workload="mlp"', f'workload="lora", model={{{MODELS!r}}}[name]')
GUESTS = ["runpod-rest", *(["runpod-rest-torch"] if os.environ.get("SOAK") else [])]


class NoModelThereError(Exception):
    """The guest looked for the model on its own disk, at the host's path."""


@pytest.fixture
def model(rental: Rental) -> Path:
    """The directory of the project's model, on this machine."""
    base = prepare("lora", seed=1, model=NOWHERE).base
    assert base is not None
    folder = rental.folder / MODELS["directory"]
    folder.mkdir(parents=True)
    for name, content in base.files.items():
        (folder / name).write_bytes(content)
    rental.text = LORA_ROWS
    return folder


@pytest.mark.soak
@pytest.mark.parametrize("rental", GUESTS, indirect=True)
def test_lora_rows_whose_model_is_sent_or_is_on_a_volume_are_carried_out(rental: Rental, model: Path) -> None:
    """The volume is at the path that the directory has on the host: the guest is told no other."""
    rental.server.cloud.volumes = [Volume(host=model, inside=str(model), why="a volume of the provider that has the model")]
    rental.rows = [(name, "a4000", 0.2) for name in MODELS]
    ran = rental.spawn()
    assert ran.code == 0, ran.output
    seen = {row["name"]: (row["modelId"], row["standIn"], row["attestation"], row["rawCallback"]) for row in ran.report["rows"]}
    assert seen == {"sent": (NOWHERE, True, "verified", "completed"), "directory": ("mine", False, "verified", "completed")}
    assert {finding["finding"] for row in ran.report["rows"] for finding in row["findings"]} == {"held"}


@pytest.mark.xfail(
    strict=True, raises=NoModelThereError,
    reason="a guest is told the path that a model directory has on its host, and reads its own disk: nothing brings the files there",
)  # fmt: skip
@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_lora_row_whose_model_is_in_a_directory_of_this_machine_is_carried_out(rental: Rental, model: Path) -> None:
    rental.rows = [("directory", "a4000", 0.2)]
    ran = rental.spawn()
    assert model.is_dir()
    if "protected leg failed: FileNotFoundError" in ran.output:
        raise NoModelThereError
    assert ran.code == 0, ran.output
