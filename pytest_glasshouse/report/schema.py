"""The report's schema: where it is found, and what does not validate.

Documents validate against the schema of their own version, for ever. The packaged copy comes first, then the
checkout's; nothing is ever fetched.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

SCHEMA_VERSION = "1.0"
#: Version of a document to the file that describes it. An old entry is never removed.
_FILES = {"1.0": "report-v1.schema.json"}
#: So many faults are told: a stranger's document may have millions of them, each larger than what it is about.
MOST_FAULTS = 100
#: So many faults of an alternative are looked at for the one that is told, and so many items for whether they differ.
_MOST_OF_AN_ALTERNATIVE, _MOST_UNIQUE = 20, 100
_CHECKOUT = Path(__file__).parents[2] / "schemas"


@cache
def load_schema(version: str = SCHEMA_VERSION) -> dict[str, Any]:
    """The schema of one report version. Raises `ReportError` for a version this release does not know."""
    name = _FILES.get(version)
    if name is None:
        raise ReportError(f"$.schemaVersion: expected one of {', '.join(_FILES)}; saw {version!r}")
    packaged = resources.files("pytest_glasshouse").joinpath("schemas", name)
    text = packaged.read_text("utf-8") if packaged.is_file() else (_CHECKOUT / name).read_text("utf-8")
    loaded = json.loads(text)
    if not isinstance(loaded, dict):
        raise ReportError(f"{name} is not a schema")
    return loaded


def validate(document: Any) -> dict[str, Any]:
    """Return the document if it validates; raise `ReportError` naming the first few paths otherwise."""
    faults = list(schema_faults(document))
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")  # noqa: PLR2004
        raise ReportError(f"the report does not validate: {shown}")
    assert isinstance(document, dict)  # noqa: S101  (the schema says so; for the type checker)
    return document


def schema_faults(document: Any) -> Iterator[str]:
    """Faults as `path: what is wrong`, the first hundred that are found. Values are not shown: a fault may stand in a secret."""
    if not isinstance(document, dict):
        yield "$: expected an object"
        return
    version = document.get("schemaVersion")
    if not isinstance(version, str) or version not in _FILES:
        yield f"$.schemaVersion: expected one of {', '.join(_FILES)}"
        return
    yield from (f"{path}: a number that is not finite" for path in islice(_not_finite(document), MOST_FAULTS))
    # Sorted as text, and nothing of the error is kept: it holds what it is about, and its message that again.
    told = sorted(_sentence(found) for found in islice(_validator(version).iter_errors(document), MOST_FAULTS))
    yield from (f"{path}: {text}" for _, path, text in told)
    if len(told) == MOST_FAULTS:
        yield "$: more faults than are told here"


def _sentence(found: ValidationError) -> tuple[str, str, str]:
    """Where the outer fault stands, to sort by; where the one that is told stands, and what is wrong there."""
    error = _innermost(found)
    text = _told(error.validator, error.validator_value, error.message, error.instance)
    return found.json_path[:1000], printable(error.json_path), printable(text)


@cache
def _validator(version: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # JSON Schema calls 1.0 and 1e308 integers; whoever counts with one would meet a float.
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    own = {"anyOf": _any_of, "uniqueItems": _unique_items}
    bounded = extend(Draft202012Validator, own, type_checker=checker)  # type: ignore[no-untyped-call]
    made: Draft202012Validator = bounded(load_schema(version), format_checker=Draft202012Validator.FORMAT_CHECKER)
    return made


def _any_of(validator: Any, alternatives: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """As jsonschema has it, but of each alternative only some faults are collected; it collects all, however many."""
    from jsonschema.exceptions import ValidationError

    context: list[ValidationError] = []
    for place, alternative in enumerate(alternatives):
        found = list(islice(validator.descend(instance, alternative, schema_path=place), _MOST_OF_AN_ALTERNATIVE))
        if not found:
            return
        context += found
    yield ValidationError("is none of the alternatives", context=context)


def _unique_items(validator: Any, unique: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """As jsonschema has it, whose comparison takes time by the square of a long list. Nothing here is long."""
    from jsonschema.exceptions import ValidationError

    if not unique or not validator.is_type(instance, "array"):
        return
    if len(instance) > _MOST_UNIQUE or any(one == other for place, one in enumerate(instance) for other in instance[:place]):
        yield ValidationError("has items twice")


def _innermost(error: ValidationError) -> ValidationError:
    """Of `this or null`, what is wrong with this; the first fault of what an alternative holds."""
    while error.context:
        meant = [each for each in error.context if each.validator_value != "null"]
        error = min(meant or error.context, key=lambda each: each.json_path)
    return error


def _told(validator: object, expected: object, message: str, instance: object) -> str:
    """The fault without the value it was found in, where the value could be anything."""
    if validator in {"required", "additionalProperties", "unevaluatedProperties", "type"} and not isinstance(instance, str):
        return message if isinstance(instance, dict) and validator == "required" else _shape(validator, expected, message)
    return f"does not satisfy {validator}" + (f" {json.dumps(expected)}" if isinstance(expected, str | int | list) else "")


def _shape(validator: object, expected: object, message: str) -> str:
    if validator == "type":
        return f"expected {expected if isinstance(expected, str) else ' or '.join(map(str, expected))}"  # type: ignore[call-overload]
    return message


def _not_finite(value: Any, path: str = "$") -> Iterator[str]:
    """JSON Schema has no word for it, and Python's parser lets NaN through."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_finite(item, f"{path}[{number}]")
