"""Takes checks out of code that is running, one at a time, and reports which cases reach them.

A check is a statement that can refuse: a `raise` of ours, the `yield` of a fault, a call that raises (`require`, `verify`, ...), a
`return False`, or one entry of a table of things that must be equal. The source is compiled again with each of them behind a
switch, and the functions get the new code in place, so that every importer runs it.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias

from pytest_glasshouse.errors import IntegrityError, RefusedError
from tests.tamper.reached import is_reached

#: A question with one answer.
Ask: TypeAlias = Callable[[], object]

#: Calls that do nothing but refuse.
REFUSING_CALLS = {
    "require", "verify", "expect", "require_shape", "check_steps", "check_head", "check_enrolment", "replay", "read", "_check_wall", "_check_key",
    "_refuse_surrogates", "_refuse_depth", "_fits", "verify_seal", "ran", "parse_object",
}  # fmt: skip
#: Exceptions that are refusals. Others (`TypeError` for a wrong use, `ConfigurationError` for the user's own files) are not about what was received.
REFUSALS = {"IntegrityError", "RefusedError", "ReportError", "Verdict", "broken", "unseen"}
#: Generators that give what was read, and no faults.
GIVING = {"_nonces", "_keys_in", "derived_keys", "decrypt_segments"}
#: Names of tables whose every entry must be equal to something.
TABLES = {"bound", "expected", "observed", "wanted", "fields", "told_twice"}
_SWITCH, _REFUSED, _GIVEN, _TABLE = (f"__glasshouse_{name}__" for name in ("check", "refused", "given", "table"))


@dataclass
class Switch:
    """Which check is off; which were met, and which of those refused, since `clear` was called."""

    off: int = -1
    met: set[int] = field(default_factory=set)
    refusals: set[int] = field(default_factory=set)

    def clear(self) -> None:
        """Forget what was met."""
        self.met.clear()
        self.refusals.clear()

    def on(self, number: int) -> bool:
        """Asked right before a check."""
        self.met.add(number)
        return number != self.off

    def refused(self, number: int) -> None:
        """Told when a check refuses."""
        self.refusals.add(number)

    def given(self, number: int, faults: Iterable[object]) -> Iterator[object]:
        """The faults of a check that yields them from another: the first of them is a refusal, and so is an exception there."""
        try:
            for each in faults:
                self.refusals.add(number)
                yield each
        except Exception:
            self.refusals.add(number)
            raise

    def table(self, first: int, entries: dict[Any, Any]) -> dict[Any, Any]:
        """A table without the entry that is off. A pair of what is not equal will be refused."""
        numbered = list(enumerate(entries.items(), first))
        self.met.update(number for number, _ in numbered)
        self.refusals.update(
            number for number, (_, value) in numbered if isinstance(value, tuple) and len(set(map(repr, value))) > 1
        )
        return {key: value for number, (key, value) in numbered if number != self.off}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check in the source."""

    number: int
    module: str
    function: str
    line: int
    text: str
    #: The key of an entry of a table.
    entry: str = ""

    def __str__(self) -> str:
        return f"{self.module.removeprefix('pytest_glasshouse.')}.{self.function}:{self.line} {self.text}"


