"""A leg cannot hide a kind of batch among many, nor make its report long with them."""

from __future__ import annotations

import numpy as np

from pytest_glasshouse.wire.guest_messages import MOST_KINDS
from pytest_glasshouse.workloads.used_batches import OTHERS, UsedBatches


def test_kinds_are_told_apart_by_every_dtype_and_by_shape() -> None:
    used = UsedBatches()
    single, half = np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float16)
    for batch, weight, output in (
        (single, single, single),
        (half, single, single),
        (single, half, single),
        (single, single, half),
    ):
        used.note(batch, weight, output)
    used.note(single, single, single)
    used.note(single[:2], single, single)
    assert used.to_json() == {
        "4x2 float32 float32 float32": 2, "4x2 float16 float32 float32": 1, "4x2 float32 float16 float32": 1,
        "4x2 float32 float32 float16": 1, "2x2 float32 float32 float32": 1,
    }  # fmt: skip


def test_more_kinds_than_a_report_holds_are_one_kind() -> None:
    used = UsedBatches()
    for size in range(MOST_KINDS + 3):
        used.note(np.zeros((size, 2), np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32))
    found = used.to_json()
    assert len(found) == MOST_KINDS + 1
    assert found[OTHERS] == 3
