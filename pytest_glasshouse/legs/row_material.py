"""What a row trains on, made on this machine: once to find errors before anything is rented, and again when the row runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.legs.sealed_model import sealed_of
from pytest_glasshouse.workloads.registry import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.workloads.base import Material


def material_of(
    row: RowSpec, *, model: str | None, seed: int, online: bool, owner_key: Path | None, stand_in: str | None
) -> Material:
    """The material of `row`, whose model lies or is named as `model` says; a hub may be asked for it if `online`.

    With `stand_in`, the name of a shape, nothing of the model is looked for. Raises `ConfigurationError` for what cannot be used,
    `InfrastructureError` for a hub that cannot be reached.
    """
    sealed = row.sealed if stand_in else sealed_of(row, model, owner_key=owner_key)
    return prepare(
        row.workload, seed=seed, model=model, data=row.data, rank=row.rank, targets=row.targets, alpha=row.alpha, online=online,
        sealed=sealed, stand_in=stand_in,
    )  # fmt: skip
