"""The protected leg: attest, receive the key, open the package, train, export sealed, zeroize, sign the end.

The steps are those of the lifecycle, in its order, each one line of the journal. Nothing here decides whether
the leg may be trusted: the server does, from the evidence, and without its answer there is no key.
"""

from __future__ import annotations

import datetime as dt
import gc
import time
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.guest import antidebug
from pytest_glasshouse.guest import loaded_code as images
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.exposure import Exposure
from pytest_glasshouse.guest.memory import Arena, wipe_bytes
from pytest_glasshouse.guest.opener import arena_bytes, derived_keys, open_package, seal_adapter, unseal_key
from pytest_glasshouse.guest.ring import Ring, RingParts, carry_package, ring_for_package
from pytest_glasshouse.guest.scan_client import Scanned
from pytest_glasshouse.guest.scribe import Scribe
from pytest_glasshouse.guest.training import Trained, TrainingPlan, base_sha256, import_training, train
from pytest_glasshouse.guest.turns import ControlTurns
from pytest_glasshouse.wire import evidence, tokens
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.journal import Journal
from pytest_glasshouse.wire.package import CANARY
from pytest_glasshouse.workloads.base import NonFiniteLossError

if TYPE_CHECKING:
    from pytest_glasshouse.guest.control import Control
    from pytest_glasshouse.guest.memory import LockedSecret
    from pytest_glasshouse.guest.opener import Opened
    from pytest_glasshouse.wire.canonical import Json


