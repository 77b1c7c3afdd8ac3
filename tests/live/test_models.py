"""Lora rows on rented pods, which have no disk in common with this machine: how the base model reaches them, and what is trained.

The hub is the tests' own; host and guest ask it with the real client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pytest_glasshouse.workloads.model_files import digest_of, listed_content
from tests.live.conftest import Rental
from tests.loopback.causal_models import causal_lm
from tests.loopback.hub import Hub
from tests.loopback.hub_repository import commit_id

REPOSITORY = "Tests/Tiny-0.5B"
COMMIT = commit_id("pinned")
SHARDS = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))

ROWS = """
import pytest
from pytest_glasshouse.invariants import assert_held, attestation_verified, runtime_zeroized, same_work
from pytest_glasshouse.rows import RowSpec

ROW = RowSpec(name="tiny", workload="lora", gpu="h100", order="protected-first", steps=4, warmup_s=0.01, model={model!r})

@pytest.mark.parametrize("row", [ROW])
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(outcome, attestation_verified, runtime_zeroized, same_work)
"""


@pytest.fixture(scope="module")
def files() -> Mapping[str, bytes]:
    return causal_lm("qwen2", shards=3)


@pytest.fixture
def hub(files: Mapping[str, bytes]) -> Iterator[Hub]:
    with Hub({REPOSITORY: {COMMIT: files}}) as hub:
        yield hub


def lora_row(rental: Rental, hub: Hub, model: str, *arguments: str) -> dict[str, Any]:
    """The one row of a run that passes."""
    (rental.folder / "test_lora.py").write_text(ROWS.format(model=model))
    rental.environment = {**rental.environment, "HF_ENDPOINT": hub.url, "HF_HOME": str(rental.folder / "hf")}
    ran = rental.run("test_lora.py", "-m", "h100 and qwen", *arguments)
    assert ran.code == 0, ran.output
    [row] = ran.report["rows"]
    assert isinstance(row, dict)
    return row


@pytest.mark.parametrize("rental", ["runpod-rest-torch"], indirect=True)
def test_a_rented_pod_trains_the_model_that_the_hub_serves(rental: Rental, hub: Hub, files: Mapping[str, bytes]) -> None:
    row = lora_row(rental, hub, f"{REPOSITORY}@{COMMIT}")

    material = row["observation"]["material"]
    assert (row["standIn"], material["facts"]["revision"]) == (False, COMMIT)
    assert material["baseSha256"] == digest_of(listed_content(files))
    assert row["observation"]["baseModel"]["source"] == "hub"
    whole = Counter(request.file for request in hub.requests if request.sent_bytes == len(files.get(request.file or "", b"")))
    assert {name: whole[name] for name in files if name.endswith(".safetensors")} == dict.fromkeys(SHARDS, 1)
