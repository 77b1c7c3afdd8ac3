"""Which GPU a rank gets: of those that torch may use, the one in its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.machine import rank_gpu


def _shown(count: int) -> Any:
    """GPUs as NVML shows them."""
    return [
        SimpleNamespace(index=index, uuid=lambda index=index: SimpleNamespace(value=f"GPU-{index}0000000-aaaa"))
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("listed", "rank", "expected"),
    [
        (None, 1, ("1", 1)),
        ("3,1", 0, ("3", 3)),
        ("3, 1", 1, ("1", 1)),
        ("GPU-2,GPU-0", 1, ("GPU-0", 0)),
        ("GPU-2,GPU-9", 1, ("GPU-9", None)),
        ("7", 0, ("7", None)),
    ],
)
def test_a_rank_sees_one_gpu_of_those_that_torch_may_use(listed: str | None, rank: int, expected: tuple[str, int | None]) -> None:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    own = rank_gpu(rank, _shown(4), environ)
    assert (own.visible, own.nvml_index) == expected


@pytest.mark.parametrize("listed", [None, "", "1"])
def test_a_rank_without_a_gpu_of_its_own_is_an_error(listed: str | None) -> None:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    with pytest.raises(ProtocolError, match="expected a GPU for rank 1"):
        rank_gpu(1, _shown(1), environ)
