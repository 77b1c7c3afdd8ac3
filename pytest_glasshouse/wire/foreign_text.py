"""A library's or driver's error text, shortened and without what names a machine: its paths and places in source files.

Such a text goes into journals and reports. CUDA's errors name source files with line numbers, which look like an endpoint, and
loaders name paths; the redaction would withhold the whole row for either. What was masked is said, the rest is kept.
"""

from __future__ import annotations

import re

from pytest_glasshouse.wire.printable import printable

#: Advice that torch appends to every CUDA error, and the C++ stack that some builds append.
_ADVICE = re.compile(
    r"\s*(?:CUDA kernel errors might be|For debugging consider|Compile with `TORCH_USE|Exception raised from |Search for `)"
)
#: A path is masked from its first slash; a relative one with two folders too. Possessive: a stranger chooses the text.
_PATH = re.compile(r"(?:(?<![\w.:/-])(?:file:/{1,3}|~?/|[A-Za-z]:\\)|(?<![\w./:-])(?:[\w.+-]++/){2,}+)[^\s'\"`,;:()\[\]<>|]++")
#: `Loss.cu:250:` and the like. Endings that no host name has are kept, with the line.
_PLACE = re.compile(r"(?<![\w.-])((?:[\w-]++\.)+[A-Za-z]\w*+):(\d{1,7})\b")
_SOURCE = (".cu", ".cuh", ".cpp", ".cxx", ".hpp", ".h", ".c")
#: How much of a text is searched; what is shown is far less.
_SEARCHED = 20_000


def foreign_text(text: object, *, limit: int) -> str:
    """`text` as one printable line of at most `limit` characters and a mark where it was cut.

    Paths become `<path>`, `Loss.cu:250` becomes `Loss.cu line 250`, any other name with a number `<place>`, and the advice that
    follows a CUDA error is left out.
    """
    whole = str(text)[:_SEARCHED]
    advice = _ADVICE.search(whole)
    if advice is not None and advice.start() > 0:
        whole = whole[: advice.start()]
    return printable(_PLACE.sub(_placed, _PATH.sub("<path>", whole)), limit=limit)


def _placed(found: re.Match[str]) -> str:
    return f"{found[1]} line {found[2]}" if found[1].endswith(_SOURCE) else "<place>"
