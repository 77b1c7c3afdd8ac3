"""Evidence that others recorded from real devices: read from beside the checkout, in no commit of this project.

`serving` puts it before a real server over loopback. What the recordings were made for is not the server's nonce, so the function that
derives it is replaced, and nothing else.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.attestation import nvidia_gpu, sev_snp, tdx
from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.attestation.certificates import as_pem, pem_blocks
from pytest_glasshouse.attestation.snp_report import read_report
from pytest_glasshouse.attestation.tdx_quote import read_quote
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.references import GpuReferences, Hardware, SnpReferences, TdxReferences, issue_date, read_collateral
from pytest_glasshouse.tamper.fake_gpu import item
from pytest_glasshouse.tamper.testbed import SUB, TamperTestbed
from pytest_glasshouse.wire.canonical import Json, b64u, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_RESULT
from pytest_glasshouse.wire.hardware import NVIDIA_GPU, SEV_SNP, TDX, named
from pytest_glasshouse.wire.tokens import verify

VECTORS = Path(os.environ.get("GLASSHOUSE_VECTORS", Path(__file__).parents[4] / "shared" / "vectors"))
NOW = 1_800_000_000
#: Of the bits that are flipped with SOAK=1, every so many without.
_SAMPLE = 40


@pytest.fixture
def vectors() -> None:
    """The recordings are there. In CI they have to be, unless it says that it has none."""
    if not (VECTORS / "README.md").is_file():
        if os.environ.get("CI") and os.environ.get("GLASSHOUSE_VECTORS") != "none":
            pytest.fail(f"expected the recorded evidence of others in {VECTORS}; put it there, or set GLASSHOUSE_VECTORS=none")
        pytest.skip(f"needs the recorded evidence of others, which is in no commit; looked in {VECTORS}")


needs_vectors = pytest.mark.usefixtures("vectors")


@dataclass(frozen=True, kw_only=True)
class RecordedGpu:
    """One GPU's evidence and chain."""

    evidence: bytes
    pem: str

    @property
    def measured(self) -> spdm.SpdmMeasurements:
        return spdm.read_evidence(self.evidence)

    def item(self) -> dict[str, Json]:
        return item(self.evidence, self.pem)

    def hardware(self, root: str, **changed: Any) -> Hardware:
        """A policy that this device satisfies: its own versions, and every measurement it reports."""
        measured = self.measured
        references = GpuReferences(
            roots=(root,),
            drivers=(measured.driver,),
            vbios=(measured.vbios.lower(),),
            measurements={str(index): (value.hex(),) for index, value in measured.blocks.items()},
        )
        return Hardware(required=(NVIDIA_GPU,), gpu=dataclasses.replace(references, **changed))


def nvidia(report: str, chain: str) -> RecordedGpu:
    """A report in hexadecimal and its chain."""
    folder = VECTORS / "nvidia"
    return RecordedGpu(
        evidence=bytes.fromhex((folder / report).read_text("ascii").strip()), pem=(folder / chain).read_text("ascii")
    )


def nvidia_json(name: str) -> list[RecordedGpu]:
    """The GPUs of a file as NVIDIA's SDK writes it."""
    return [
        RecordedGpu(evidence=base64.b64decode(each["evidence"]), pem=base64.b64decode(each["certificate"]).decode("ascii"))
        for each in json.loads((VECTORS / "nvidia" / name).read_text("ascii"))
    ]


def nvidia_root() -> str:
    """The digest of NVIDIA's device root."""
    from cryptography import x509

    from pytest_glasshouse.attestation.certificates import fingerprint

    return fingerprint(x509.load_pem_x509_certificate((VECTORS / "nvidia" / "verifier_device_root.pem").read_bytes()))


def tdx_quote() -> bytes:
    """A TDX quote, with the zeros behind it."""
    return (VECTORS / "tdx" / "tdx_quote").read_bytes()


def tdx_hardware(**changed: Any) -> Hardware:
    """A policy that the TDX quote satisfies while its collateral is valid."""
    collateral = read_collateral(json.loads((VECTORS / "tdx" / "tdx_quote_collateral.json").read_text("ascii")))
    measured = read_quote(tdx_quote()).measurements
    references = TdxReferences(
        roots=(sha256_hex(pem_blocks(collateral["tcb_info_issuer_chain"])[-1]),),
        collateral=collateral,
        collateral_date=issue_date(collateral),
        measurements={name: (value,) for name, value in measured.items()},
    )
    return Hardware(required=(TDX,), tdx=dataclasses.replace(references, **changed))


