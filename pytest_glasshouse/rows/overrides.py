"""Overrides: what a user may change in every row of a run, and which rows become equal by it.

This module knows the values of a run's overrides, not where they came from.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pytest_glasshouse.overhead.sequential import LOOKS
from pytest_glasshouse.rows.interleaving import DEFAULT_PRESET, with_preset_rounds
from pytest_glasshouse.rows.spec import Order, Preset, RowSpec

#: The target and the longest warm-up of every row in a dry run that sets no target of its own.
DRY_RUN_TARGET_S = 2.0
DRY_RUN_WARMUP_S = 0.5

KeyT = TypeVar("KeyT")


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What a run changes in every row; None leaves the row's own."""

    order: Order | None = None
    target_s: float | None = None
    steps: int | None = None
    rounds: int | None = None
    margin_pct: float | None = None
    model: str | None = None
    preset: Preset | None = None
    sequential: bool = False
    dry_run: bool = False
    own_provider: bool = False

    def apply(self, declared: RowSpec) -> RowSpec:
        """The row that runs. A dry run shortens it last: rows are compared before that, so those of different length stay two."""
        return self._shortened(self.chosen(declared))

    def chosen(self, declared: RowSpec) -> RowSpec:
        """The row with the user's overrides, before a dry run shortens it."""
        changes: dict[str, Any] = {}
        # A sealed row has one leg: there is no order to choose.
        order = None if declared.sealed else self.order
        if order is not None:
            changes["order"] = order
        if (order or declared.order) == "interleaved":
            if (preset := self._preset(declared)) is not None:
                changes["preset"] = preset
        elif declared.order == "interleaved":
            # Fields that only an interleaved row has; such a row is left out of the run.
            changes |= {"preset": None, "cut": False, "null": False, "resident": True}
        if self.target_s is not None or self.steps is not None:
            changes |= {"target_s": self.target_s, "steps": self.steps}
        if self.margin_pct is not None:
            changes["margin_pct"] = self.margin_pct
        if self.model is not None and declared.workload == "lora":
            changes["model"] = self.model
        by_time = declared.cut or "preset" in changes
        row = dataclasses.replace(declared, **(changes | {"cut": False})) if changes else declared
        return self._with_rounds(row, by_time=by_time and row.preset is not None)

    def _preset(self, declared: RowSpec) -> Preset | None:
        """A row that becomes interleaved gets a preset: its own rounds were declared for another order."""
        return self.preset or (None if declared.order == "interleaved" else DEFAULT_PRESET)

    def _with_rounds(self, row: RowSpec, *, by_time: bool) -> RowSpec:
        """As many rounds as the user asked for, as the first look takes, or as the preset's time holds."""
        if self.rounds is not None:
            return dataclasses.replace(row, rounds=self.rounds, cut=False)
        if self.sequential and not row.null and not row.sealed:
            return dataclasses.replace(row, rounds=LOOKS[0], cut=False)
        return with_preset_rounds(row) if by_time else row

    def _shortened(self, row: RowSpec) -> RowSpec:
        if not self.dry_run and not (self.own_provider and row.provider == "mock"):
            return row
        changes: dict[str, Any] = {"warmup_s": min(row.warmup_s, DRY_RUN_WARMUP_S)}
        if self.target_s is None and self.steps is None:
            # Nothing is measured by it, so its first round cuts nothing: how many rounds it has must not depend on this machine.
            changes |= {"target_s": DRY_RUN_TARGET_S, "steps": None, "cut": False}
        row = dataclasses.replace(row, **changes)
        return with_preset_rounds(row) if row.cut else row


@dataclass(frozen=True, kw_only=True)
class Collapsed(Generic[KeyT]):
    """A row left out because an equal one runs."""

    key: KeyT
    row: RowSpec
    same_as: RowSpec


def collapse(rows: Sequence[tuple[KeyT, RowSpec]], overrides: Overrides) -> tuple[Collapsed[KeyT], ...]:
    """The rows to leave out, so that no row runs twice: `rows` are declared rows, each with the caller's key.

    Two rows collapse when they have one row id, or when an override made them equal in everything but the name. Rows
    declared equal under two names both stay. Of rows that became equal, the one that runs as declared stays.
    """
    left_out: list[Collapsed[KeyT]] = []
    for equal in _groups(rows, overrides):
        if len(equal) == 1:
            continue
        stays = next((member for member in equal if overrides.chosen(member[1]) == member[1]), equal[0])
        content = _content(stays[1])
        staying = {stays[1].row_id}
        for member in equal:
            if member is stays:
                continue
            made_equal = _content(member[1]) != content
            if made_equal or member[1].row_id in staying:
                same_as = stays[1] if made_equal else member[1]
                left_out.append(Collapsed(key=member[0], row=member[1], same_as=same_as))
            staying.add(member[1].row_id)
    return tuple(left_out)


def _groups(rows: Iterable[tuple[KeyT, RowSpec]], overrides: Overrides) -> list[list[tuple[KeyT, RowSpec]]]:
    groups: dict[tuple[object, ...], list[tuple[KeyT, RowSpec]]] = {}
    for key, declared in rows:
        groups.setdefault(_content(overrides.chosen(declared)), []).append((key, declared))
    return list(groups.values())


def _content(row: RowSpec) -> tuple[object, ...]:
    """Everything that a row is, but its name, its marker and where it was published."""
    return tuple(getattr(row, name) for name in _CONTENT)


_CONTENT = tuple(each.name for each in dataclasses.fields(RowSpec) if each.name not in {"name", "smoke", "published"})


@dataclass(frozen=True, kw_only=True)
class RowItem:
    """The row of an item: as its test declares it, and as it runs. `model` is its model's directory, where it has one."""

    declared: RowSpec
    row: RowSpec
    model: str | None = None

    @classmethod
    def of(cls, declared: RowSpec, overrides: Overrides, parameters: tuple[tuple[str, str], ...] = ()) -> RowItem:
        """The row of a test with these other `parameters`, which are part of its identity.

        A row names a model directory by its last part only: row ids and reports hold no path of this machine.
        """
        declared = dataclasses.replace(declared, parameters=parameters) if parameters else declared
        row = overrides.apply(declared)
        # A sealed model is a file.
        is_there = os.path.exists if row.sealed else os.path.isdir
        if row.model is None or not is_there(os.path.expanduser(row.model)):  # noqa: PTH111  (an unknown ~ or an invalid path is no directory)
            return cls(declared=declared, row=row)
        directory = Path(os.path.expanduser(row.model)).resolve()  # noqa: PTH111  (Path.expanduser raises for an unknown ~)
        return cls(declared=declared, row=dataclasses.replace(row, model=directory.name), model=str(directory))
