"""pytest's short summary of a row's failure: it begins with the row and what broke, where pytest has the path of a class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.plugin.stash import RECORD, ROW
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    import pytest

#: pytest cuts the line to the terminal; where CI is set it does not.
_SHORT = 400
#: `package.module.SomeError: text`.
_CLASS_PATH = re.compile(r"^[\w.]*\.(?=\w+(?:: |$))")


def begin_with_row(item: pytest.Item, shown: Any) -> None:
    """Give a failure, as pytest is going to show it, another first line for the short summary."""
    crash = getattr(shown, "reprcrash", None)
    if crash is None:
        return
    from pytest_glasshouse.report.failures import failure_of

    record = item.stash.get(RECORD, None)
    failure = None if record is None else failure_of(record["record"])
    if failure is not None:
        crash.message = printable(failure.line, limit=_SHORT)
        return
    text = _CLASS_PATH.sub("", str(crash.message).partition("\n")[0]).removeprefix("Failed: ")
    name = item.stash[ROW].row.name
    crash.message = printable(text if text.startswith(name) else f"{name}: {text}", limit=_SHORT)