def tdx_item(quote: bytes | None = None) -> dict[str, Json]:
    """The quote as a device's evidence."""
    return {"type": TDX, "evidence": b64u(tdx_quote() if quote is None else quote), "endorsements": []}


def after_issue(hardware: Hardware, seconds: int = 3600) -> int:
    """So many seconds after the collateral was issued."""
    assert hardware.tdx is not None
    return int(dt.datetime.fromisoformat(hardware.tdx.collateral_date).timestamp()) + seconds


def snp_report() -> bytes:
    """A report of SEV-SNP."""
    return (VECTORS / "snp" / "attestation.bin").read_bytes()


def snp_chain() -> str:
    """The chain of its VCEK: as DER and PEM lie beside it."""
    folder = VECTORS / "snp"
    return as_pem((folder / "vcek.testcer").read_bytes()) + (folder / "milan.testcer").read_text("ascii")


def snp_item(report: bytes | None = None) -> dict[str, Json]:
    """The report and its chain as a device's evidence."""
    return {"type": SEV_SNP, "evidence": b64u(snp_report() if report is None else report), "endorsements": [snp_chain()]}


def snp_hardware(**changed: Any) -> Hardware:
    """A policy for the SNP report: its measurement, and the TCB of its VCEK."""
    references = SnpReferences(
        roots=(sha256_hex(pem_blocks(snp_chain())[-1]),),
        measurements=(read_report(snp_report()).measurement.hex(),),
        tcb={"bootloader": 2, "tee": 0, "snp": 5, "microcode": 68},
        allow=("smt", "migration"),
    )
    return Hardware(required=(SEV_SNP,), snp=dataclasses.replace(references, **changed))


#: Shows a server devices' evidence on a fresh nonce: the submods of its result. Raises `RefusedError` with its reason.
Ask = Callable[[Mapping[str, Json]], dict[str, dict[str, Json]]]


@contextlib.contextmanager
def serving(hardware: Hardware, *, nonce32: bytes = b"", report_data: bytes = b"", now: int = NOW) -> Iterator[Ask]:
    """A server whose policy has this section, and sessions with it. What it releases for is counted: once, or never."""
    with pytest.MonkeyPatch.context() as patched, TamperTestbed() as testbed:
        for module in (sev_snp, tdx) if report_data else ():
            patched.setattr(module, "report_data", lambda _nonce: report_data)
        if nonce32:
            patched.setattr(nvidia_gpu, "device_nonce", lambda _nonce, _cnf: nonce32)
        testbed.now = now
        testbed.policy = dataclasses.replace(testbed.make_policy(name="recorded"), hardware=hardware)
        testbed.sealed = testbed.seal()
        testbed.register(testbed.sealed, testbed.policy)
        testbed.enrol(f"{SUB}/recorded", grant=testbed.grant(f"{SUB}/recorded"))

        def ask(devices: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
            attempt = testbed.attempt(f"{SUB}/recorded")
            attempt.devices = dict(devices)
            attempt.claims["submods"] = named(attempt.devices)
            testbed.reset_release_count()
            try:
                released = attempt.release()
            except RefusedError:
                assert testbed.releases_since_reset() == 0
                raise
            assert testbed.releases_since_reset() == 1
            result: Any = verify(released["result"], key=testbed.embedded.public_key, typ=TYP_RESULT)
            attempt.unseal(released).close()
            return {name: submod for name, submod in result["submods"].items() if name != "runtime"}

        yield ask


def show(devices: Mapping[str, Json], hardware: Hardware, **served: Any) -> dict[str, dict[str, Json]]:
    """The submods of the result that a server gives for these devices. Raises `RefusedError` with the server's reason."""
    with serving(hardware, **served) as ask:
        return ask(devices)


def with_one_bit_flipped(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every ninth byte's place, and `data` with one bit of it flipped; by itself some of these, with SOAK=1 all."""
    for at in range(0, len(data), 9 if os.environ.get("SOAK") == "1" else 9 * _SAMPLE):
        yield at, data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]
