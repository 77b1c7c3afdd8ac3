"""Appraises what evidence says of every rank of a leg but the first: the numbered steps that `attestation.verifier` calls.

The first rank's measurements were appraised against the policy already; every other rank must be measured just as that one was.
How many there must be was registered with the run's plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.wire.canonical import Json, canonical
from pytest_glasshouse.wire.evidence import MOST_RANKS, RANK_SHAPE
from pytest_glasshouse.wire.tokens import public_key

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What may differ between the ranks of a leg: each has a GPU of its own.
_OF_A_DEVICE = "gpu-uuid"


def appraise_ranks(claims: Mapping[str, Json], *, planned: int) -> None:
    """Raise `RefusedError` or `IntegrityError` unless there are as many ranks as planned, each as the first.

    The first's claims must have been appraised.
    """
    ranks = claims.get("ranks", [])
    require(isinstance(ranks, list) and len(ranks) < MOST_RANKS, "claims-type", "ranks")
    assert isinstance(ranks, list)  # noqa: S101  (for the type checker)
    cnf = claims["cnf"]
    keys = {str(cnf["sig"])} if isinstance(cnf, dict) else set()
    for number, rank in enumerate(ranks, 1):
        require(
            isinstance(rank, dict)
            and rank.keys() == RANK_SHAPE.keys()
            and all(type(rank[name]) is kind for name, kind in RANK_SHAPE.items()),
            "claims-type",
            "ranks",
        )
        assert isinstance(rank, dict)  # noqa: S101  (for the type checker)
        # a. The ranks are numbered without a gap: none is left out between two others.
        require(rank["rank"] == number, "rank-number", f"rank {number} is numbered {rank['rank']}")
        # b. The code that was measured is the first rank's.
        require(_measured(rank["components"]) == _measured(claims["components"]), "rank-composite", f"rank {number}")
        # c. So is what it observed of itself.
        require(canonical(rank["antidebug"]) == canonical(claims["antidebug"]), "rank-antidebug", f"rank {number}")
        # d. Its journal is signed by a key of its own.
        public_key(str(rank["sig"]))
        require(rank["sig"] not in keys, "rank-key", f"rank {number}")
        keys.add(str(rank["sig"]))
    # e. There are as many as the plan of the run names.
    require(len(ranks) + 1 == planned, "ranks", f"{len(ranks) + 1} of {planned}")


def _measured(components: Json) -> dict[str, Json]:
    return {name: value for name, value in components.items() if name != _OF_A_DEVICE} if isinstance(components, dict) else {}
