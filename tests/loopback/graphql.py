"""As much of GraphQL as RunPod's clients speak: one operation, fields with arguments, strings with escapes. Strict.

What cannot be parsed is a syntax error, as it would be there: a value that was pasted in unescaped shows.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r"""[\s,]*(?:(?P<string>"(?:[^"\\\n\r]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<name>[_A-Za-z]\w*)|(?P<mark>[{}()\[\]:!$=]))"""
)


class GraphQLError(Exception):
    """The document, or what it asks for, is not what the schema has."""


@dataclass(frozen=True)
class Enum:
    """A bare word where a value stands."""

    word: str


@dataclass(kw_only=True)
class Selected:
    """One field asked for."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    fields: list[Selected] = field(default_factory=list)


def parse(document: str) -> tuple[str, list[Selected]]:
    """`query` or `mutation`, and the fields of the one operation in `document`."""
    reader = _Reader(document)
    kind = "query"
    if reader.peek() in {"query", "mutation"}:
        kind = reader.take()
        if reader.peek() != "{":
            reader.name()
    fields = reader.selection()
    if reader.peek():
        raise GraphQLError(f'Syntax Error: Unexpected "{reader.peek()[:20]}".')
    return kind, fields


class _Reader:
    def __init__(self, document: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        document = document.rstrip(" \t\r\n,")
        while place < len(document):
            found = _TOKEN.match(document, place)
            if found is None or found.lastgroup is None:
                raise GraphQLError(f"Syntax Error: Unexpected character at {place}.")
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            place = found.end()
        self._place = 0

    def peek(self) -> str:
        return self._tokens[self._place][1] if self._place < len(self._tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise GraphQLError(f'Syntax Error: Expected "{expected or "a value"}", found "{token[:20] or "<EOF>"}".')
        self._place += 1
        return token

    def name(self) -> str:
        if self._place >= len(self._tokens) or self._tokens[self._place][0] != "name":
            raise GraphQLError(f'Syntax Error: Expected Name, found "{self.peek()[:20]}".')
        return self.take()

    def selection(self) -> list[Selected]:
        self.take("{")
        fields = []
        while self.peek() != "}":
            one = Selected(name=self.name())
            if self.peek() == "(":
                self.take("(")
                one.arguments = self._pairs(")")
            if self.peek() == "{":
                one.fields = self.selection()
            fields.append(one)
        self.take("}")
        if not fields:
            raise GraphQLError('Syntax Error: Expected Name, found "}".')
        return fields

    def _pairs(self, end: str) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        while self.peek() != end:
            name = self.name()
            self.take(":")
            if name in pairs:
                raise GraphQLError(f'There can be only one input field named "{name}".')
            pairs[name] = self._value()
        self.take(end)
        return pairs

    def _value(self) -> Any:
        if self._place >= len(self._tokens):
            raise GraphQLError("Syntax Error: Unexpected <EOF>.")
        kind, token = self._tokens[self._place]
        if token == "{":
            self.take()
            return self._pairs("}")
        if token == "[":
            self.take()
            values = []
            while self.peek() != "]":
                values.append(self._value())
            self.take("]")
            return values
        self.take()
        if kind == "string":
            return json.loads(token)
        if kind == "number":
            return float(token) if "." in token else int(token)
        if kind == "name":
            return {"true": True, "false": False, "null": None}.get(token, Enum(token))
        raise GraphQLError(f'Syntax Error: Unexpected "{token}".')
