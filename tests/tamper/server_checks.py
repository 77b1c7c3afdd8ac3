"""Every check that the server makes: the `require` calls of its modules, found in their source."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from types import ModuleType

from pytest_glasshouse.attestation import (
    admission,
    certificates,
    completion,
    hardware,
    nonces,
    nvidia_gpu,
    outstanding_answer,
    rank_verifier,
    run_witness,
    server,
    sev_snp,
    snp_report,
    tdx,
    tdx_quote,
    verifier,
)
from pytest_glasshouse.attestation import nvidia_spdm as spdm


@dataclass(frozen=True, kw_only=True)
class Check:
    """One `require` call in the source."""

    module: ModuleType
    function: str
    first: int
    last: int
    reason: str

    @property
    def lines(self) -> frozenset[tuple[str, int]]:
        """Where the call stands: the module's name and each of its lines."""
        return frozenset((self.module.__name__, line) for line in range(self.first, self.last + 1))

    def __str__(self) -> str:
        return f"{self.module.__name__.rpartition('.')[2]}.{self.function}:{self.first}:{self.reason}"


def checks_of(module: ModuleType) -> list[Check]:
    found = []
    for function in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
                reason = node.args[1]
                stated = str(reason.value) if isinstance(reason, ast.Constant) else ""
                last = node.end_lineno or node.lineno
                found.append(Check(module=module, function=function.name, first=node.lineno, last=last, reason=stated))
    return found


MODULES = (
    rank_verifier,
    verifier,
    server,
    nonces,
    admission,
    completion,
    hardware,
    outstanding_answer,
    run_witness,
    certificates,
    nvidia_gpu,
    spdm,
    sev_snp,
    snp_report,
    tdx,
    tdx_quote,
)


CHECKS = [check for module in MODULES for check in checks_of(module)]
