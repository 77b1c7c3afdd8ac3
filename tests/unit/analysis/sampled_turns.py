"""Observations of rounds in which the device was sampled."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.wire import evidence, tokens

S = 1_000_000_000


KEY = Ed25519PrivateKey.generate()


FIELDS = ("t_ns", "sm_mhz", "throttle_reasons", "other_processes")


def observation_of(rows: list[tuple[str, list[int | None]]]) -> Any:
    """One round: each of `rows` is a turn of ten seconds with one sample in it."""
    turns = [role for role, _ in rows]
    borders: list[Any] = [[[place * 10 * S, 0, 1, 0, 1], [place * 10 * S + 9 * S, 0, 1, 0, 1]] for place in range(len(rows))]
    claims = evidence.borders_claims(nonce="n", roles=("protected", "raw"), turns=turns, borders=borders)
    samples = [[place * 10 * S + S, *values] for place, (_, values) in enumerate(rows)]
    return {
        "rounds": [
            {
                "round": 1,
                "borders": tokens.sign(claims, key=KEY, typ=evidence.TYP_BORDERS),
                "covariates": {"fields": list(FIELDS), "samples": samples, "reasons": {}},
            }
        ]
    }


def throttled() -> Any:
    """An observation of a machine whose hardware throttles all the time."""
    return observation_of([(role, [1980, 0x8, 0]) for role in ("protected", "raw", "raw")])
