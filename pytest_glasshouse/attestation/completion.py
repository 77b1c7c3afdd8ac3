"""Checks the end of a session: the journal's head, signed by the leg, and the exit, signed by the agent.

Knows what both must say about a recorded release. Refuses to issue a receipt: the server does, when every step holds.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.attestation.ledger import Completion, Release
from pytest_glasshouse.attestation.messages import require, require_shape
from pytest_glasshouse.wire.canonical import is_sha256, sha256_hex
from pytest_glasshouse.wire.evidence import EXIT_SHAPE, HEAD_SHAPE, TYP_EXIT, TYP_HEAD
from pytest_glasshouse.wire.tokens import public_key, verify


def check_completion(
    head_token: str, exit_token: str, *, release: Release, ak: Ed25519PublicKey, completed: Completion | None
) -> tuple[str, str]:
    """The digests of both tokens, when every step holds. Raises `RefusedError` or `IntegrityError` otherwise.

    `ak` is the agent's key, `completed` what was countersigned for this release before.
    """
    # 2. The head: signed by the key the evidence vouched for, about this session.
    head = verify(head_token, key=public_key(release.sig), typ=TYP_HEAD)
    require_shape(head, HEAD_SHAPE, "head-claims")
    require(head["nonce"] == release.nonce, "head-claims", "nonce")
    require(is_sha256(head["head"]), "head-claims", "head")
    failed = head["status"] == "failed"
    require(head["status"] == "completed" or failed, "head-claims", "status")
    require(head["adapter"] == "" if failed else is_sha256(head["adapter"]), "head-claims", "adapter")
    # 3. One head per session: a second one is a fork.
    head_sha256, exit_sha256 = sha256_hex(head_token.encode()), sha256_hex(exit_token.encode())
    require(completed is None or completed.head_sha256 == head_sha256, "receipt", "another head was countersigned")
    # 4. The exit: signed by the agent, about this head, and the process is gone.
    exit_claims = verify(exit_token, key=ak, typ=TYP_EXIT)
    require_shape(exit_claims, EXIT_SHAPE, "exit-claims")
    require(exit_claims["nonce"] == release.nonce, "exit-claims", "nonce")
    require(exit_claims["head"] == head_sha256, "exit-claims", "head")
    require(exit_claims["process_gone"] is True, "exit-claims", "process_gone")
    require(completed is None or completed.exit_sha256 == exit_sha256, "receipt", "another exit was countersigned")
    return head_sha256, exit_sha256
