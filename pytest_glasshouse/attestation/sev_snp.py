"""Appraises an AMD SEV-SNP guest: its attestation report against the references of a policy."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pytest_glasshouse.attestation import snp_report as snp
from pytest_glasshouse.attestation.certificates import check_issuers, check_raw, load, pem_blocks, read_raw
from pytest_glasshouse.attestation.device_evidence import DeviceEvidence, HardwareClaims, judged
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.policy import Policy
from pytest_glasshouse.wire.canonical import Json, sha256_hex, unb64u
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import device_nonce, report_data

#: The signer's own certificate, its issuer's, AMD's root.
_CHAIN_LENGTH = 3


class SnpAppraiser:
    """A guest of SEV-SNP, at `now` (wall seconds)."""

    def __init__(self, now: int) -> None:
        self._now = now

    def appraise(self, item: DeviceEvidence, nonce: str, cnf: Cnf, policy: Policy) -> tuple[str, HardwareClaims]:
        return judged(lambda: self._judge(item, report_data(device_nonce(nonce, cnf)), policy))

    def _judge(self, item: DeviceEvidence, expected: bytes, policy: Policy) -> HardwareClaims:
        references = policy.hardware.snp if policy.hardware else None
        if references is None:
            raise RefusedError("hardware-unpinned", "the policy has no root for this device")
        # 1. The form, to the last byte.
        report = snp.read_report(unb64u(item.evidence))
        # 2. A chain to a pinned root: the guest's, or the one that the owner gave. The kind of key is the policy's to accept.
        require(len(item.endorsements) <= 1, "chain-format", "one chain")
        pem = item.endorsements[0] if item.endorsements else references.certificates
        key, _ = key_of(report, pem, roots=references.roots, now=self._now)
        require(key.signer in references.signers, "snp-signer", key.signer)
        # 3. Of that chip and its TCB, and none that is outdated.
        snp.check_key(report, key)
        levels = snp.tcb(report, key)
        for name, least in references.tcb.items():
            require(levels.get(name, -1) >= least, "snp-tcb", f"{name}: {levels.get(name)} of {least}")
        # 4. A guest that nobody may look into, at the level that owns its memory.
        require(not report.allows(snp.DEBUG), "snp-debug")
        require(report.vmpl == 0, "snp-vmpl", str(report.vmpl))
        require(not report.allows(snp.MIGRATION) or "migration" in references.allow, "snp-migration")
        require(not report.allows(snp.SMT) or "smt" in references.allow, "snp-smt")
        # 5. Bound to this session and these keys.
        require(report.report_data == expected, "report-data")
        # 6. The image that was started, and what its host was told.
        require(report.measurement.hex() in references.measurements, "snp-measurement")
        require(not references.host_data or report.host_data.hex() in references.host_data, "snp-host-data")
        return _claims(report, key, levels)


def key_of(report: snp.SnpReport, pem: str, *, roots: Collection[str] | None, now: int) -> tuple[snp.SnpKey, str]:
    """The key that signed the report, by its chain to one of `roots` (None: any), and the root's digest.

    Raises `RefusedError`: `chain-*` or `snp-signature`.
    """
    leaf, *issuers = pem_blocks(pem)
    require(len(issuers) == _CHAIN_LENGTH - 1, "chain-format", "length")
    chain = [load(each) for each in issuers]
    root = sha256_hex(issuers[-1])
    check_issuers(chain, roots=(root,) if roots is None else roots, now=now)
    certificate = read_raw(leaf)
    check_raw(certificate, chain[0], now=now)
    key = snp.read_key(certificate)
    snp.check_signature(report, certificate)
    return key, root


def _claims(report: snp.SnpReport, key: snp.SnpKey, levels: Mapping[str, int]) -> HardwareClaims:
    tcb: dict[str, Json] = dict(levels)
    return {
        "id": report.report_id.hex(), "product": key.product, "signer": key.signer, "tcb": tcb,
        "measurement": report.measurement.hex(), "host_data": report.host_data.hex(),
        "smt": report.allows(snp.SMT), "migration": report.allows(snp.MIGRATION),
    }  # fmt: skip
