"""The report's schema: loading it, and the faults of a document that does not validate.

A document validates against the schema of its own version, for ever. The packaged copy is used, else the checkout's;
nothing is fetched.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.report.certain_validity import CertainValidity
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

    from pytest_glasshouse.report.fields import Report
    from pytest_glasshouse.wire.canonical import Json

SCHEMA_VERSION = "1.0"
#: The schema file of each version. An old entry is never removed.
_FILES = {"1.0": "report-v1.schema.json"}
#: How many faults are reported: a hostile document may have millions, each larger than what it is about.
MOST_FAULTS = 100
#: How many faults of an alternative are collected, and how many items are compared for uniqueness.
_MOST_OF_AN_ALTERNATIVE, _MOST_UNIQUE = 20, 100
_CHECKOUT = Path(__file__).parents[2] / "schemas"


@cache
def load_schema(version: str = SCHEMA_VERSION) -> dict[str, Json]:
    """The schema of one report version. Raises `ReportError` for a version this release does not know."""
    name = _FILES.get(version)
    if name is None:
        raise ReportError(f"$.schemaVersion: expected one of {', '.join(_FILES)}; saw {version!r}")
    packaged = resources.files("pytest_glasshouse").joinpath("schemas", name)
    text = packaged.read_text("utf-8") if packaged.is_file() else (_CHECKOUT / name).read_text("utf-8")
    return cast("dict[str, Json]", json.loads(text))


def validate(document: object) -> Report:
    """Return the document if it validates; raise `ReportError` with the first few paths otherwise."""
    faults = list(schema_faults(document))
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")  # noqa: PLR2004
        raise ReportError(f"the report does not validate: {shown}")
    return cast("Report", document)


def schema_faults(document: object, *, finite: bool = False) -> Iterator[str]:
    """The first hundred faults found, each as `path: fault`. Values are not shown: one may be a secret.

    `finite` says that a strict parser has refused numbers that are not.
    """
    if not isinstance(document, dict):
        yield "$: expected an object"
        return
    version = document.get("schemaVersion")
    if not isinstance(version, str) or version not in _FILES:
        yield f"$.schemaVersion: expected one of {', '.join(_FILES)}"
        return
    if not finite and not _writable(document):
        yield from (f"{path}: a number that is not finite" for path in islice(_not_finite(document), MOST_FAULTS))
    # Reduced to text at once: an error holds the value it is about, and its message holds it again.
    sentences = sorted(_sentence(found) for found in islice(_validator(version).iter_errors(document), MOST_FAULTS))
    yield from (f"{path}: {text}" for _, path, text in sentences)
    if len(sentences) == MOST_FAULTS:
        yield f"$: more than {MOST_FAULTS} faults"


def _sentence(found: ValidationError) -> tuple[str, str, str]:
    """The path of the outer fault, to sort by; the path of the reported one, and its description."""
    error = _innermost(found)
    text = _described(error.validator, error.validator_value, error.message, error.instance)
    return found.json_path[:1000], printable(error.json_path), printable(text)


@cache
def _validator(version: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # JSON Schema accepts 1.0 and 1e308 as integers; code that counts with them would get floats.
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    schema = load_schema(version)
    own = {"anyOf": _any_of, "uniqueItems": _unique_items, **_passing_over(CertainValidity(schema))}
    bounded = extend(Draft202012Validator, own, type_checker=checker)  # type: ignore[no-untyped-call]
    made: Draft202012Validator = bounded(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return made


def _passing_over(certain: CertainValidity) -> dict[str, Callable[..., Iterator[ValidationError]]]:
    """These keywords as in jsonschema, with nothing asked about a part that certainly validates."""

    def properties(validator: Any, named: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
        for name, part in named.items() if isinstance(instance, dict) else ():
            if name in instance and not certain.holds(instance[name], part):
                yield from validator.descend(instance[name], part, path=name, schema_path=name)

    def items(validator: Any, part: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, list):
            for place in range(len(schema.get("prefixItems", ())), len(instance)):
                if not certain.holds(instance[place], part):
                    yield from validator.descend(instance[place], part, path=place)

    return {"properties": properties, "items": items}


def _any_of(validator: Any, alternatives: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """As in jsonschema, which collects all faults of each alternative; this collects a limited number."""
    from jsonschema.exceptions import ValidationError

    context: list[ValidationError] = []
    for place, alternative in enumerate(alternatives):
        found = list(islice(validator.descend(instance, alternative, schema_path=place), _MOST_OF_AN_ALTERNATIVE))
        if not found:
            return
        context += found
    yield ValidationError("is none of the alternatives", context=context)


def _unique_items(validator: Any, unique: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """As in jsonschema, whose comparison is quadratic; here a list has a limited length."""
    from jsonschema.exceptions import ValidationError

    if not unique or not validator.is_type(instance, "array"):
        return
    if len(instance) > _MOST_UNIQUE or any(one == other for place, one in enumerate(instance) for other in instance[:place]):
        yield ValidationError("has items twice")


def _innermost(error: ValidationError) -> ValidationError:
    """The innermost fault; of an alternative with null, the other one's."""
    while error.context:
        meant = [each for each in error.context if each.validator_value != "null"]
        error = min(meant or error.context, key=lambda each: each.json_path)
    return error


def _described(validator: object, expected: object, message: str, instance: object) -> str:
    """The fault, without the value it was found in."""
    if validator in {"required", "additionalProperties", "unevaluatedProperties", "type"} and not isinstance(instance, str):
        return message if isinstance(instance, dict) and validator == "required" else _shape(validator, expected, message)
    return f"does not satisfy {validator}" + (f" {json.dumps(expected)}" if isinstance(expected, str | int | list) else "")


def _shape(validator: object, expected: object, message: str) -> str:
    if validator == "type":
        return f"expected {expected if isinstance(expected, str) else ' or '.join(map(str, expected))}"  # type: ignore[call-overload]
    return message


def _writable(document: object) -> bool:
    """Whether the standard encoder writes it, which refuses what is not finite and looks in a tenth of the time."""
    try:
        json.dumps(document, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _not_finite(value: object, path: str = "$") -> Iterator[str]:
    """Paths of NaN and infinities, which Python's parser accepts and JSON Schema cannot name."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_finite(item, f"{path}[{number}]")
