"""The `hardware` section of a policy: required devices, trusted roots and allowed measurements.

Knows reference values and nothing else. Refuses an empty list: a comparison with nothing never passes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, parse_object
from pytest_glasshouse.wire.hardware import ITEMS_LIMIT, NVIDIA_GPU, SEV_SNP, TDX

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA384 = re.compile(r"[0-9a-f]{96}")
_INDEX = re.compile(r"[1-9][0-9]{0,2}")
_CHIP = re.compile(r"[A-Z0-9]{1,16}")
_MODE = re.compile(r"single|multi|protected-pcie")
#: Components of an AMD processor's TCB. `fmc` is there from Turin on.
TCB_COMPONENTS = frozenset({"bootloader", "tee", "snp", "microcode", "fmc"})
TDX_MEASUREMENTS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid")
#: The texts of TDX collateral: chains in PEM, lists of revoked certificates and signatures in hexadecimal, Intel's own JSON.
COLLATERAL = (
    "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature",
    "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature",
)  # fmt: skip
_PCK_CHAIN = "pck_certificate_chain"
#: Root certificates that the makers publish, by the SHA-256 of their DER.
NVIDIA_DEVICE_ROOT = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
NVIDIA_RIM_ROOT = "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"
INTEL_ROOT = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
#: Of the processors Milan, Genoa and Turin.
AMD_ROOTS = (
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
)
KNOWN_ROOTS = {
    NVIDIA_DEVICE_ROOT: "NVIDIA Device Identity CA",
    NVIDIA_RIM_ROOT: "NVIDIA CoRIM signing Root CA",
    INTEL_ROOT: "Intel SGX Root CA",
    **dict(zip(AMD_ROOTS, ("AMD ARK-Milan", "AMD ARK-Genoa", "AMD ARK-Turin"), strict=True)),
}
_SIGNER = re.compile(r"vcek|vlek")
_ALLOWED = re.compile(r"smt|migration")
_PEM = re.compile(r"[\x20-\x7e\n]{1,16384}")
_COLLATERAL_TEXT = re.compile(r"[\x20-\x7e\r\n]{1,32768}")
_STATUS = re.compile(r"[A-Za-z]{1,64}")
_ADVISORY = re.compile(r"INTEL-[A-Z]{2,8}-[0-9]{1,8}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_IF_REPORTED = "if-reported"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class GpuReferences:
    """What an NVIDIA GPU's evidence must show.

    `roots` are SHA-256 digests of root certificates; `measurements` maps a measurement's index to its allowed SHA-384 values.
    Other measurements may have any value. `vbios` is compared without regard to case. `models` are chips (GH100), none of them
    for any; `modes` are `single`, `multi` and `protected-pcie`; `count` is the number of GPUs, None for any. A driver that
    reports no firmware id is accepted where `firmware_id_required` is false.
    """

    roots: tuple[str, ...]
    drivers: tuple[str, ...]
    vbios: tuple[str, ...]
    measurements: Mapping[str, tuple[str, ...]]
    models: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("single",)
    count: int | None = None
    firmware_id_required: bool = True

    def to_json(self) -> dict[str, Json]:
        measurements: dict[str, Json] = {index: list(values) for index, values in self.measurements.items()}
        # What requires nothing has no member, so that a policy's digest stays the same.
        optional: dict[str, Json] = {
            "models": list(self.models) or None,
            "modes": list(self.modes) if self.modes != ("single",) else None,
            "count": self.count,
            "firmware_id": None if self.firmware_id_required else _IF_REPORTED,
        }
        return {
            "roots": list(self.roots),
            "drivers": list(self.drivers),
            "vbios": list(self.vbios),
            "measurements": measurements,
            **{name: value for name, value in optional.items() if value is not None},
        }

    @classmethod
    def from_json(cls, value: Json) -> GpuReferences:
        """The references `to_json` wrote. Raises `IntegrityError("policy")`."""
        needed = {"roots", "drivers", "vbios", "measurements"}
        value = _members(value, NVIDIA_GPU, needed, {"models", "modes", "count", "firmware_id"})
        measured, count = value["measurements"], value.get("count")
        if "count" in value and (type(count) is not int or not 0 < count <= ITEMS_LIMIT):
            raise IntegrityError("policy", f"hardware count: 1 to {ITEMS_LIMIT}")
        if value.get("firmware_id", _IF_REPORTED) != _IF_REPORTED:
            raise IntegrityError("policy", f"hardware firmware_id: expected {_IF_REPORTED}, or no such member")
        if not isinstance(measured, dict) or not measured or not all(map(_INDEX.fullmatch, measured)):
            raise IntegrityError("policy", "hardware measurements")
        return cls(
            roots=_texts(value["roots"], _SHA256, "roots"),
            drivers=_texts(value["drivers"], _VERSION, "drivers"),
            vbios=_texts(value["vbios"], _VERSION, "vbios"),
            measurements={index: _texts(values, _SHA384, f"measurement {index}") for index, values in measured.items()},
            models=_texts(value["models"], _CHIP, "models") if "models" in value else (),
            modes=_texts(value["modes"], _MODE, "modes") if "modes" in value else ("single",),
            count=count if isinstance(count, int) else None,
            firmware_id_required="firmware_id" not in value,
        )


@dataclass(frozen=True, kw_only=True)
class SnpReferences:
    """What a guest of AMD SEV-SNP must show.

    `roots` are SHA-256 digests of AMD's root certificates. `signers` are kinds of key (`vcek`, `vlek`). `tcb` is the least
    number of each component; one that a processor does not have is never reached. `host_data` may have any value where none is
    named. `allow` names what the guest's own policy may allow: `smt`, `migration`. Debugging is never allowed. `certificates`
    is the chain (PEM: key, issuer, root) for guests whose host gives them none, "" for none.
    """

    roots: tuple[str, ...]
    measurements: tuple[str, ...]
    tcb: Mapping[str, int]
    signers: tuple[str, ...] = ("vcek",)
    host_data: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    certificates: str = ""

    def to_json(self) -> dict[str, Json]:
        tcb: dict[str, Json] = dict(self.tcb)
        optional: dict[str, Json] = {
            "host_data": list(self.host_data), "allow": list(self.allow), "certificates": self.certificates,
        }  # fmt: skip
        return {
            "roots": list(self.roots),
            "measurements": list(self.measurements),
            "tcb": tcb,
            "signers": list(self.signers),
            **{name: value for name, value in optional.items() if value},
        }

    @classmethod
    def from_json(cls, value: Json) -> SnpReferences:
        """The references `to_json` wrote. Raises `IntegrityError("policy")`."""
        found = _members(value, SEV_SNP, {"roots", "measurements", "tcb", "signers"}, {"host_data", "allow", "certificates"})
        tcb = found["tcb"]
        if not isinstance(tcb, dict) or not tcb or not tcb.keys() <= TCB_COMPONENTS:
            raise IntegrityError("policy", f"hardware tcb: expected some of {', '.join(sorted(TCB_COMPONENTS))}")
        if any(type(least) is not int or not 0 <= least < 256 for least in tcb.values()):  # noqa: PLR2004
            raise IntegrityError("policy", "hardware tcb: expected numbers from 0 to 255")
        return cls(
            roots=_texts(found["roots"], _SHA256, "roots"),
            measurements=_texts(found["measurements"], _SHA384, "measurements"),
            tcb={name: int(str(least)) for name, least in tcb.items()},
            signers=_texts(found["signers"], _SIGNER, "signers"),
            host_data=_texts(found["host_data"], _SHA256, "host_data") if "host_data" in found else (),
            allow=_texts(found["allow"], _ALLOWED, "allow") if "allow" in found else (),
            certificates=_texts([found["certificates"]], _PEM, "certificates")[0] if "certificates" in found else "",
        )


@dataclass(frozen=True, kw_only=True)
class TdxReferences:
    """What a guest of Intel TDX must show.

    `roots` are SHA-256 digests of Intel's root certificate. `collateral` is what Intel says about the platform, as nine texts
    (see `COLLATERAL`), and `collateral_date` the date of issue in it: it is valid for about a month. `statuses` are accepted
    states of the platform, `advisories` those that are accepted beside one. `measurements` maps each of `TDX_MEASUREMENTS` to
    its allowed values.
    """

    roots: tuple[str, ...]
    collateral: Mapping[str, str]
    collateral_date: str
    measurements: Mapping[str, tuple[str, ...]]
    statuses: tuple[str, ...] = ("UpToDate",)
    advisories: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        measurements: dict[str, Json] = {name: list(values) for name, values in self.measurements.items()}
        collateral: dict[str, Json] = dict(self.collateral)
        return {
            "roots": list(self.roots),
            "collateral": collateral,
            "collateral_date": self.collateral_date,
            "measurements": measurements,
            "statuses": list(self.statuses),
            **({"advisories": list(self.advisories)} if self.advisories else {}),
        }

    @classmethod
    def from_json(cls, value: Json) -> TdxReferences:
        """The references `to_json` wrote. Raises `IntegrityError("policy")`."""
        needed = {"roots", "collateral", "collateral_date", "measurements", "statuses"}
        found = _members(value, TDX, needed, {"advisories"})
        measured = found["measurements"]
        if not isinstance(measured, dict) or measured.keys() != set(TDX_MEASUREMENTS):
            raise IntegrityError("policy", f"hardware measurements: expected {', '.join(TDX_MEASUREMENTS)}")
        collateral = read_collateral(found["collateral"])
        if found["collateral_date"] != issue_date(collateral):
            raise IntegrityError("policy", "hardware collateral_date: expected the date of issue in the collateral")
        return cls(
            roots=_texts(found["roots"], _SHA256, "roots"),
            collateral=collateral,
            collateral_date=issue_date(collateral),
            measurements={name: _texts(values, _SHA384, name) for name, values in measured.items()},
            statuses=_texts(found["statuses"], _STATUS, "statuses"),
            advisories=_texts(found["advisories"], _ADVISORY, "advisories") if "advisories" in found else (),
        )


def read_collateral(value: Json) -> dict[str, str]:
    """Collateral, its nine texts and nothing else. Raises `IntegrityError("policy")`.

    Clients that fetch it may add the chain of the platform's key, which is left out: that in the quote is the one that counts.
    """
    found = _members(value, "collateral", set(COLLATERAL), {_PCK_CHAIN})
    texts = {
        name: text
        for name, text in found.items()
        if name != _PCK_CHAIN and isinstance(text, str) and _COLLATERAL_TEXT.fullmatch(text)
    }
    if len(texts) != len(COLLATERAL):
        raise IntegrityError("policy", "hardware collateral: expected texts")
    return texts


def issue_date(collateral: Mapping[str, str]) -> str:
    """When Intel issued the TCB info in the collateral. Raises `IntegrityError("policy")`."""
    date = parse_object(collateral["tcb_info"]).get("issueDate")
    if not isinstance(date, str) or not _DATE.fullmatch(date):
        raise IntegrityError("policy", "hardware collateral: no date of issue")
    return date


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The kinds of device whose evidence is required, and the references for each kind that may be shown."""

    required: tuple[str, ...] = ()
    gpu: GpuReferences | None = None
    snp: SnpReferences | None = None
    tdx: TdxReferences | None = None

    def to_json(self) -> dict[str, Json]:
        found: dict[str, Json] = {"required": list(self.required)}
        sections = {NVIDIA_GPU: self.gpu, SEV_SNP: self.snp, TDX: self.tdx}
        return {**found, **{name: section.to_json() for name, section in sections.items() if section is not None}}

    @classmethod
    def from_json(cls, value: Json) -> Hardware:
        """The section `to_json` wrote. Raises `IntegrityError("policy")`."""
        found = _members(value, "hardware", {"required"}, {NVIDIA_GPU, SEV_SNP, TDX})
        sections = len(found) > 1
        return cls(
            required=_texts(found["required"], _VERSION, "required") if found["required"] or not sections else (),
            gpu=GpuReferences.from_json(found[NVIDIA_GPU]) if NVIDIA_GPU in found else None,
            snp=SnpReferences.from_json(found[SEV_SNP]) if SEV_SNP in found else None,
            tdx=TdxReferences.from_json(found[TDX]) if TDX in found else None,
        )


def _members(value: Json, name: str, needed: set[str], optional: set[str]) -> dict[str, Json]:
    if not isinstance(value, dict) or not needed <= value.keys() <= needed | optional:
        raise IntegrityError("policy", f"hardware {name}")
    return value


def _texts(value: Json, form: re.Pattern[str], name: str) -> tuple[str, ...]:
    found = tuple(text for text in value if isinstance(text, str) and form.fullmatch(text)) if isinstance(value, list) else ()
    if not isinstance(value, list) or not found or len(set(found)) != len(value):
        raise IntegrityError("policy", f"hardware {name}")
    return found
