"""Every rank of a protected leg but the first: it is measured with the leg, and trains on the memory that the first one opened.

It holds no data key. Its journal is its own, begins with the leg's nonce and its rank, and is signed by a key of its own, which
the leg's evidence names; the first rank's journal ends with the head of this one.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest import loaded_code
from pytest_glasshouse.guest.memory import wipe_bytes
from pytest_glasshouse.guest.protected import Protected
from pytest_glasshouse.guest.training import base_sha256
from pytest_glasshouse.wire import evidence, tokens
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.package import CANARY

if TYPE_CHECKING:
    from pytest_glasshouse.guest.memory import SharedArena
    from pytest_glasshouse.guest.ranks import Ranks
    from pytest_glasshouse.wire.leg_messages import Ready


class ProtectedRank(Protected):
    """One such rank. `run` returns when the agent has its signed head, and the last scan is done."""

    def run(self) -> None:
        """The steps of `Protected.run` that are not done once for all ranks."""
        observed = self._prepare()
        ranks = self._ranks
        assert ranks is not None  # noqa: S101  (for the type checker)
        del self._hpke  # no key is sealed to this rank
        ready: Ready = {
            "cnf": self._cnf,
            "antidebug": observed,
            "memory": {"locked": False, "bytes": 0},
            "images": loaded_code.collect(),
        }
        self._control.send("ready", ready)
        self._begin_journal(observed)
        arena, parts = ranks.shared()
        try:
            self._train_shared(ranks, parts)
        finally:
            _let_go(parts)
            arena.detach()
        self._end(ranks, arena)

    def _train_shared(self, ranks: Ranks, parts: dict[str, memoryview]) -> None:
        claims = tokens.verify(self._manifest_token, key=self._owner_key, typ=evidence.TYP_MANIFEST)
        if CANARY not in parts:
            raise IntegrityError("parts", "expected the canary among the parts that the first rank shared")
        manifest = sha256_hex(self._manifest_token.encode())
        self._journal.append("package_shared", {"manifest": manifest, "bytes": sum(map(len, parts.values()))})
        self._scan.shared(parts[CANARY])
        trained = self._train(parts, base_sha256(claims))
        self._control.send("images", loaded_code.collect())
        self._journal.append("train_completed", trained.body)
        self._adapter_sha256 = trained.adapter_sha256
        wipe_bytes(trained.adapter)
        ranks.group.close()

    def _end(self, ranks: Ranks, arena: SharedArena) -> None:
        began = time.monotonic_ns()
        gc.collect()
        if not arena.closed:
            raise IntegrityError("shared-memory", "a tensor still lies on the memory that the first rank shared")
        self._journal.append("zeroized", {
            "wiped_bytes": 0, "zeroize_ns": time.monotonic_ns() - began, "exposure_byte_s": 0, "exposure_peak_bytes": 0,
        })  # fmt: skip
        self._sign_head(adapter=self._adapter_sha256, status="completed")
        ranks.leave(self._journal.head)
        self._scan.wiped()


def _let_go(parts: dict[str, memoryview]) -> None:
    gc.collect()
    for view in parts.values():
        try:
            view.release()
        except BufferError:  # a tensor still lies on it: the caller sees that the memory stays mapped
            continue
