"""Requirements as values: versions, image tags, and figures that a provider tells wrongly."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import NoCapacityError
from pytest_glasshouse.providers.base import Provider
from pytest_glasshouse.providers.requirements import CudaVersion, RequirementFilter, Requirements, cuda_from, cuda_of_image
from pytest_glasshouse.providers.runpod_models import rest_figures
from pytest_glasshouse.providers.vastai import open_vastai
from pytest_glasshouse.providers.vastai_models import figures_of
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.run.options import Options
from tests.unit.providers.one_answer import OneAnswer

DIGEST = "@sha256:" + "0" * 64
ODD: list[Any] = [None, "", "13", "13.0.1", "x", True, float("nan"), float("inf"), -1, 0.5, 1e9, [], {}, "9" * 5000]


@pytest.mark.parametrize(
    ("tag", "cuda"),
    [
        (":2.9.0-cuda13.0-cudnn9-runtime", "13.0"),
        (":1.0.2-cu1281-torch280-ubuntu2404", "12.8"),
        (":cu130", "13.0"),
        (":torch_cu126", "12.6"),
        (":2.4.0-py3.11-cuda12.4.1-devel", "12.4"),
        (":2.9.0", None),
        ("", None),
        (":cudnn9", None),
        (":cucumber130", None),
    ],
)
def test_the_tag_of_an_image_names_its_cuda_version(tag: str, cuda: str | None) -> None:
    found = cuda_of_image(f"registry.example:5000/cuda12.1/guest{tag}{DIGEST}")
    assert found == (None if cuda is None else CudaVersion.parse(cuda))


def test_no_image_names_none() -> None:
    assert cuda_of_image(None) is None


def test_what_was_asked_for_comes_before_what_the_image_says() -> None:
    image = f"example/guest:cu128{DIGEST}"
    assert Options(image=image).requirements.cuda == CudaVersion(12, 8)
    assert Options(image=image, min_cuda=CudaVersion(12, 4)).requirements.cuda == CudaVersion(12, 4)


def test_versions_compare_by_number() -> None:
    assert CudaVersion.parse("12.11") > CudaVersion.parse("12.2")
    assert (cuda_from(12.8), cuda_from("12.8"), cuda_from(13)) == (CudaVersion(12, 8), CudaVersion(12, 8), CudaVersion(13, 0))


@pytest.mark.parametrize("text", ["", "13", "13.0.1", "x.y", "-1.0", "123.0", "1٣.0"])
def test_text_that_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 13\.0"):
        CudaVersion.parse(text)


@pytest.mark.parametrize("value", [value for value in ODD if value != 1e9])
def test_an_odd_figure_of_an_offer_excludes_it_and_is_no_error(value: Any) -> None:
    required = RequirementFilter(Requirements(cuda=CudaVersion(1, 0), gpu_memory_gb=1, memory_gb=1, disk_gb=1).demands)
    vast = figures_of({"cuda_max_good": value, "gpu_ram": value, "cpu_ram": value, "disk_space": value})
    runpod = rest_figures({"cudaVersions": [{"version": value, "available": True}, value], "memory": value, "dataCenters": value})
    assert not required.passes(vast)
    assert not required.passes(runpod)
    assert "CUDA 1.0 or newer excludes 2 of 2" in required.exclusions()


def test_an_offer_that_does_not_fit_is_refused_and_counted_once_though_the_provider_ignores_the_filter(
    answers: OneAnswer, vast: Provider
) -> None:
    answers.answer_with(
        200, {"offers": [{"id": 1, "gpu_name": "H100 SXM", "num_gpus": 1, "dph_total": 2.0, "cuda_max_good": 12.4}]}
    )
    required = Requirements(cuda=CudaVersion(13, 0))
    provider = open_vastai({"VAST_API_KEY": "key-of-the-test", "VAST_URL": answers.url}, requirements=required)
    row = RowSpec(name="h100-60s", workload="mlp", gpu="h100", order="raw-first", target_s=60)
    with pytest.raises(NoCapacityError, match=r"CUDA 13\.0 or newer excludes 1 of 1 \(newest seen: 12\.4\)"):
        provider.offers(row)
    assert len(vast.offers(row)) == 1


@pytest.mark.parametrize("odd", ODD)
def test_catalogs_of_any_shape_are_read(odd: Any) -> None:
    shown = rest_figures({"cudaVersions": odd, "memory": odd, "dataCenters": odd})
    assert (shown["cuda"], shown["data_centers"]) == (None, frozenset())


def test_versions_and_data_centers_without_stock_do_not_count() -> None:
    shown = rest_figures({
        "cudaVersions": [{"version": "13.0", "available": False}, {"version": "12.8", "available": True}],
        "dataCenters": [{"id": "EU-RO-1", "availability": "NONE"}, {"id": "US-KS-2", "availability": "LOW"}],
    })  # fmt: skip
    assert (shown["cuda"], shown["data_centers"]) == (CudaVersion(12, 8), frozenset({"US-KS-2"}))
