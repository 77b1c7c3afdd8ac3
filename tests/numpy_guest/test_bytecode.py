"""What guests of tests are given compiled."""

from __future__ import annotations

import filecmp
import sys
from pathlib import Path

import cryptography
import numpy as np
import pytest

from tests.numpy_guest.bytecode import keep_in_cache, kept


@pytest.mark.parametrize("library", [np, cryptography], ids=lambda library: library.__name__)
def test_a_guest_is_given_what_installing_a_library_compiled(
    library: object, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without it every guest of the tests compiles all that it imports, which takes most of its time."""
    folder = kept(keep_in_cache(pytestconfig, tmp_path_factory), "numpy")
    package = Path(str(vars(library)["__file__"])).parent
    name = f"__init__.{sys.implementation.cache_tag}.pyc"
    given = folder / package.relative_to("/") / name
    assert filecmp.cmp(given, package / "__pycache__" / name, shallow=False)
