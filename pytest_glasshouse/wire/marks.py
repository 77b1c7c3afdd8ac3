"""Marks: times that the attestation server signs at the borders of timed stretches, and how the marks of a round are chained.

A mark's nonce is drawn by the agent at the border, so the server signed after it was drawn; the agent goes on only when it holds
the mark, so the server signed before that. Knows the forms that server, agent and reader agree on. Refuses to judge times:
`check.witnessed` does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypedDict

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, canonical, tagged
from pytest_glasshouse.wire.evidence import TYP_MARK
from pytest_glasshouse.wire.tokens import expect, verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

#: A mark: `number` counts the marks of the round from 1, `t_us` is the server's time in microseconds since 1970.
MARK_SHAPE: dict[str, type] = {
    "iss": str, "round": str, "nonce": str, "number": int, "t_us": int, "chain": str,
}  # fmt: skip


class MarkWanted(TypedDict):
    """Agent to host: a border was reached; the server shall sign its time for this nonce."""

    nonce: str


def is_nonce(text: str) -> bool:
    """Whether this is a nonce of a mark."""
    return re.fullmatch("[0-9a-f]{32}", text) is not None


def chained(before: str, nonce: str, t_us: int) -> str:
    """The chain of a round's marks with one more. `before` is the chain until then, and at first the round's nonce."""
    return tagged("glasshouse-mark/1", canonical([before, nonce, t_us]))


def chain_of(round_nonce: str, marks: Iterable[Sequence[str | int]]) -> str:
    """The chain of marks `[nonce, t_us]`, as the server makes it."""
    chain = round_nonce
    for nonce, t_us in marks:
        chain = chained(chain, str(nonce), int(t_us))
    return chain


def read_mark(token: str, *, server: Ed25519PublicKey, nonce: str) -> dict[str, Json]:
    """The claims of the mark that `server` signed for `nonce`. Raises `IntegrityError`."""
    claims = verify(token, key=server, typ=TYP_MARK)
    expect(claims, MARK_SHAPE)
    if claims["nonce"] != nonce:
        raise IntegrityError("mark", "another nonce's")
    return claims


def marks_claims(*, nonce: str, marks: Sequence[Json]) -> dict[str, Json]:
    """What the agent signs of a round's marks (`TYP_MARKS`), `nonce` being the round's.

    A mark is `[nonce, asked_ns, got_ns]`: by the agent's clock, when it asked for it and when it had it.
    """
    return {"nonce": nonce, "marks": [*marks]}
