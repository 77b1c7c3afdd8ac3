"""The row journal: each row that finished, on disk while the others still run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.report.run_directory import TaggedLines, private_directory
from pytest_glasshouse.report.run_key import TagKey

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.record import Record


ROWS = "rows.jsonl"


class RowJournal:
    """The rows that finished, one tagged JSON line each, on disk before `append` returns. What a killed run leaves is here."""

    def __init__(self, run_directory: Path, proof: TagKey) -> None:
        self.path = private_directory(run_directory) / ROWS
        self._lines = TaggedLines(self.path, proof)

    def append(self, record: Record) -> None:
        """Add one record. It is not tagged by anybody else, and never read back if it was changed."""
        self._lines.append(record)

    def read(self) -> list[Record]:
        """Every whole record, the last one of each row: see `lines`."""
        return list({record["record"]["rowId"]: record for record in self.lines()}.values())

    def lines(self) -> list[Record]:
        """Every whole record, in the order they were written. A torn line is a row that did not finish.

        Raises `ForeignError` for a line that this account's run did not write.
        """
        return self._lines.read()
