"""What of the package a run, a guest, a server or a command can ever call: a graph of names, read from the source.

A function counts as reached when its name is used in something that is reached, beginning with the entrances and never passing
through `tamper`, whose own use of a check is no use of it. The graph errs on one side: a method is taken to be called wherever
anything of its name is, so what is not reached here is never called.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest_glasshouse

_PACKAGE = "pytest_glasshouse"
_ROOT = Path(pytest_glasshouse.__file__).parent
#: What starts by itself: pytest loads the plugin and tests call what judges, a shell the commands, a guest's archive `agent.main`.
ENTRANCES = (
    "plugin.hooks", "invariants.judging.assert_held", "__main__", "broker.reaper_process", "agent.main.main",
    "channel.pod_init", "channel.pod_install", *(f"cli.{path.stem}.declare" for path in sorted((_ROOT / "cli").glob("*.py"))),
)  # fmt: skip
#: What is played against the product, or for it: not the product.
_NOT_THE_PRODUCT = ("tamper", "attacks")
#: Methods that frameworks call by their names: of threads, of HTTP and socket handlers, of the agent's operations.
_BY_NAME = ("__", "on_", "do_", "pytest_", "run", "handle", "verify_request", "server_", "process_request")


@dataclass
class _Module:
    """One module's source: its functions by qualified name, its classes, what it imports, and what is outside functions."""

    name: str
    functions: dict[str, ast.AST] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imports: dict[str, set[str]] = field(default_factory=dict)
    top: list[ast.stmt] = field(default_factory=list)


@cache
def reached(entrances: tuple[str, ...] = ENTRANCES) -> frozenset[str]:
    """Full names (`pytest_glasshouse.wire.journal.replay`) of every function and method that is reached from `entrances`."""
    modules = {name: _read(name, path) for name, path in product()}
    methods: dict[str, list[str]] = {}
    for module in modules.values():
        for name in module.functions:
            if "." in name:
                methods.setdefault(name.rpartition(".")[2], []).append(f"{module.name}.{name}")
    found: set[str] = set()
    waiting = [f"{_PACKAGE}.{name}" for name in entrances]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += _used(name, modules, methods)
    return frozenset(name for name in found if name not in modules)


def is_reached(module: str, function: str) -> bool:
    """Whether a function, or the one it stands in, is reached."""
    parts = function.split(".")
    return any(".".join((module, *parts[:count])) in reached() for count in range(len(parts), 0, -1))


def product() -> Iterator[tuple[str, Path]]:
    """Name and file of every module of the product."""
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        if parts[0] not in _NOT_THE_PRODUCT:
            yield ".".join((_PACKAGE, *(part for part in parts if part != "__init__"))), path


@cache
def _read(name: str, path: Path) -> _Module:
    module = _Module(name)
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                module.imports.setdefault(each.asname or each.name.split(".")[0], set()).add(each.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:  # two functions may import different things under one name: both count
                module.imports.setdefault(each.asname or each.name, set()).add(f"{node.module}.{each.name}")
    for node in tree.body:
        _place(module, node)
    return module


def _place(module: _Module, node: ast.stmt, inside: str = "") -> None:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        module.functions[inside + node.name] = node
        if any(_is_hook(each) for each in node.decorator_list):
            module.top.append(ast.Expr(ast.Name(node.name, ast.Load())))
    elif isinstance(node, ast.ClassDef):
        module.classes[inside + node.name] = node
        for each in node.body:
            _place(module, each, f"{inside}{node.name}.")
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    else:
        module.top.append(node)


def _is_hook(decorator: ast.expr) -> bool:
    """A fixture or hook: pytest finds it by its decorator."""
    return "pytest" in ast.unparse(decorator)


def _used(name: str, modules: Mapping[str, _Module], methods: Mapping[str, list[str]]) -> Iterator[str]:
    """What something that is reached uses: a module what stands in it outside functions, a class what it is made with."""
    if name in modules:
        module = modules[name]
        for node in module.top:
            yield from _names(node, module, modules, methods, owner="")
        yield from (target for each in module.imports.values() for full in each if (target := _split(full, modules)[0]))
        yield from (f"{name}.{function}" for function in module.functions if function.startswith("pytest_"))
        return
    module_name, inner = _split(name, modules)
    if module_name is not None:
        yield module_name
        yield from _used_by(name, modules[module_name], inner, modules, methods)


def _used_by(
    name: str, module: _Module, inner: str, modules: Mapping[str, _Module], methods: Mapping[str, list[str]]
) -> Iterator[str]:
    if inner in module.classes:
        for base in (*module.classes[inner].bases, *module.classes[inner].decorator_list):
            yield from _names(base, module, modules, methods, owner="")
        for each in module.classes[inner].body:
            if not isinstance(each, ast.FunctionDef):
                yield from _names(each, module, modules, methods, owner=inner)
            elif each.name.startswith(_BY_NAME):
                yield f"{name}.{each.name}"
    elif inner in module.functions:
        yield from _names(module.functions[inner], module, modules, methods, owner=inner.rpartition(".")[0])
    elif inner in module.imports:
        yield from module.imports[inner]


def _names(
    node: ast.AST, module: _Module, modules: Mapping[str, _Module], methods: Mapping[str, list[str]], *, owner: str
) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            if each.id in module.functions or each.id in module.classes:
                yield f"{module.name}.{each.id}"
            elif each.id in module.imports:
                yield from module.imports[each.id]
        elif isinstance(each, ast.Attribute):
            base = each.value
            targets = module.imports.get(base.id, set()) & modules.keys() if isinstance(base, ast.Name) else set()
            if targets:
                yield from (f"{target}.{each.attr}" for target in targets)
            elif isinstance(base, ast.Name) and base.id in {"self", "cls"} and f"{owner}.{each.attr}" in module.functions:
                yield f"{module.name}.{owner}.{each.attr}"
            else:
                yield from methods.get(each.attr, ())
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value in modules:
            yield each.value


def _split(name: str, modules: Mapping[str, _Module]) -> tuple[str | None, str]:
    head, inner = name, ""
    while head and head not in modules:
        head, _, last = head.rpartition(".")
        inner = f"{last}.{inner}" if inner else last
    return (head or None), inner
