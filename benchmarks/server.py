"""What the attestation server costs: full enrol-challenge-release-complete cycles over loopback, with 1 and 64 clients.

    python benchmarks/server.py [SECONDS]

A real `glasshouse serve` with its ledger on disk, in a process of its own; clients are threads of this one. Beside it stands
the cost of the cycle's public-key operations alone, measured in the same run. Prints and judges nothing.
"""

from __future__ import annotations

import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.owner.keyfiles import write_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.policy import Policy, Recorded, Required
from pytest_glasshouse.owner.sealing import SealedPackage, seal
from pytest_glasshouse.tamper.testbed import COMPONENTS, CONTAINER, PARTS, PLAN
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import Json, canonical, sha256_hex
from pytest_glasshouse.wire.journal import STEPS, Journal

CLIENTS = (1, 64)
#: Of one cycle at the server: it verifies grant, proof, evidence, head and exit, signs result and receipt, seals one key.
VERIFIED, SIGNED, SEALED = 5, 2, 1
#: And at agent and leg: they sign proof, evidence, head and exit.
SIGNED_BY_GUEST = 4
_TOKEN_BYTES = 1800
_LIMIT = 10**6


@dataclass(frozen=True, kw_only=True)
class Place:
    """A server with one package registered, and whose it is."""

    url: str
    kid: str
    owner: Owner
    key: str
    policy: Policy
    sealed: SealedPackage


