"""A base model costs time before the first leg, and disk."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.broker.pricing import DISK_GB, MODEL_BYTES_PER_S, disk_gb, quote
from pytest_glasshouse.providers.base import Offer
from pytest_glasshouse.rows import RowSpec

SIZES = {"some/large": 15_200_000_000, "some/small": 1_000_000_000}


def row(model: str, **fields: Any) -> RowSpec:
    return RowSpec(name="mine", workload="lora", gpu="h100", order="raw-first", steps=4, model=model, **fields)


@pytest.mark.parametrize(("shared", "arrivals"), [(True, 1), (False, 2)])
def test_the_estimate_counts_a_model_once_on_every_allocation(shared: bool, arrivals: int, offer: Offer) -> None:
    rows = [row("some/large"), row("some/large", rank=8)]
    priced = [(each, offer) for each in rows]

    seconds = {
        bool(sizes): quote(priced, shared=shared, model_bytes=sizes).lines[0].seconds for sizes in (SIZES, dict[str, int]())
    }

    assert seconds[True] - seconds[False] == pytest.approx(arrivals * SIZES["some/large"] / MODEL_BYTES_PER_S)


@pytest.mark.parametrize(("shared", "models"), [(True, 16.2), (False, 15.2)])
def test_an_allocation_is_asked_for_with_disk_for_the_models_it_gets(shared: bool, models: float) -> None:
    assert disk_gb(SIZES, shared=shared) == DISK_GB + int(models) + 1
    assert disk_gb({}, shared=shared) == DISK_GB


@pytest.fixture
def offer() -> Offer:
    return Offer(provider="runpod", offer_id="1", gpu_model="NVIDIA H100 80GB HBM3", price_usd_per_hour=2.0)