class _Switched(ast.NodeTransformer):
    def __init__(self, module: str, first: int) -> None:
        self.checks: list[Check] = []
        self._module = module
        self._first = first
        self._inside: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._inside.append(node.name)
        self.generic_visit(node)
        self._inside.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._inside.append(node.name)
        self.generic_visit(node)
        self._inside.pop()
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return self._behind_switch(node) if _last_name(called) in REFUSALS else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        value = node.value
        if isinstance(value, ast.Yield | ast.YieldFrom) and self._inside[-1] not in GIVING:
            return self._behind_switch(node)
        if isinstance(value, ast.Call) and _last_name(value.func) in REFUSING_CALLS:
            return self._behind_switch(node)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        is_false = isinstance(node.value, ast.Constant) and node.value.value is False
        return self._behind_switch(node) if is_false and self._inside[-1].startswith("_open") else node

    def visit_Assign(self, node: ast.Assign) -> Any:
        return self._tabled(node, node.targets[0])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        return self._tabled(node, node.target)

    def _tabled(self, node: Any, target: ast.expr) -> Any:
        table = node.value
        if not (isinstance(target, ast.Name) and target.id in TABLES and isinstance(table, ast.Dict) and self._inside):
            return self.generic_visit(node)
        first = self._next()
        for key in table.keys:
            if isinstance(key, ast.Constant):
                self._note(node, f"{target.id}[{key.value!r}]", entry=str(key.value))
            else:
                return node
        node.value = _call(_TABLE, ast.Constant(first), table)
        return ast.fix_missing_locations(node)

    def _behind_switch(self, node: ast.stmt) -> ast.AST:
        number = self._next()
        self._note(node, ast.unparse(node).splitlines()[0][:70])
        behind = ast.If(_call(_SWITCH, ast.Constant(number)), self._telling(node, number), [])
        return ast.fix_missing_locations(ast.copy_location(behind, node))

    def _telling(self, node: ast.stmt, number: int) -> list[ast.stmt]:
        """The check, and a call that tells when it refuses."""
        told = ast.Expr(_call(_REFUSED, ast.Constant(number)))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            handler = ast.ExceptHandler(ast.Name("BaseException", ast.Load()), None, [told, ast.Raise()])
            return [ast.Try([node], [handler], [], [])]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.YieldFrom):
            node.value.value = _call(_GIVEN, ast.Constant(number), node.value.value)
            return [node]
        return [told, node]

    def _next(self) -> int:
        return self._first + len(self.checks)

    def _note(self, node: ast.stmt, text: str, *, entry: str = "") -> None:
        function = ".".join(self._inside)
        self.checks.append(
            Check(number=self._next(), module=self._module, function=function, line=node.lineno, text=text, entry=entry)
        )


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def checks_in(module: str, source: str) -> list[Check]:
    """Every check of a module's source."""
    transformer = _Switched(module, 0)
    transformer.visit(ast.parse(source))
    return transformer.checks


@contextlib.contextmanager
def switched(*modules: ModuleType) -> Iterator[tuple[Switch, list[Check]]]:
    """Every check of the modules behind a switch, until the end of the block."""
    switch, checks, originals = Switch(), list[Check](), []
    for module in modules:
        transformer = _Switched(module.__name__, len(checks))
        tree = transformer.visit(ast.parse(inspect.getsource(module)))
        checks += transformer.checks
        codes = dict(_codes(compile(tree, module.__file__ or "", "exec", dont_inherit=True)))
        vars(module).update({_SWITCH: switch.on, _REFUSED: switch.refused, _GIVEN: switch.given, _TABLE: switch.table})
        for function in _functions(module):
            code = codes.get(function.__qualname__)
            if code is not None and code.co_freevars == function.__code__.co_freevars:
                originals.append((function, function.__code__))
                function.__code__ = code
    try:
        yield switch, checks
    finally:
        for function, original in originals:
            function.__code__ = original
        for module in modules:
            for name in (_SWITCH, _REFUSED, _GIVEN, _TABLE):
                delattr(module, name)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The answer of a case with every check in place, and which checks it met; of those, which refused."""

    answer: object
    shown: str
    met: frozenset[int]
    refusals: frozenset[int]

    def place(self, check: Check) -> tuple[bool | int, ...]:
        """Sorts cases: first those that the check refused, whose answer names its entry, that few checks refused, or met."""
        named = check.entry in self.shown
        return check.number not in self.refusals, not named, len(self.refusals), len(self.met)


def unnoticed_in(asks: Mapping[str, Ask], *modules: ModuleType) -> tuple[list[str], int]:
    """The checks that can be gone without any answer changing, or that nothing of the product reaches; and how many there are."""
    with switched(*modules) as (switch, checks):
        asked = {}
        for name, ask in asks.items():
            switch.clear()
            answer = _answer(ask)
            asked[name] = Asked(answer=answer, shown=repr(answer), met=frozenset(switch.met), refusals=frozenset(switch.refusals))
        # A check that only tests and attacks call refuses what the product takes.
        unnoticed = [f"{each} (reached by nothing but tests)" for each in checks if not is_reached(each.module, each.function)]
        for each in checks:
            switch.off = each.number
            likely = sorted((name for name in asks if each.number in asked[name].met), key=lambda name: asked[name].place(each))
            if not any(_answer(asks[name]) != asked[name].answer for name in likely):
                unnoticed.append(str(each))
        switch.off = -1
    return unnoticed, len(checks)


def _answer(ask: Ask) -> object:
    """The result of a case. An exception is one too."""
    try:
        return ask()
    except (IntegrityError, RefusedError) as refusal:
        return str(refusal)
    except Exception as error:  # noqa: BLE001  (whatever code does that lost a check)
        return type(error).__name__


def _codes(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant.co_qualname, constant
            yield from _codes(constant)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type):
            for member in vars(value).values():
                inner = getattr(member, "__func__", member)
                inner = inner.fget if isinstance(inner, property) else inner
                if isinstance(inner, FunctionType):
                    yield inner


def _last_name(node: ast.expr | None) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