class Guest:
    """One client with its keys. Grants are signed ahead: the owner makes them before a row begins."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name, self._count = place, name, 0
        self._ak, self._sig, self._hpke = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._client = AttestationClient(place.url, timeout_s=60)

    def grants(self, number: int) -> list[tuple[str, str]]:
        """Leave for so many cycles; the round of each is begun."""
        place, made = self._place, []
        server = tokens.public_key(place.key)
        planned: list[Json] = [[self._name, 1]]
        claims: dict[str, Json] = {"rows_sha256": sha256_hex(canonical(planned))}
        plan = place.owner.sign_request(claims, typ=ev.TYP_RUN_PLAN, server=server, run=self._name)
        self._client.plan(plan, planned)
        for _ in range(number):
            nonce = secrets.token_hex(16)
            about = {"row": self._name, "attempt": "bench", "plan": PLAN, "round": secrets.token_hex(32), "nonce": nonce}
            self._client.mark(place.owner.sign_request(about, typ=ev.TYP_MARK_REQUEST, server=server, run=self._name))
            self._count += 1
            sub = f"{self._name}/{self._count}"
            leave = place.owner.grant(
                server=tokens.public_key(place.key), run=self._name, sub=sub, package=place.sealed.manifest_sha256,
                policy_sha256=place.policy.sha256, allocation="bench", expires=int(time.time()) + 3600,
                subject="bench", row=self._name,
            )  # fmt: skip
            made.append((sub, leave))
        return made

    def cycle(self, sub: str, grant: str) -> None:
        """Enrol, challenge, release, complete."""
        place, client = self._place, self._client
        proof = ev.prove_enrolment(grant, key=self._ak)
        client.enrol(grant=grant, ak=tokens.public_text(self._ak.public_key()), proof=proof)
        challenge = client.challenge(sub=sub, plan=PLAN)
        nonce = str(challenge["nonce"])
        lines: list[str] = []
        journal = Journal(nonce, lines.append, lambda: 0)
        journal.append("anti_debug_ready", {"wall": "2027-01-15T08:00:00Z"})
        journal.append("measured", {"composite": ev.composite(COMPONENTS)})
        claims = ev.evidence_claims(
            ak=self._ak.public_key(), sub=sub, aud=place.kid, iat=int(str(challenge["issued_at"])), jti=secrets.token_hex(16),
            nonce=nonce, policy=place.policy.sha256, plan=PLAN, hpke=self._hpke.public_key(), sig=self._sig.public_key(),
            components=COMPONENTS, manifest=place.sealed.manifest_sha256, manifest_version=1, container=CONTAINER,
            observed=ev.ANTIDEBUG_STRICT, memory={"locked": True, "bytes": 4096}, state_head=journal.head,
        )  # fmt: skip
        client.release(evidence=tokens.sign(claims, key=self._ak, typ=ev.TYP_EVIDENCE), log=lines)
        said = ev.head_claims(nonce=nonce, head=journal.head, count=len(STEPS), adapter=sha256_hex(b"adapter"))
        head = tokens.sign(said, key=self._sig, typ=ev.TYP_HEAD)
        left = ev.exit_claims(
            nonce=nonce, head_token=head, process_gone=True, exit_status=0, workspace_entries=0, gpu={}, scan={}
        )  # fmt: skip
        client.complete(head=head, exit=tokens.sign(left, key=self._ak, typ=ev.TYP_EXIT), nonce=nonce)


def serve(folder: Path) -> tuple[subprocess.Popen[str], Place]:
    """A server in a process of its own, and a package registered there."""
    owner = Owner.generate()
    public = write_owner(folder / "owner.key", owner)
    command = [
        sys.executable, "-m", "pytest_glasshouse", "serve", "--owner", str(public), "--state", str(folder / "state"),
        "--port", "0", "--rate", "0", "--audit", str(folder / "audit.jsonl"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    words = process.stdout.readline().split()
    url, key = words[2], words[4]
    server = tokens.public_key(key)
    sealed = seal(PARTS, owner=owner, run="bench", round_nonce=secrets.token_hex(32), workload={"name": "mlp"})
    components: dict[str, Required | Recorded] = dict.fromkeys(COMPONENTS, Recorded())
    components["archive"] = Required(sha256=COMPONENTS["archive"])
    policy = Policy(name="bench", version=1, components=components, container=CONTAINER, release_limit=_LIMIT)
    client = AttestationClient(url)
    client.register(
        owner.register(
            server=server,
            server_hpke=client.published_keys(server).hpke,
            manifest=sealed.manifest,
            policy=policy,
            data_key=sealed.data_key,
        )
    )  # fmt: skip
    return process, Place(url=url, kid=tokens.thumbprint(server), owner=owner, key=key, policy=policy, sealed=sealed)


def measure(place: Place, clients: int, seconds: float) -> tuple[list[float], float]:
    """The time of every cycle, and cycles per second of all clients together."""
    guests = [Guest(place, f"c{clients}-{number}") for number in range(clients)]
    for guest in guests:
        guest.cycle(*guest.grants(1)[0])  # connections are opened outside the measurement
    ahead = [guest.grants(max(8, int(seconds * 600 / clients))) for guest in guests]
    barrier, until = threading.Barrier(clients), [0.0]

    def work(number: int) -> list[float]:
        barrier.wait()
        until[0] = until[0] or time.perf_counter() + seconds
        times = []
        for sub, grant in ahead[number]:
            begun = time.perf_counter()
            if begun >= until[0]:
                break
            guests[number].cycle(sub, grant)
            times.append(time.perf_counter() - begun)
        return times

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [each for every in pool.map(work, range(clients)) for each in every]
    took = time.perf_counter() - begun
    return times, len(times) / took


def each(act: Callable[[], object], times: int = 2000) -> float:
    """Seconds of one call: the median of ten batches."""
    batches = []
    for _ in range(10):
        begun = time.perf_counter()
        for _ in range(times // 10):
            act()
        batches.append((time.perf_counter() - begun) / (times // 10))
    return statistics.median(batches)


def public_key_operations() -> tuple[float, float]:
    """Seconds of a cycle's public-key operations alone: the server's, and the guest's."""
    key, leg = Ed25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    token, public = secrets.token_bytes(_TOKEN_BYTES), key.public_key()
    signature = key.sign(token)
    verified, signed = each(lambda: public.verify(signature, token)), each(lambda: key.sign(token))
    sealed = each(lambda: ev.SUITE.encrypt(token[:32], leg, info=token[:120]))
    print(f"  Ed25519 verify {verified * 1e6:.0f} us, sign {signed * 1e6:.0f} us, HPKE seal {sealed * 1e6:.0f} us")
    return VERIFIED * verified + SIGNED * signed + SEALED * sealed, SIGNED_BY_GUEST * signed


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    print(f"attestation server, enrol-challenge-release-complete over loopback, ledger on disk, {seconds:g} s each")
    server, guest = public_key_operations()
    print(f"  public-key operations of a cycle alone: {server * 1e3:.2f} ms at the server, {guest * 1e3:.2f} ms at the guest")
    with tempfile.TemporaryDirectory() as folder:
        process, place = serve(Path(folder))
        try:
            for clients in CLIENTS:
                times, rate = measure(place, clients, seconds)
                median, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
                print(
                    f"  {clients:2} client{'s' if clients > 1 else ' '}: median {median * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, "
                    f"{rate:.0f} cycles/s (n = {len(times)}); wall time per cycle is {1 / rate / server:.1f} times the "
                    "server's public-key operations"
                )
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()
