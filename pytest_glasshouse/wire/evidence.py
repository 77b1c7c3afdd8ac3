"""The vocabulary of attestation: token kinds, domains, the claims of evidence, result, head and exit, and how keys are sealed.

Knows names and byte forms that both sides must agree on. Refuses to judge them: the server does, in `attestation.verifier`.
RFC 9711 (EAT), draft-ietf-rats-ear (EAR), RFC 7800 (`cnf`), RFC 9180 (HPKE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import public_keys
from pytest_glasshouse.wire.canonical import Json, b64u, canonical, sha256_hex, tagged, unb64u
from pytest_glasshouse.wire.tokens import expect, public_key, public_text, thumbprint, verify

# Token kinds (the JWS header's `typ`): a token of one kind never serves as another, RFC 8725 section 3.11.
TYP_REGISTRATION = "glasshouse-registration+jwt"
TYP_MANIFEST = "glasshouse-manifest+jwt"
TYP_GRANT = "glasshouse-grant+jwt"
TYP_GUEST = "glasshouse-guest+jwt"
TYP_QUERY = "glasshouse-query+jwt"
TYP_OUTSTANDING = "glasshouse-outstanding+jwt"
TYP_EVIDENCE = "eat+jwt"
TYP_RESULT = "ear+jwt"
TYP_HEAD = "glasshouse-head+jwt"
TYP_EXIT = "glasshouse-exit+jwt"
TYP_RECEIPT = "glasshouse-receipt+jwt"
TYP_BORDERS = "glasshouse-borders+jwt"
TYP_STRETCHES = "glasshouse-stretches+jwt"
TYP_MARKS = "glasshouse-marks+jwt"
TYP_RUN_PLAN = "glasshouse-run-plan+jwt"
TYP_MARK_REQUEST = "glasshouse-mark-request+jwt"
TYP_MARK = "glasshouse-mark+jwt"
TYP_TALLY_QUERY = "glasshouse-tally-query+jwt"
TYP_TALLY = "glasshouse-tally+jwt"

#: The profile this evidence follows. Software-only: it makes none of EAT's hardware statements.
EAT_PROFILE = "tag:pytest-glasshouse,2026:eat/software/1"
EAR_PROFILE = "tag:pytest-glasshouse,2026:ear/1"
VERIFIER_ID: dict[str, Json] = {"developer": "pytest-glasshouse", "build": "1"}
#: The longest validity that evidence may claim, and how far its time may lie behind and ahead of the server's.
EVIDENCE_LIFETIME_S = 120
FRESHNESS_AHEAD_S = 5
STATE = "measured"

#: HPKE: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

# --- anti-debug: what the leg observes about itself, and what the profile `strict` requires each value to be.
ANTIDEBUG_PROFILE = "strict"
ANTIDEBUG_VERSION = 1
#: Environment variables that put code into a process. The leg reports the names of those that are set.
PRELOAD_VARIABLES = ("GCONV_PATH", "LD_AUDIT", "LD_PRELOAD")
CUDA_VARIABLES = (
    "CUDA_COREDUMP_FILE",
    "CUDA_ENABLE_COREDUMP_ON_EXCEPTION",
    "CUDA_ENABLE_USER_TRIGGERED_COREDUMP",
    "CUDA_INJECTION64_PATH",
    "NVTX_INJECTION64_PATH",
)
#: `PYTHON*` variables that may be set; every other one that is set is reported by name.
PYTHON_VARIABLES_ALLOWED = ("PYTHON_DISABLE_REMOTE_DEBUG",)
#: Modules whose presence in `sys.modules` means a debugger is attached.
DEBUGGER_MODULES = ("debugpy", "pdb", "pydevd")
#: Every value that is observed, and what `strict` requires of it.
ANTIDEBUG_STRICT: dict[str, Json] = {
    "tracer_pid": 0,  # TracerPid of /proc/self/status
    "dumpable": 0,  # prctl(PR_GET_DUMPABLE)
    "core_limit": 0,  # the hard RLIMIT_CORE
    "preload": [],  # names of PRELOAD_VARIABLES that are set, and "/etc/ld.so.preload" where it holds anything
    "cuda_injection": [],  # names of CUDA_VARIABLES that are set
    "python_variables": [],  # names of PYTHON* variables that are set and not allowed
    "isolated": 1,  # sys.flags.isolated (-I)
    "no_site": 1,  # sys.flags.no_site (-S)
    "trace_function": 0,  # sys.gettrace() is set
    "profile_function": 0,  # sys.getprofile() is set
    "monitoring_tools": [],  # names from sys.monitoring.get_tool (3.12 on; [] before)
    "debugger_modules": [],  # names of DEBUGGER_MODULES that are loaded
    "remote_debug": 0,  # sys.is_remote_debug_enabled() (3.14 on; 0 before)
}

# --- the memory scan: the kinds of secret that are looked for. A clean scan needs every one of them found before the wipe.
SCAN_KEY = "key"
SCAN_KEY_HALF = "key-half"
SCAN_DERIVED = "derived-key"
SCAN_CANARY = "canary"
SCAN_BATCH = "batch"
SCAN_KINDS = (SCAN_KEY, SCAN_KEY_HALF, SCAN_DERIVED, SCAN_CANARY, SCAN_BATCH)
#: What is looked for in a rank that never had a key: what it trained on.
SCAN_RANK_KINDS = (SCAN_CANARY, SCAN_BATCH)
#: Where the package holds a model, its weights too.
SCAN_WEIGHTS = "weights"

EVIDENCE_SHAPE: dict[str, type] = {
    "iss": str, "sub": str, "aud": str, "iat": int, "exp": int, "jti": str, "eat_nonce": str, "eat_profile": str,
    "policy": str, "plan": str, "cnf": dict, "composite": str, "components": dict, "manifest": str,
    "manifest_version": int, "container": str, "antidebug": dict, "memory": dict, "state": dict,
}  # fmt: skip
#: What evidence says of each rank of a leg but the first, in `ranks`: the key that signs its journal, and what was measured.
RANK_SHAPE: dict[str, type] = {"rank": int, "sig": str, "components": dict, "antidebug": dict}
#: The most ranks that a leg may have.
MOST_RANKS = 64
#: The memory the package will be opened into: whether it is locked (never swapped out), and how many bytes.
MEMORY_SHAPE: dict[str, type] = {"locked": bool, "bytes": int}
ANTIDEBUG_SHAPE: dict[str, type] = {"enabled": bool, "profile": str, "version": int, "observed": dict}
STATE_SHAPE: dict[str, type] = {"name": str, "head": str}
CNF_SHAPE: dict[str, type] = {"hpke": str, "sig": str}
RESULT_SHAPE: dict[str, type] = {
    "iss": str, "sub": str, "iat": int, "exp": int, "jti": str, "eat_nonce": str, "eat_profile": str,
    "ear_verifier_id": dict, "ear_status": str, "cnf": dict, "policy": str, "plan": str, "manifest": str,
    "composite": str, "container": str, "attempt": int, "evidence_sha256": str, "run_plan": str, "submods": dict,
}  # fmt: skip
HEAD_SHAPE: dict[str, type] = {"nonce": str, "head": str, "count": int, "adapter": str, "status": str}
EXIT_SHAPE: dict[str, type] = {
    "nonce": str, "head": str, "process_gone": bool, "exit_status": int, "workspace_entries": int, "gpu": dict, "scan": dict,
    "images": dict,
}  # fmt: skip
#: `held_ms`: at most so many milliseconds passed between the release and this receipt, by the server's clock.
RECEIPT_SHAPE: dict[str, type] = {
    "iss": str, "sub": str, "iat": int, "jti": str, "nonce": str, "head_sha256": str, "exit_sha256": str,
    "result_sha256": str, "manifest": str, "policy": str, "plan": str, "attempt": int, "held_ms": int,
}  # fmt: skip


def composite(components: Mapping[str, str]) -> str:
    """The digest of everything measured."""
    return tagged("glasshouse-composite/1", canonical(dict(components)))


def hpke_text(public: X25519PublicKey) -> str:
    """An X25519 key's 32 bytes, base64url."""
    return b64u(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def hpke_key(text: str) -> X25519PublicKey:
    """The key `hpke_text` wrote. Raises `IntegrityError("malformed")`."""
    return public_keys.x25519(unb64u(text))


def unsealed(message: bytes, *, private: X25519PrivateKey, info: bytes) -> bytes:
    """What was sealed to `private` under `info`. Raises `IntegrityError("sealed")`.

    The sender's ephemeral key comes first in a message; it is an untrusted public key, checked as any other.
    """
    try:
        public_keys.x25519(message[: public_keys.KEY_BYTES])
        return SUITE.decrypt(message, private, info=info)
    except (InvalidTag, ValueError, IntegrityError):
        raise IntegrityError("sealed", "not sealed to this key for this purpose") from None


def prove_enrolment(grant: str, *, key: Ed25519PrivateKey) -> str:
    """The agent's `proof`: its key's signature over the grant it enrols under."""
    return b64u(key.sign(_enrolment_bytes(grant)))


def check_enrolment(grant: str, proof: str, *, key: Ed25519PublicKey) -> None:
    """Refuse (`proof`) a proof that `key` did not make for this grant."""
    signature = unb64u(proof)
    try:
        key.verify(signature, _enrolment_bytes(grant))
    except InvalidSignature:
        raise IntegrityError("proof") from None


def _enrolment_bytes(grant: str) -> bytes:
    return b"glasshouse-enrol/1\n" + grant.encode()


def registration_info(manifest_sha256: str, owner_kid: str) -> bytes:
    """HPKE `info` under which the owner seals a data key to the server."""
    return f"glasshouse-register/1\n{manifest_sha256}\n{owner_kid}".encode()


def release_info(result_token: str, manifest_sha256: str) -> bytes:
    """HPKE `info` under which the server seals the data key to the leg: for this result and this package only."""
    return f"glasshouse-release/1\n{sha256_hex(result_token.encode())}\n{manifest_sha256}".encode()


def adapter_info(manifest_sha256: str, nonce: str) -> bytes:
    """HPKE `info` under which the leg seals the adapter to the owner."""
    return f"glasshouse-adapter/1\n{manifest_sha256}\n{nonce}".encode()


def evidence_claims(
    *,
    ak: Ed25519PublicKey,
    sub: str,
    aud: str,
    iat: int,
    jti: str,
    nonce: str,
    policy: str,
    plan: str,
    hpke: X25519PublicKey,
    sig: Ed25519PublicKey,
    components: Mapping[str, str],
    manifest: str,
    manifest_version: int,
    container: str,
    observed: Mapping[str, Json],
    memory: Mapping[str, Json],
    state_head: str,
) -> dict[str, Json]:
    """The claims of evidence, to be signed by the attestation key `ak` as `TYP_EVIDENCE`.

    `aud` is the server key's thumbprint, `iat` the challenge's `issued_at` plus whole seconds elapsed on a monotonic
    clock, `memory` is shaped as `MEMORY_SHAPE`, `state_head` is the head of the journal after `measured`.
    """
    return {
        "iss": thumbprint(ak),
        "sub": sub,
        "aud": aud,
        "iat": iat,
        "exp": iat + EVIDENCE_LIFETIME_S,
        "jti": jti,
        "eat_nonce": nonce,
        "eat_profile": EAT_PROFILE,
        "policy": policy,
        "plan": plan,
        "cnf": {"hpke": hpke_text(hpke), "sig": public_text(sig)},
        "composite": composite(components),
        "components": dict(components),
        "manifest": manifest,
        "manifest_version": manifest_version,
        "container": container,
        "antidebug": antidebug_claim(observed),
        "memory": dict(memory),
        "state": {"name": STATE, "head": state_head},
    }


def antidebug_claim(observed: Mapping[str, Json]) -> dict[str, Json]:
    """What a process observed of itself under the profile `strict`, as evidence claims it."""
    return {"enabled": True, "profile": ANTIDEBUG_PROFILE, "version": ANTIDEBUG_VERSION, "observed": dict(observed)}


def verify_result(
    token: str, *, server: Ed25519PublicKey, nonce: str, hpke: str, sig: str, manifest: str, policy: str, plan: str
) -> dict[str, Json]:
    """The claims of an attestation result that `server` made for exactly this session (`result-binding` otherwise)."""
    claims = verify(token, key=server, typ=TYP_RESULT)
    expect(claims, RESULT_SHAPE)
    bound: dict[str, Json] = {
        "iss": thumbprint(server), "eat_nonce": nonce, "eat_profile": EAR_PROFILE, "cnf": {"hpke": hpke, "sig": sig},
        "manifest": manifest, "policy": policy, "plan": plan, "ear_status": "affirming",
    }  # fmt: skip
    for name, value in bound.items():
        if claims[name] != value:
            raise IntegrityError("result-binding", name)
    return claims


@dataclass(frozen=True, kw_only=True)
class Cnf:
    """The two ephemeral keys evidence vouches for."""

    hpke: X25519PublicKey
    sig: Ed25519PublicKey


def read_cnf(claim: Json) -> Cnf:
    """The keys of a `cnf` claim, or `IntegrityError("cnf")`."""
    if not isinstance(claim, dict):
        raise IntegrityError("cnf")
    try:
        expect(claim, CNF_SHAPE)
        return Cnf(hpke=hpke_key(str(claim["hpke"])), sig=public_key(str(claim["sig"])))
    except IntegrityError as error:
        raise IntegrityError("cnf", error.detail) from None


def head_claims(*, nonce: str, head: str, count: int, adapter: str, status: str = "completed") -> dict[str, Json]:
    """What the leg's ephemeral key signs at its end (`TYP_HEAD`): the journal's last link and the adapter's digest."""
    return {"nonce": nonce, "head": head, "count": count, "adapter": adapter, "status": status}


def exit_claims(
    *,
    nonce: str,
    head_token: str,
    process_gone: bool,
    exit_status: int,
    workspace_entries: int,
    gpu: Mapping[str, Json],
    scan: Mapping[str, Json],
    images: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """What the agent signs once the leg's process is over (`TYP_EXIT`), bound to what it left; "" where there is nothing.

    A protected leg leaves its signed head, a raw leg its callback in canonical form.
    """
    return {
        "nonce": nonce,
        "head": sha256_hex(head_token.encode()) if head_token else "",
        "process_gone": process_gone,
        "exit_status": exit_status,
        "workspace_entries": workspace_entries,
        "gpu": dict(gpu),
        "scan": dict(scan),
        "images": {"status": "unseen", "reason": "not observed"} if images is None else dict(images),
    }


def borders_claims(
    *, nonce: str, roles: Sequence[str], turns: Sequence[str], borders: Sequence[Json], repeats: Sequence[Json] = ()
) -> dict[str, Json]:
    """What the agent signs when an interleaved round's turns are over (`TYP_BORDERS`).

    Who had which turn, and at each border the time and how much processor every leg had used. A turn has two borders, each
    `[t_ns, cpu_ns, processes, cpu_ns, processes, ...]` with a pair of numbers for every role. Each of `repeats` is a repetition
    of the prologue by the leg whose turn is next: the number of that `turn`, and both `borders` of the repetition.
    """
    return {"nonce": nonce, "roles": [*roles], "turns": [*turns], "borders": [*borders], "repeats": [*repeats]}


def stretches_claims(
    *,
    nonce: str,
    stretches: Sequence[Json],
    conditions: Sequence[Json],
    cpu_ns: Sequence[Json],
    waits: Sequence[Json],
    repeats: Sequence[Json] = (),
) -> dict[str, Json]:
    """What the agent signs of the timed stretches of a leg (`TYP_STRETCHES`), which `nonce` names as its exit does.

    A stretch is `[drained_ns, began_ns, drained_ns, ended_ns, units, waited_ns]` by the agent's clock: the leg read its own
    between the first two and between the others. `units` is what it had reported by its end, over all stretches; `waited_ns`
    how long leg and agent waited for a processor since the end of the stretch before.
    `conditions` are all that were seen. `cpuNs` bounds the leg's processor time of each stretch: read at the inner two of its
    times, and at the outer two. `waitsNs` is what leg and agent waited between both outer times and their inner ones, and from
    a stretch's end to that of its turn. Each of `repeats` is `after` how many stretches the leg was asked to repeat its
    prologue's first steps, and what `losses` it then told.
    """
    return {
        "nonce": nonce,
        "stretches": [*stretches],
        "conditions": [*conditions],
        "cpuNs": [*cpu_ns],
        "waitsNs": [*waits],
        "repeats": [*repeats],
    }


def _digest_of(value: object) -> str:
    return sha256_hex(canonical(value))


#: The digest of nothing foreign: the one reference value that needs no guest to be known.
NOTHING_FOREIGN = _digest_of([])
