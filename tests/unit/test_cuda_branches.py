"""CUDA is called in one place, and everything that is different on a GPU runs in a test that needs none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_glasshouse

ROOT = Path(pytest_glasshouse.__file__).parent
TESTS = Path(__file__).parent.parent

CALLERS = {"workloads/cuda.py", "guest/torch_probe.py"}
#: Every function that does something else where there is a GPU, and where that is tried.
TRIED = {
    "agent/agent.py Agent._gpu_of": "fake_nvml/test_rows.py",
    "broker/creator.py Creator._checked_model": "fake_nvml/test_rows.py",
    "cli/doctor.py _gpu": "fake_nvml/test_rows.py",
    "guest/device_memory.py TorchMemory.pin": "unit/guest/test_ring_cuda.py",
    "guest/device_memory.py TorchMemory.copy": "unit/guest/test_ring_cuda.py",
    "guest/device_memory.py TorchMemory.require_room": "unit/workloads/test_cuda.py",
    "guest/machine.py Device.ranks": "fake_nvml/test_rows.py",
    "guest/protected.py Protected._allocate": "rounds/test_ring.py",
    "guest/raw.py Raw.run": "rounds/test_ring.py",
    "guest/training.py import_training": "unit/guest/test_training_cuda.py",
    "legs/package_sending.py window_of": "unit/legs/test_package_sending.py",
    "legs/round.py Round.guest_plan": "rounds/test_ring.py",
    "providers/local.py LocalProvider.__init__": "fake_nvml/test_rows.py",
    "workloads/device.py facts_of": "unit/workloads/test_trainers_cuda.py",
    "workloads/device.py generator": "unit/workloads/test_trainers_cuda.py",
    "workloads/device.py on_device": "unit/workloads/test_trainers_cuda.py",
    "workloads/device.py release": "unit/workloads/test_trainers_cuda.py",
    "workloads/device.py synchronize": "unit/workloads/test_trainers_cuda.py",
    "workloads/lora.py _load_directory": "unit/workloads/test_trainers_cuda.py",
    "workloads/sealed_base.py load": "unit/workloads/test_trainers_cuda.py",
}


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every function of a module by its name, those of classes too; what is nested in one belongs to it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{within}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{within}{node.name}", node


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def depends_on_the_device(node: ast.AST) -> bool:
    """Whether a condition or a choice in it names CUDA."""
    chosen = [each for each in ast.walk(node) if isinstance(each, ast.Compare | ast.IfExp)]
    return any(isinstance(part, ast.Constant) and part.value == "cuda" for each in chosen for part in ast.walk(each))


def test_whatever_is_different_on_a_gpu_is_tried_without_one() -> None:
    """A new branch needs a test with the `gpu` fixture, and its line above."""
    found = {
        f"{module} {name}" for module, tree in modules() for name, function in functions(tree) if depends_on_the_device(function)
    }
    assert found == set(TRIED)


@pytest.mark.parametrize("test", sorted({*TRIED.values()}))
def test_the_tests_that_are_named_are_there(test: str) -> None:
    assert (TESTS / test).is_file()


def test_cuda_is_called_in_one_place() -> None:
    """What is called elsewhere does not run in any test; the process that asks which GPU torch has is one for itself."""
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "cuda") or module in CALLERS, f"{module}:{node.lineno}"
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("torch.cuda") for name in names), module
