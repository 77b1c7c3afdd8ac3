"""Whether an allocation is gone, in the words of ledger, broker and report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

#: Whether an allocation is gone: known to be, known not to be, not known.
CleanupStatus = Literal["proven", "leak", "unproven"]


def worst_cleanup(statuses: Collection[str]) -> CleanupStatus:
    """The worst of several; where there is none, there is nothing to prove."""
    return "leak" if "leak" in statuses else "unproven" if "unproven" in statuses else "proven"
