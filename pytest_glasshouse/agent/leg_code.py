"""The loaded code of a leg, measured twice: before attestation, for the evidence, and after training, for the exit.

The code of a launcher too: after its imports, and again before each leg that it forks. The process lists what it has loaded; the
agent hashes the files itself. The host judges the result.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.agent.bytecode_cache import BytecodeCache
    from pytest_glasshouse.agent.installed_code import Baseline, CodeMeasurement
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.leg_messages import LoadedFiles

#: The exit that holds the names has to stay short.
_MOST_CHANGED = 64


class LegCode:
    """The measurements of one process, a leg or a launcher. `archive` is the path prefix of modules from the measured archive."""

    def __init__(self, baseline: Baseline, bytecode: BytecodeCache, *, archive: str) -> None:
        self._baseline = baseline
        self._bytecode = bytecode
        self._archive = archive
        self._first: CodeMeasurement | None = None
        #: What was foreign in the launcher that forked this leg, when it had imported everything.
        self.inherited: tuple[str, ...] = ()
        #: For the leg's exit: whether the second measurement found the code of the first.
        self.comparison: dict[str, Json] = {"status": "unseen", "reason": "the leg did not complete its training"}

    def measure(self, loaded: LoadedFiles) -> dict[str, str]:
        """The first measurement, as components of the evidence."""
        self._first = self._measured(loaded)
        return {**self._first.components, "bytecode": self._bytecode.digest}

    @property
    def foreign(self) -> tuple[str, ...]:
        """What was foreign in the first measurement."""
        return () if self._first is None else self._first.foreign

    def measure_again(self, loaded: LoadedFiles) -> dict[str, str]:
        """The second measurement, after training: nothing may have changed, and nothing foreign may have been loaded since."""
        now, then = self._measured(loaded), self._first
        if then is not None:
            changed = [*now.foreign, *(name for name, digest in then.files.items() if now.files.get(name, digest) != digest)]
            changed += [Path(path).name for path, digest in now.system.items() if then.system.get(path) != digest]
            late = len(now.files.keys() - then.files.keys())
            status = "changed" if changed or now.hooks != then.hooks else "unchanged"
            names: list[Json] = [printable(name) for name in sorted(changed)[:_MOST_CHANGED]]
            self.comparison = {"status": status, "late": late, "changed": names}
        return {**now.components, "bytecode": self._bytecode.digest}

    def _measured(self, loaded: LoadedFiles) -> CodeMeasurement:
        measurement = self._baseline.measure_loaded(loaded, archive=self._archive)
        more = tuple(f"launcher: {name}" for name in self.inherited)
        if not self._bytecode.intact():
            more += ("byte-code cache: not as built",)
        return dataclasses.replace(measurement, foreign=(*measurement.foreign, *more))