class Protected:
    """One protected leg. `run` returns when the signed head is with the agent."""

    def __init__(self, control: Control, order: dict[str, Json], package: memoryview) -> None:
        self._control = control
        self._package = package
        self._plan = TrainingPlan.from_json(cast("dict[str, Json]", order["plan"]))
        self._manifest_token = cast("str", order["manifest"])
        self._server_key = tokens.public_key(cast("str", order["server_key"]))
        self._owner_key = tokens.public_key(cast("str", order["owner_key"]))

    def run(self) -> None:
        """Carry out the lifecycle; see the numbered steps below."""
        # 1. The fences stand since the launcher's; they are observed after everything the training needs was imported.
        import_training(self._plan.workload, self._plan.device)
        observed = antidebug.observe()
        self._scanned = Scanned(self._control)
        # No key exists before the fences do.
        self._hpke = X25519PrivateKey.generate()
        self._signer = Ed25519PrivateKey.generate()
        self._cnf = {
            "hpke": evidence.hpke_text(self._hpke.public_key()),
            "sig": tokens.public_text(self._signer.public_key()),
        }

        # 2. Attest: the agent measures and signs, the server answers with a nonce and then with the key. The memory the package
        #    will be opened into is there already, so that it can be said whether it is locked.
        room = self._room()
        ready: dict[str, Json] = {
            "cnf": cast("Json", self._cnf),
            "antidebug": observed,
            "memory": {"locked": room.locked, "bytes": room.size},
            "images": images.collect(),
        }
        self._control.tell("ready", ready)
        _, self._challenge = self._control.hear("challenge")
        self._nonce = cast("str", self._challenge["nonce"])
        self._lines: list[str] = []
        self._begun_ns = time.monotonic_ns()
        self._journal = Journal(self._nonce, self._emit, lambda: (time.monotonic_ns() - self._begun_ns) // 1000)
        wall = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._journal.append("anti_debug_ready", {"wall": wall, "observed": observed})
        self._journal.append("measured", {"composite": self._challenge["composite"]})
        self._control.tell("attest", {"log": cast("Json", list(self._lines)), "head": self._journal.head})
        kind, answer = self._control.hear("release", "refusal")
        if kind == "refusal":
            raise RefusedError(cast("str", answer["reason"]), "the server released no key")

        # 3. The key: sealed to this process, bound to this result and this manifest.
        manifest = sha256_hex(self._manifest_token.encode())
        result = cast("str", answer["result"])
        self._check_result(result, manifest)
        key = unseal_key(cast("str", answer["sealed"]), result_token=result, manifest_sha256=manifest, private=self._hpke)
        del self._hpke
        self._exposure = Exposure(time.monotonic_ns)
        self._exposure.change(len(key))
        try:
            self._journal.append("key_received", {"result": sha256_hex(result.encode())})

            # 4. The package, authenticated in full before training reads any of it.
            before = time.monotonic_ns()
            claims = tokens.verify(self._manifest_token, key=self._owner_key, typ=evidence.TYP_MANIFEST)
            self._exposure.change(room.size)
            opened = self._open(room, key, claims)
            open_ns = time.monotonic_ns() - before
            self._exposure.change(opened.host_bytes - room.size)
            with derived_keys(self._package, key, opened.header) as derived:
                self._scanned.loaded(key.view, derived, cast("memoryview", opened.parts[CANARY]))
        finally:
            key.close()
        self._exposure.change(-len(key))
        try:
            self._train_and_leave(opened, claims, manifest, open_ns)
        finally:
            opened.close()

    def _room(self) -> Arena | Ring:
        """Where the package will be opened: all of it into one arena, or through a ring where a GPU is to have it."""
        if self._plan.device == "cuda":
            return ring_for_package(self._package, TorchMemory("cuda"))
        return Arena(arena_bytes(self._package))

    def _open(self, room: Arena | Ring, key: LockedSecret, claims: dict[str, Json]) -> Opened | RingParts:
        if isinstance(room, Ring):
            return carry_package(self._package, key, claims, room)
        return open_package(self._package, key, claims, arena=room)

    def _train_and_leave(self, opened: Opened | RingParts, claims: dict[str, Json], manifest: str, open_ns: int) -> None:
        verified: dict[str, Json] = {"manifest": manifest, "open_ns": open_ns, "locked": int(opened.arena.locked)}
        if isinstance(opened, RingParts):
            verified.update(ring_bytes=len(opened.arena), pinned=int(opened.pinned))
        self._journal.append("package_verified", verified)

        # 5. Train. The treatment ends here: this is the code the raw leg runs.
        try:
            trained = self._train(opened, base_sha256(claims))
        except NonFiniteLossError:
            self._journal.append("train_failed", {"reason": "non-finite loss"})
            self._zeroize(opened)
            self._sign_head(adapter="", status="failed")
            raise
        self._control.tell("images", images.collect())
        self._journal.append("train_completed", trained.body)

        # 6. The adapter leaves sealed to the owner; its digest is public.
        sealed = seal_adapter(trained.adapter, manifest=claims, manifest_sha256=manifest, nonce=self._nonce)
        self._control.tell_large("export", "adapter", sealed)
        adapter_sha256 = trained.adapter_sha256
        left: dict[str, Json] = {"sha256": adapter_sha256, "sealed_sha256": sha256_hex(sealed), "bytes": len(trained.adapter)}
        self._journal.append("adapter_exported", left)
        wipe_bytes(trained.adapter)
        del trained, sealed

        # 7. Zeroize, then sign the end with the key the evidence vouched for.
        self._zeroize(opened)
        self._sign_head(adapter=adapter_sha256, status="completed")

        # 8. The agent looks for what must be gone, while this process still is.
        self._scanned.wiped()

    def _train(self, opened: Opened | RingParts, base: str | None) -> Trained:
        # While it trains, the journal is the scribe's: this thread touches it again when the scribe is done.
        scribe = Scribe()
        try:
            return train(
                self._plan,
                opened.parts,
                base_sha256=base,
                on_started=lambda body: self._journal.append("train_started", body),
                on_progress=lambda body: scribe.hand(lambda: self._journal.append("train_progress", body)),
                on_trained=lambda trainer: self._scanned.trained(trainer.last_batch()),
                turns=ControlTurns(self._control, scribe),
            )
        finally:
            scribe.close()

    def _check_result(self, result: str, manifest: str) -> None:
        evidence.verify_result(
            result,
            server=self._server_key,
            nonce=self._nonce,
            manifest=manifest,
            policy=cast("str", self._challenge["policy"]),
            plan=cast("str", self._challenge["plan"]),
            **self._cnf,
        )

    def _zeroize(self, opened: Opened | RingParts) -> None:
        began = time.monotonic_ns()
        gc.collect()
        held = opened.host_bytes
        opened.close()
        zeroize_ns = time.monotonic_ns() - began
        self._exposure.change(-held)
        wiped: dict[str, Json] = {"wiped_bytes": len(opened.arena), "zeroize_ns": zeroize_ns, **self._exposure.to_json()}
        self._journal.append("zeroized", wiped)

    def _sign_head(self, *, adapter: str, status: str) -> None:
        head = evidence.head_claims(
            nonce=self._nonce, head=self._journal.head, count=self._journal.count, adapter=adapter, status=status
        )
        self._control.tell("head", {"head": tokens.sign(head, key=self._signer, typ=evidence.TYP_HEAD)})

    def _emit(self, line: str) -> None:
        if len(self._lines) < 2:  # noqa: PLR2004  (only what the evidence carries is kept)
            self._lines.append(line)
        self._control.tell("journal", {"line": line})
