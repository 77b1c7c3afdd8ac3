"""The guest's private byte-code cache: built from an empty directory by the agent, shared by both legs, never written by them.

Without it the interpreter would run any `.pyc` beside a source, and a forged one with the source's date and size runs while
the source stays unchanged. The cache is hashed as soon as it is built; one that differs later is foreign.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pytest_glasshouse.agent.installed_code import tree_digest
from pytest_glasshouse.errors import GlasshouseError


class BytecodeCache:
    """One cache in one directory of the guest."""

    def __init__(self, directory: Path, *, archive_fd: int, site_packages: Sequence[str], environment: dict[str, str]) -> None:
        self.directory = directory
        self._archive_fd = archive_fd
        self._site_packages = site_packages
        self._environment = environment
        self._lock = threading.Lock()
        self._compiled: set[str] = set()
        self._starting = threading.Lock()
        self._compiler: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.digest = ""

    def build(self, workload: str) -> None:
        """Compile what `workload` imports, once; the cache of an earlier workload must be unchanged.

        Raises `GlasshouseError` when the imports fail: a leg would fail the same way.
        """
        with self._lock:
            if workload in self._compiled:
                return
            if self._compiled and not self.intact():
                return
            # The agent reads the same cache and, from here on, writes to it as little as a leg does.
            sys.dont_write_bytecode = True
            command = [sys.executable, "-I", "-S", "-X", "utf8", *self.option(), f"/proc/self/fd/{self._archive_fd}"]
            command += ["compile", "--workload", workload]
            for path in self._site_packages:
                command += ["--site-packages", path]
            compiler = self._start(command)
            _, stderr = compiler.communicate()
            if compiler.returncode != 0:
                last = stderr.decode("utf-8", errors="replace").strip().splitlines()[-1:]
                raise GlasshouseError(f"the imports of workload {workload} failed: {''.join(last)}")
            self._compiled.add(workload)
            self.digest = tree_digest(self.directory)

    def end(self) -> None:
        """Stop writing, so that the cache's directory can be removed for good."""
        sys.dont_write_bytecode = True
        with self._starting:
            self._ended = True
        if self._compiler is not None:
            self._compiler.kill()
            self._compiler.wait()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._ended:
                raise GlasshouseError("the guest has ended")
            self._compiler = subprocess.Popen(  # noqa: S603
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(self._archive_fd,),
            )
            return self._compiler

    def option(self) -> tuple[str, str]:
        """The interpreter option that makes this the only cache."""
        return "-X", f"pycache_prefix={self.directory}"

    def intact(self) -> bool:
        """Whether the cache is as it was built."""
        return tree_digest(self.directory) == self.digest
