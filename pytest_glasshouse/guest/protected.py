"""The protected leg: attest, receive the key, open the package, train, export sealed, zeroize, sign the head.

The steps are those of the lifecycle, in order, each one line of the journal. This module does not decide whether the leg
is trusted: the server does, from the evidence, and releases the key or refuses.
"""

from __future__ import annotations

import datetime as dt
import gc
import time
from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.guest import antidebug, loaded_code
from pytest_glasshouse.guest.control import BackgroundWriter, ControlTurns
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.memory import Arena, Exposure, SharedArena, wipe_bytes
from pytest_glasshouse.guest.opener import arena_bytes, derived_keys, open_package, seal_adapter, unseal_key
from pytest_glasshouse.guest.ranks import Ranks
from pytest_glasshouse.guest.ring import Ring, RingParts, open_package_to_device, ring_for_package
from pytest_glasshouse.guest.scan_client import ScanClient
from pytest_glasshouse.guest.sealed_weights import searched_weights
from pytest_glasshouse.guest.training import TrainedLeg, base_sha256, import_training, train
from pytest_glasshouse.wire import evidence, tokens
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.host_messages import MoreAnswer, RefusalAnswer, ReleaseAnswer
from pytest_glasshouse.wire.journal import Journal, rank_session
from pytest_glasshouse.wire.leg_messages import LegChallenge, More
from pytest_glasshouse.wire.package import CANARY
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import NonFiniteLossError

if TYPE_CHECKING:
    from pytest_glasshouse.guest.control import Control
    from pytest_glasshouse.guest.memory import LockedSecret
    from pytest_glasshouse.guest.opener import Opened, Release
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import ProtectedOrder
    from pytest_glasshouse.wire.leg_messages import Attest, RankPlace, Ready
    from pytest_glasshouse.workloads.base import Parts


