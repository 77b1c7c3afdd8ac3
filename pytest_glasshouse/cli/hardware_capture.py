"""The `hardware` section of a policy: from a file, from NVIDIA's manifests, from evidence of a machine that you trust."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError, IntegrityError, RefusedError
from pytest_glasshouse.wire.hardware import NVIDIA_GPU, SEV_SNP, TDX

if TYPE_CHECKING:
    import argparse

    from pytest_glasshouse.owner.references import Hardware, SnpReferences, TdxReferences

#: NVIDIA's manifests have 20 KB; evidence of eight GPUs 100.
_FILE_LIMIT = 1 << 20


def add_options(capture: argparse.ArgumentParser) -> None:
    """Add what `policy capture` takes about hardware."""
    capture.add_argument(
        "--hardware",
        type=Path,
        metavar="FILE",
        help="require evidence of devices: a JSON file with the policy's `hardware` section",
    )
    capture.add_argument(
        "--rim", type=Path, action="append", default=[], metavar="FILE",
        help="require a GPU that measures what NVIDIA's signed manifest says; twice, for the driver and for the VBIOS",
    )  # fmt: skip
    capture.add_argument(
        "--rim-date", metavar="DATE", help="judge the manifests' certificates as of this day, YYYY-MM-DD (default: now)"
    )
    capture.add_argument(
        "--evidence", type=Path, action="append", default=[], metavar="FILE",
        help="require a TDX or SEV-SNP guest like the one whose quote or report this is; compare it with your image's own values",
    )  # fmt: skip
    capture.add_argument(
        "--collateral",
        type=Path,
        metavar="FILE",
        help="Intel's collateral for the quote of --evidence, as JSON; good for a month",
    )


def hardware_of(options: argparse.Namespace) -> Hardware | None:
    """The section that the options ask for, None for none. Raises `ConfigurationError`."""
    from pytest_glasshouse.owner.references import Hardware

    if options.hardware is not None:
        if options.rim or options.evidence or options.collateral:
            raise ConfigurationError(
                "--hardware: expected the whole section in that file, saw --rim, --evidence or --collateral too"
            )
        return _section(options.hardware)
    if options.collateral is not None and not options.evidence:
        raise ConfigurationError("--collateral: expected it with the quote of --evidence")
    if not options.rim and not options.evidence:
        return None
    found = Hardware()
    if options.rim:
        found = dataclasses.replace(_of_rims(options.rim, _day(options.rim_date)), required=(NVIDIA_GPU,))
    for path in options.evidence:
        found = _with_evidence(found, path, options.collateral)
    return found


def _section(path: Path) -> Hardware:
    from pytest_glasshouse.owner.references import Hardware
    from pytest_glasshouse.wire.bounded_file import read_named
    from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, parse_object

    content = read_named(path, what=f"--hardware {path}", limit=MESSAGE_LIMIT)
    try:
        return Hardware.from_json(parse_object(content))
    except IntegrityError as error:
        raise ConfigurationError(
            f"--hardware {path}: expected a policy's hardware section; {error.detail or error.reason}"
        ) from None


def _day(text: str | None) -> int:
    if text is None:
        return int(time.time())
    try:
        return int(dt.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=dt.UTC).timestamp())
    except ValueError:
        raise ConfigurationError(f"--rim-date {text}: expected a day as YYYY-MM-DD") from None


def _of_rims(paths: list[Path], now: int) -> Hardware:
    from pytest_glasshouse.attestation.nvidia_rim import read_rim, references
    from pytest_glasshouse.owner.references import NVIDIA_DEVICE_ROOT, NVIDIA_RIM_ROOT, Hardware
    from pytest_glasshouse.wire.bounded_file import read_named

    rims = []
    for path in paths:
        try:
            rims.append(read_rim(read_named(path, what=f"--rim {path}", limit=_FILE_LIMIT), roots=(NVIDIA_RIM_ROOT,), now=now))
        except RefusedError as refusal:
            late = "; was it valid on an earlier day? --rim-date" if refusal.reason == "chain-time" else ""
            raise ConfigurationError(f"--rim {path}: expected a manifest that NVIDIA signed; refused: {refusal}{late}") from None
    try:
        return Hardware(gpu=references(rims, device_root=NVIDIA_DEVICE_ROOT))
    except RefusedError as refusal:
        raise ConfigurationError(f"--rim: {refusal.detail}") from None


def _with_evidence(hardware: Hardware, path: Path, collateral: Path | None) -> Hardware:
    from pytest_glasshouse.attestation.evidence_file import read_evidence_file
    from pytest_glasshouse.wire.bounded_file import read_named
    from pytest_glasshouse.wire.canonical import unb64u

    what = f"--evidence {path}"
    try:
        shown = read_evidence_file(read_named(path, what=what, limit=_FILE_LIMIT))
        for item in shown.values():
            if item.type == SEV_SNP:
                hardware = dataclasses.replace(hardware, snp=_snp(unb64u(item.evidence), item.endorsements))
            elif item.type == TDX:
                hardware = dataclasses.replace(hardware, tdx=_tdx(unb64u(item.evidence), collateral))
            else:
                raise ConfigurationError(f"{what}: expected a TDX quote or an SEV-SNP report; for a GPU use --rim")
            hardware = dataclasses.replace(hardware, required=(*hardware.required, item.type))
    except (RefusedError, IntegrityError) as refusal:
        raise ConfigurationError(f"{what}: expected a TDX quote or an SEV-SNP report; {refusal}") from None
    return hardware


def _snp(data: bytes, endorsements: tuple[str, ...]) -> SnpReferences:
    from pytest_glasshouse.attestation import snp_report as snp
    from pytest_glasshouse.owner.references import AMD_ROOTS, SnpReferences

    report = snp.read_report(data)
    if report.allows(snp.DEBUG):
        raise RefusedError("snp-debug", "a guest that may be debugged is no reference")
    allowed = {"smt": snp.SMT, "migration": snp.MIGRATION}
    return SnpReferences(
        roots=AMD_ROOTS,
        measurements=(report.measurement.hex(),),
        tcb=snp.levels(report, turin=report.family is not None and report.family >= snp.TURIN_FAMILY),
        signers=(report.signer,) if report.signer else ("vcek",),
        host_data=(report.host_data.hex(),),
        allow=tuple(name for name, bit in allowed.items() if report.allows(bit)),
        certificates=endorsements[0] if endorsements else "",
    )


def _tdx(data: bytes, path: Path | None) -> TdxReferences:
    from pytest_glasshouse.attestation.tdx_quote import read_quote
    from pytest_glasshouse.owner.references import INTEL_ROOT, TdxReferences, issue_date, read_collateral
    from pytest_glasshouse.wire.bounded_file import read_named
    from pytest_glasshouse.wire.canonical import parse_object

    if path is None:
        raise ConfigurationError("--evidence: a TDX quote needs Intel's collateral beside it; give it with --collateral")
    quote = read_quote(data)
    if quote.debuggable:
        raise RefusedError("tdx-debug", "a guest that may be debugged is no reference")
    collateral = read_collateral(parse_object(read_named(path, what=f"--collateral {path}", limit=_FILE_LIMIT)))
    return TdxReferences(
        roots=(INTEL_ROOT,),
        collateral=collateral,
        collateral_date=issue_date(collateral),
        measurements={name: (value,) for name, value in quote.measurements.items()},
    )
