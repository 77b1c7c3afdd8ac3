"""Names of the user's own that no report may hold, found before anything is rented.

The report that the run would publish if none of its rows were measured is searched as the final one will be, and so are names
that reach it from elsewhere: node ids, data files, the policy. This module refuses to show what it found.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.canonical import is_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_glasshouse.rows.overrides import RowItem
    from pytest_glasshouse.run.options import Options

#: How many of a name's first letters are shown, so that it can be found.
_SHOWN = 3


def refuse_private_names(
    rows: Mapping[str, RowItem], options: Options, *, report: Path, document: Mapping[str, object], taint: Iterable[str]
) -> None:
    """Raise `ConfigurationError` for the first name that redaction would stop the report for.

    `rows` are by node id; `document` is the report of this run as it would be now.
    """
    from pytest_glasshouse.report.redaction import hits

    taint = tuple(taint)
    for what, name in _names(rows, options, report):
        # The field's name is none of those that may hold a digest.
        if found := hits({"name": name}, taint=taint):
            _refuse(f"{what} ({name[:_SHOWN]}...)", found[0].rule)
    for hit in hits(document, taint=taint):
        _refuse(hit.path, hit.rule)


def _refuse(what: str, rule: str) -> None:
    raise ConfigurationError(
        f"{what}: expected a name that may be published, saw one that redaction would stop (rule {rule}); rename it. "
        "Nothing was rented"
    )


def _names(rows: Mapping[str, RowItem], options: Options, report: Path) -> Iterator[tuple[str, str]]:
    """Where each name comes from, and the name."""
    for number, (nodeid, each) in enumerate(rows.items(), start=1):
        where = f"row {number} of {len(rows)}"
        yield f"the name of {where}", each.row.row_id
        if each.row.model is not None:
            yield f"the model of {where}", each.row.model
        if each.row.data is not None:
            yield f"the data file of {where}", Path(each.row.data).name
        yield f"the test of {where}", nodeid
    yield "the file name of --glasshouse-report", report.name
    if options.owner_policy is not None:
        yield from _strings("--glasshouse-policy", options.owner_policy.to_json())


def _strings(what: str, value: Any) -> Iterator[tuple[str, str]]:
    """Texts of a policy but for its digests."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield what, str(name)
            yield from _strings(what, each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(what, each)
    elif isinstance(value, str) and not is_sha256(value):
        yield what, value
