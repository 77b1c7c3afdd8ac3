"""The row journal: the record of each finished row, on disk before the next row ends. A killed run leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_glasshouse.report.run_directory import TaggedLines, private_directory
from pytest_glasshouse.report.run_key import TagKey

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import Record


ROWS = "rows.jsonl"


class RowJournal:
    """The records of the finished rows, one tagged JSON line each."""

    def __init__(self, run_directory: Path, tag_key: TagKey) -> None:
        self.path = private_directory(run_directory) / ROWS
        self._lines = TaggedLines(self.path, tag_key)

    def append(self, record: Record) -> None:
        """Add one record; it is on disk when this returns."""
        self._lines.append(record)

    def read(self) -> list[Record]:
        """The last record of each row; see `lines`."""
        return list({record["record"]["rowId"]: record for record in self.lines()}.values())

    def lines(self) -> list[Record]:
        """Every whole record in the order they were written. A torn line is a row that did not finish.

        Raises `ForeignError` for a line that this account's run did not write, or that was changed.
        """
        return cast("list[Record]", self._lines.read())
