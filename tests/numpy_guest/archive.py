"""The archive of a guest whose rows train with numpy: a leg starts in a tenth of the time that importing torch takes.

Everything else in it is the product's: agent, legs, evidence, memory scan. Its digest differs from the product's archive, so
only the policy of the test that starts such a guest accepts it. Tests whose subject is the training itself, the memory or the
byte code of a leg that imports torch, or the command that users run, start the product's own guest.

Beside each source lies what it compiles to: the interpreter, which keeps no byte code of archives, would compile all of them
in every process.
"""

from __future__ import annotations

import importlib.util
import io
import marshal
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pytest_glasshouse.channel.archive import GUEST_MAIN, build_archive
from pytest_glasshouse.providers.mock import MockProvider, dishonest_archive
from pytest_glasshouse.providers.mock_faults import GUEST_FAULTS

#: In place of each library that a leg imports before it trains.
_LIBRARY = b"""__version__ = "0"\n"""


def _replaced() -> dict[str, bytes]:
    trainers = {
        f"pytest_glasshouse/workloads/{name}": Path(__file__).with_name(name).read_bytes()
        for name in ("data_parallel.py", "lora.py", "mlp.py")
    }
    return {**trainers, **{f"{library}.py": _LIBRARY for library in ("torch", "transformers", "peft")}}


@cache
def numpy_archive(faults: tuple[str, ...] = ()) -> bytes:
    """The archive, with those of `faults` that a dishonest guest plays."""
    inside = [fault for fault in faults if fault in GUEST_FAULTS]
    if inside:
        return _compiled(dishonest_archive(inside, _replaced()))
    return numpy_archive_with({"__main__.py": GUEST_MAIN.encode()})


def numpy_archive_with(extra: Mapping[str, bytes]) -> bytes:
    """The archive with `extra` files (path in the archive to content), its `__main__.py` among them."""
    return _compiled(build_archive({**_replaced(), **extra}))


def _compiled(archive: bytes) -> bytes:
    """The same archive with byte code beside each source."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as given, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        for entry in given.infolist():
            content = given.read(entry)
            made.writestr(entry, content)
            if entry.filename.endswith(".py"):
                made.writestr(zipfile.ZipInfo(f"{entry.filename}c", entry.date_time), _byte_code(entry.filename, content))
    return buffer.getvalue()


@cache
def _byte_code(name: str, source: bytes) -> bytes:
    """Of the kind that names a hash of its source, which the interpreter does not compare."""
    code = marshal.dumps(compile(source, name, "exec", dont_inherit=True))
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source) + code


def numpy_provider(faults: Sequence[str] = ()) -> MockProvider:
    """The mock provider with such guests."""
    return MockProvider(tuple(faults), archive=numpy_archive(tuple(faults)))
