"""Appraises an Intel TDX guest: its quote against collateral and references of a policy.

`dcap-qvl` (the extra `tdx`) verifies signatures, revocation and TCB, without a network: the owner gave the collateral. What it
leaves to its caller is judged here: it accepts any status, and takes a quote with anything behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pytest_glasshouse.attestation.certificates import pem_blocks
from pytest_glasshouse.attestation.device_evidence import DeviceEvidence, HardwareClaims, judged
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.attestation.tdx_quote import TdxQuote, read_quote
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.owner.references import TdxReferences
from pytest_glasshouse.wire.canonical import Json, canonical, parse_object, sha256_hex, unb64u
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import device_nonce, report_data

#: The largest verified report that the library gives, in characters.
_VERIFIED_LIMIT = 65_536
#: The PCK's certificate, its issuer's, Intel's root.
_CHAIN_LENGTH = 3
#: What the library says, in part, and the reason that it is.
_REASONS = {"xpired": "tdx-collateral-expired", "in the future": "tdx-collateral-expired", "evoked": "tdx-revoked"}


class TdxAppraiser:
    """A guest of TDX, at `now` (wall seconds)."""

    def __init__(self, now: int) -> None:
        self._now = now

    def appraise(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        return judged(lambda: self._judge(item, report_data(device_nonce(nonce, cnf)), policy))

    def _judge(self, item: DeviceEvidence, expected: bytes, policy: Policy) -> HardwareClaims:
        references = policy.hardware.tdx if policy.hardware else None
        if references is None:
            raise RefusedError("hardware-unpinned", "the policy has no collateral for this device")
        # 1. The form, to the last byte: a guest of TDX that nobody may look into.
        require(not item.endorsements, "tdx-collateral", "collateral is the owner's to give")
        quote = read_quote(unb64u(item.evidence))
        require(not quote.debuggable, "tdx-debug")
        require(not quote.migratable, "tdx-migration")
        # 2. Signatures to a pinned root, nothing revoked, collateral of today.
        status, advisories = verify(quote, references, now=self._now)
        # 3. The platform's state, and what is known against it.
        require(status in references.statuses, "tdx-status", status)
        open_advisories = sorted(set(advisories) - set(references.advisories))
        require(not open_advisories, "tdx-advisory", ", ".join(open_advisories))
        # 4. Bound to this session and these keys.
        require(quote.report_data == expected, "report-data")
        # 5. What was started.
        for name, allowed in references.measurements.items():
            require(quote.measurements[name] in allowed, "tdx-measurement", name)
        measured: dict[str, Json] = dict(quote.measurements)
        listed: list[Json] = [*advisories]
        return {
            "id": sha256_hex(quote.whole), "status": status, "advisories": listed, **measured,
            "collateral_date": references.collateral_date, "collateral_sha256": sha256_hex(canonical(references.collateral)),
        }  # fmt: skip


def verify(quote: TdxQuote, references: TdxReferences, *, now: int) -> tuple[str, list[str]]:
    """The platform's status and its advisories, where quote and collateral are genuine and valid at `now` (wall seconds).

    Raises `RefusedError`: `tdx-unavailable`, `tdx-collateral`, `tdx-collateral-expired`, `chain-root` or `tdx-quote`.
    """
    try:
        import dcap_qvl
    except ImportError:
        raise RefusedError("tdx-unavailable", "the server needs the extra `tdx`") from None
    # Of collateral, which is the owner's, either kind of newline will do.
    root = pem_blocks(references.collateral["tcb_info_issuer_chain"].replace("\r\n", "\n"))[-1]
    require(sha256_hex(root) in references.roots, "chain-root", "of the collateral")
    # The library does not look at the root inside the quote, nor at certificates that it does not need.
    require(len(quote.chain) == _CHAIN_LENGTH and quote.chain[-1] == root, "chain-root", "of the quote")

    def ask() -> str:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(dict(references.collateral)))
        return str(dcap_qvl.verify_with_root_ca(quote.whole, collateral, root, now).to_json())

    verified = _read_verified(_asked(ask))
    # The library read the same fields as we did.
    if any(verified["report"].get(name) != value for name, value in quote.fields.items()):
        raise RefusedError("tdx-quote", "read in two ways")
    return verified["status"], verified["advisories"]


def _asked(ask: Callable[[], str]) -> str:
    """What a library in another language answers. All that it raises is a refusal, its panics too, which are no `Exception`."""
    try:
        return ask()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001
        text = str(error)
    reason = next((reason for part, reason in _REASONS.items() if part in text), "tdx-quote")
    raise RefusedError(reason, text[:200])


def _read_verified(text: str) -> dict[str, Any]:
    """The library's report: `{status, advisory_ids, report: {kind: {field: hex}}}`."""
    try:
        found = parse_object(text, limit=_VERIFIED_LIMIT)
        status, advisories, report = found["status"], found["advisory_ids"], found["report"]
        (fields,) = report.values() if isinstance(report, dict) else ({},)
    except (IntegrityError, KeyError, ValueError):
        raise RefusedError("tdx-quote", "the library answered in another form") from None
    # TD 1.5 has the fields of TD 1.0 in a member of their own.
    inner = fields.get("base") if isinstance(fields, dict) and "base" in fields else fields
    if not isinstance(status, str) or not isinstance(advisories, list) or not isinstance(inner, dict):
        raise RefusedError("tdx-quote", "the library answered in another form")
    return {"status": status, "advisories": [str(each) for each in advisories], "report": inner}
