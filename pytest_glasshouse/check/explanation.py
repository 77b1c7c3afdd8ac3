"""What a checked report proves, what it does not, and whose keys signed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.check.check import Level
from pytest_glasshouse.report.failures import failures, rows_of
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.check.authenticity import Trust
    from pytest_glasshouse.check.check import Checked
    from pytest_glasshouse.report.fields import Report

_TEXT = 1000
#: What each level says, in one sentence.
_LEVELS = {
    Level.NOTHING: "nothing: it does not follow from its own data",
    Level.CONSISTENT: "it follows from its own data; whoever wrote it may have made all of it up",
    Level.AUTHENTIC: "every signature in it leads to a key that was given with --trust",
    Level.WITNESSED: "and its receipts are by a server that the publisher, as you vouch, does not run",
}


def explanation(document: Report, checked: Checked, trust: Trust) -> Iterator[str]:
    """Lines of text: proven, not proven, failed, and every signer as trusted or unknown."""
    yield "proves"
    for level in Level:
        if Level.NOTHING is not level and level.height <= checked.level.height:
            yield f"  {level.value}: {_LEVELS[level]}"
    if not checked.sound:
        yield f"  {_LEVELS[Level.NOTHING]}"
    elif checked.level.height >= Level.AUTHENTIC.height:
        yield from (f"  {printable(each, limit=_TEXT)}" for each in document["claims"]["claimed"])
    yield "does not prove"
    if checked.sound and checked.level is Level.CONSISTENT:
        yield from (f"  not before it is authentic: {printable(each, limit=_TEXT)}" for each in document["claims"]["claimed"])
    yield from (f"  {printable(each, limit=_TEXT)}" for each in (*checked.missing, *document["claims"]["notClaimed"]))
    if failed := failures(rows_of(document)):
        yield "failed in it"
        yield from (f"  {printable(each.line, limit=_TEXT)}" for each in failed)
    yield "signed by"
    named = [
        ("report", [document["keys"]["report"]]),
        ("server", document["keys"]["servers"]),
        ("owner", document["keys"]["owners"]),
    ]
    for name, keys in named:
        for key in keys:
            state = "a witness of yours" if key in trust.witnesses else "trusted" if key in trust.keys else "UNKNOWN"
            yield f"  {name:6}  {printable(key)}  {state}"
