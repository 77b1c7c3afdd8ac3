"""The raw leg: the same training without the protected lifecycle. Its own callback reports that it completed.

Its weights and data are copied from the agent's memory files into one arena, where the protected leg has them after opening;
neither leg writes them to disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.guest import loaded_code
from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.guest.control import BackgroundWriter, ControlTurns
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.memory import Arena, SharedArena
from pytest_glasshouse.guest.opener import aligned
from pytest_glasshouse.guest.ranks import Ranks
from pytest_glasshouse.guest.ring import copy_material_to_device
from pytest_glasshouse.guest.training import import_training, train

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.guest.control import Control
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import RawOrder
    from pytest_glasshouse.wire.leg_messages import RankPlace
    from pytest_glasshouse.workloads.base import Parts


class Raw:
    """One raw leg; `run` returns when the agent has the callback."""

    def __init__(
        self, control: Control, order: RawOrder, material: Mapping[str, memoryview], place: RankPlace | None = None
    ) -> None:
        """Of a leg of several ranks, `place` says which one it is."""
        self._place, self._nodes = place, order.get("nodes")
        self._control = control
        self._nonce = order["nonce"]
        self._plan = order["plan"]
        self._base_sha256 = order["base_sha256"]
        self._material = material

    def run(self) -> None:
        """Copy the parts into the arena, or through the ring to a GPU, train, export, call back with the round's nonce."""
        began = now_ns()
        parts = self._copy_to_arena() if self._plan["device"] != "cuda" and self._place is None else {}
        import_training(self._plan["workload"], self._plan["device"])
        ranks: Ranks | None = None
        if self._place is not None:
            ranks = Ranks.join(self._place, self._control, self._plan["device"], self._nodes)
            parts = self._share(ranks)
        if self._plan["device"] == "cuda" and ranks is None:
            # As the protected leg's package does; the ring needs torch, which is imported by now.
            parts = copy_material_to_device(self._material, TorchMemory("cuda"))
        started: dict[str, Json] = {}

        def on_started(body: dict[str, Json]) -> None:
            started.update(body)
            self._control.send("started", body)

        writer = BackgroundWriter()
        try:
            trained = train(
                self._plan,
                parts,
                base_sha256=self._base_sha256,
                on_started=on_started,
                on_progress=lambda body: writer.submit(lambda: self._control.send("progress", body)),
                turns=ControlTurns(self._control, writer, ranks),
                ranks=ranks,
            )
        finally:
            writer.close()
        trained.body["opened_at_ns"] = began
        self._control.send("images", loaded_code.collect())
        if ranks is not None:
            ranks.group.close()
        if ranks is None or ranks.leads:
            self._control.send_large("export", "adapter", trained.adapter)
        self._control.send(
            "callback",
            {"nonce": self._nonce, "status": "completed", "adapter": trained.adapter_sha256, **started, **trained.body},
        )

    def _share(self, ranks: Ranks) -> Parts:
        """A node's first rank copies the parts into memory that all of them share, as a protected leg opens its package into."""
        if not ranks.leads:
            return ranks.shared()[1]
        arena = SharedArena(self._size())
        parts = self._copy_into(arena)
        ranks.share(arena, parts)
        return parts

    def _copy_to_arena(self) -> Parts:
        return self._copy_into(Arena(self._size()))

    def _size(self) -> int:
        return sum(aligned(len(part)) for part in self._material.values())

    def _copy_into(self, arena: Arena) -> dict[str, memoryview]:
        parts = {}
        offset = 0
        for name, part in self._material.items():
            parts[name] = arena.view[offset : offset + len(part)]
            parts[name][:] = part
            offset += aligned(len(part))
        return parts