class Protected:
    """One protected leg. `run` returns when the agent has the signed head and the last scan is done."""

    def __init__(
        self, control: Control, order: ProtectedOrder, package: memoryview, release: Release, place: RankPlace | None = None
    ) -> None:
        """`release` frees what of `package` is not needed any more. Of a leg of several ranks, `place` says which one it is."""
        self._control = control
        self._package = package
        self._release = release
        self._arrived = order.get("arrived", len(package))
        self._plan = order["plan"]
        self._manifest_token = order["manifest"]
        self._server_key = tokens.public_key(order["server_key"])
        self._owner_key = tokens.public_key(order["owner_key"])
        self._place, self._nodes = place, order.get("nodes")
        self._ranks: Ranks | None = None

    def run(self) -> None:
        """Carry out the lifecycle; see the numbered steps below."""
        observed = self._prepare()

        # 2. Attest: the agent measures and signs, the server answers with a nonce and then with the key. The memory that the
        #    package will be opened into is allocated first, so that the evidence holds whether it is locked.
        target = self._allocate()
        ready: Ready = {
            "cnf": self._cnf,
            "antidebug": observed,
            "memory": {"locked": target.locked, "bytes": target.size},
            "images": loaded_code.collect(),
        }
        self._control.send("ready", ready)
        self._begin_journal(observed)
        attest: Attest = {"log": self._lines, "head": self._journal.head}
        self._control.send("attest", attest)
        kind, answer = self._control.receive("release", "refusal")
        if kind == "refusal":
            raise RefusedError(check_typed(answer, RefusalAnswer, "refusal")["reason"], "the server released no key")

        # 3. The key: sealed to this process, bound to this result and this manifest.
        manifest = sha256_hex(self._manifest_token.encode())
        release = check_typed(answer, ReleaseAnswer, "release")
        result = release["result"]
        self._check_result(result, manifest)
        key = unseal_key(release["sealed"], result_token=result, manifest_sha256=manifest, private=self._hpke)
        del self._hpke
        self._exposure = Exposure(time.monotonic_ns)
        self._exposure.change(len(key))
        try:
            self._journal.append("key_received", {"result": sha256_hex(result.encode())})

            # 4. The package, authenticated in full before training reads any of it.
            before = time.monotonic_ns()
            claims = tokens.verify(self._manifest_token, key=self._owner_key, typ=evidence.TYP_MANIFEST)
            self._exposure.change(target.size)
            opened = self._open(target, key, claims)
            if self._ranks is not None:
                self._ranks.share(cast("SharedArena", target), cast("Opened", opened).parts)
            open_ns = time.monotonic_ns() - before
            self._exposure.change(opened.host_bytes - target.size)
            with derived_keys(self._package, key, opened.header) as derived:
                self._scan.loaded(key.view, derived, cast("memoryview", opened.parts[CANARY]), searched_weights(opened.parts))
        finally:
            key.close()
        self._exposure.change(-len(key))
        try:
            self._train_and_leave(opened, claims, manifest, open_ns)
        finally:
            opened.close()

    def _prepare(self) -> dict[str, int | list[Any]]:
        """Step 1: what this process observes of itself."""
        # The launcher hardened this process; what holds is observed after everything that training needs was imported.
        import_training(self._plan["workload"], self._plan["device"])
        if self._place is not None:
            self._ranks = Ranks.join(self._place, self._control, self._plan["device"], self._nodes)
        observed = antidebug.observe()
        self._scan = ScanClient(self._control)
        # No key exists before the process is hardened.
        self._hpke = X25519PrivateKey.generate()
        self._signer = Ed25519PrivateKey.generate()
        self._cnf = {
            "hpke": evidence.hpke_text(self._hpke.public_key()),
            "sig": tokens.public_text(self._signer.public_key()),
        }
        return observed

    def _begin_journal(self, observed: dict[str, int | list[Any]]) -> None:
        """Wait for the challenge, whose nonce the journal begins with."""
        self._challenge = check_typed(self._control.receive("challenge")[1], LegChallenge, "challenge")
        self._nonce = self._challenge["nonce"]
        self._lines: list[str] = []
        self._begun_ns = time.monotonic_ns()
        session = rank_session(self._nonce, 0 if self._place is None else self._place["rank"])
        self._journal = Journal(session, self._emit, lambda: (time.monotonic_ns() - self._begun_ns) // 1000)
        wall = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._journal.append("anti_debug_ready", {"wall": wall, "observed": {**observed}})
        self._journal.append("measured", {"composite": self._challenge["composite"]})

    def _allocate(self) -> Arena | Ring:
        """Memory to open the package into: one arena for all of it, or a ring through which it goes to a GPU."""
        if self._ranks is not None:
            return SharedArena(arena_bytes(self._package))
        if self._plan["device"] == "cuda":
            return ring_for_package(self._package, TorchMemory("cuda"))
        return Arena(arena_bytes(self._package))

    def _open(self, target: Arena | Ring, key: LockedSecret, claims: dict[str, Json]) -> Opened | RingParts:
        if isinstance(target, Ring):
            return open_package_to_device(self._package, key, claims, target, release=self._release, needed=self._await_bytes)
        return open_package(self._package, key, claims, arena=target, release=self._release)

    def _await_bytes(self, end: int) -> None:
        """Wait until the package's first `end` bytes are there: the host sends more when it is asked to."""
        while self._arrived < end:
            more: More = {"arrived": self._arrived}
            self._control.send("more", more)
            arrived = check_typed(self._control.receive("more")[1], MoreAnswer, "more")["arrived"]
            if not self._arrived < arrived <= len(self._package):
                raise IntegrityError("pkg-length", "the host sent no more of the package")
            self._arrived = arrived

    def _train_and_leave(self, opened: Opened | RingParts, claims: dict[str, Json], manifest: str, open_ns: int) -> None:
        verified: dict[str, Json] = {"manifest": manifest, "open_ns": open_ns, "locked": int(opened.locked)}
        if isinstance(opened, RingParts):
            verified.update(ring_bytes=len(opened.arena), pinned=int(opened.pinned))
        self._journal.append("package_verified", verified)

        # 5. Train, with the code that the raw leg runs.
        try:
            trained = self._train(opened.parts, base_sha256(claims))
        except NonFiniteLossError:
            self._journal.append("train_failed", {"reason": "non-finite loss"})
            # Other ranks wait for this one within a step: they are ended, and have nothing more to say.
            self._zeroize(opened, others=False)
            self._sign_head(adapter="", status="failed")
            raise
        self._control.send("images", loaded_code.collect())
        self._journal.append("train_completed", trained.body)

        # 6. The adapter leaves sealed to the owner; its digest is public.
        sealed = seal_adapter(trained.adapter, manifest=claims, manifest_sha256=manifest, nonce=self._nonce)
        self._control.send_large("export", "adapter", sealed)
        adapter_sha256 = trained.adapter_sha256
        exported: dict[str, Json] = {"sha256": adapter_sha256, "sealed_sha256": sha256_hex(sealed), "bytes": len(trained.adapter)}
        self._journal.append("adapter_exported", exported)
        wipe_bytes(trained.adapter)
        del trained, sealed

        # 7. Zeroize, then sign the journal's head with the key that the evidence names.
        self._zeroize(opened)
        self._sign_head(adapter=adapter_sha256, status="completed")

        # 8. The agent scans this process, while it still lives, for what must be wiped.
        self._scan.wiped()

    def _train(self, parts: Parts, base: str | None) -> TrainedLeg:
        # While training runs, only the background thread appends to the journal; this thread does so again after `close`.
        writer = BackgroundWriter()
        try:
            return train(
                self._plan,
                parts,
                base_sha256=base,
                on_started=lambda body: self._journal.append("train_started", body),
                on_progress=lambda body: writer.submit(lambda: self._journal.append("train_progress", body)),
                on_trained=lambda trainer: self._scan.trained(trainer.last_batch()),
                turns=ControlTurns(self._control, writer, self._ranks),
                ranks=self._ranks,
            )
        finally:
            writer.close()

    def _check_result(self, result: str, manifest: str) -> None:
        evidence.verify_result(
            result,
            server=self._server_key,
            nonce=self._nonce,
            manifest=manifest,
            policy=self._challenge["policy"],
            plan=self._challenge["plan"],
            **self._cnf,
        )

    def _zeroize(self, opened: Opened | RingParts, *, others: bool = True) -> None:
        heads: dict[str, Json] = {}
        if self._ranks is not None and others:
            self._ranks.group.close()
            # No rank may use what is about to be wiped. Their heads bind their journals to this one.
            left: list[Json] = [*self._ranks.all_left()]
            heads = {"heads": left} if left else {}
        began = time.monotonic_ns()
        gc.collect()
        host_bytes = opened.host_bytes
        opened.close()
        zeroize_ns = time.monotonic_ns() - began
        self._exposure.change(-host_bytes)
        wiped: dict[str, Json] = {"wiped_bytes": len(opened.arena), "zeroize_ns": zeroize_ns, **self._exposure.to_json(), **heads}
        self._journal.append("zeroized", wiped)

    def _sign_head(self, *, adapter: str, status: str) -> None:
        head = evidence.head_claims(
            nonce=self._nonce, head=self._journal.head, count=self._journal.count, adapter=adapter, status=status
        )
        self._control.send("head", {"head": tokens.sign(head, key=self._signer, typ=evidence.TYP_HEAD)})

    def _emit(self, line: str) -> None:
        if len(self._lines) < 2:  # noqa: PLR2004  (the evidence carries the first two)
            self._lines.append(line)
        self._control.send("journal", {"line": line})
