"""Tampered evidence of processors (SEV-SNP, TDX), alone and beside a GPU: everything around it is valid and signed.

Each case first shows that the unchanged evidence is released. The processors are simulated. Cases of TDX are
played where the extra `tdx` is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.attestation import snp_report as snp
from pytest_glasshouse.attestation.certificates import as_pem
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.tamper import fake_gpu, fake_snp, fake_tdx
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.fake_snp import LEVELS, TURIN_LEVELS, FakeAmd, SnpFields, extensions, genuine_amd, make_amd
from pytest_glasshouse.tamper.fake_tdx import FakeIntel, QuoteFields, genuine_intel, make_intel, shown
from pytest_glasshouse.tamper.hardware import play_devices
from pytest_glasshouse.tamper.testbed import Attempt, TamperTestbed
from pytest_glasshouse.wire import der
from pytest_glasshouse.wire.canonical import Json, unb64u
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import NVIDIA_GPU, SEV_SNP, device_nonce, report_data

Bytes = Callable[[bytes], bytes]
T = TypeVar("T")


def data_of(attempt: Attempt, *, nonce: str | None = None, sig: Ed25519PrivateKey | None = None) -> bytes:
    """The report data that this session's evidence must carry, or that of another nonce or other keys."""
    cnf = Cnf(hpke=attempt.hpke.public_key(), sig=(sig or attempt.sig).public_key())
    return report_data(device_nonce(nonce or attempt.nonce, cnf))


def _fields(kind: type[T], attempt: Attempt, changed: dict[str, Any]) -> T:
    """The fields of valid evidence, some of them changed."""
    return kind(**{"report_data": data_of(attempt), **changed})


def _case(name: str, reason: str, play: Callable[[TamperTestbed], None], caught_by: str = "appraise_hardware") -> Case:
    return Case(name=f"hardware-{name}", play=play, expected_reason=reason, caught_by=caught_by, nonce="spent")


def _unpinned(name: str, maker: Callable[[int], Any], valid: Callable[[Attempt, Any], dict[str, Json]]) -> Case:
    """Valid evidence under a policy that has no references for this kind of device."""

    def play(testbed: TamperTestbed) -> None:
        made = maker(testbed.now)
        parts: dict[str, Hardware | None] = {"control": made.hardware(), "attack": None}
        play_devices(testbed, name, {part: (hardware, lambda a: valid(a, made)) for part, hardware in parts.items()})

    return _case(name, "hardware-unpinned", play)


# --------------------------------------------------------------------------------------------------------------- SEV-SNP

AmdShow = Callable[[Attempt, FakeAmd], "dict[str, Json] | None"]


def _snp(
    name: str,
    reason: str,
    show: AmdShow,
    *,
    chip: Callable[[int], FakeAmd] = genuine_amd,
    pinned: Callable[[int], FakeAmd] | None = None,
    **references: Any,
) -> Case:
    """Evidence of a processor (`chip`) under a policy that pins it, or another (`pinned`), with changed references."""

    def play(testbed: TamperTestbed) -> None:
        good, made = genuine_amd(testbed.now), chip(testbed.now)
        attack = (made if pinned is None else pinned(testbed.now)).hardware(**references)
        play_devices(testbed, name, {
            "control": (good.hardware(), lambda attempt: _snp_valid(attempt, good)),
            "attack": (attack, lambda attempt: show(attempt, made)),
        })  # fmt: skip

    return _case(f"snp-{name}", reason, play, "sev_snp snp_report check_raw read_raw")


def _snp_valid(attempt: Attempt, chip: FakeAmd) -> dict[str, Json]:
    return {"cpu": chip.item(SnpFields(report_data=data_of(attempt)))}


def _snp_fields(
    name: str, reason: str, *, chip: Callable[[int], FakeAmd] = genuine_amd, references: Any = None, **changed: Any
) -> Case:
    """A report with changed fields, signed by the processor."""
    return _snp(
        name, reason, lambda attempt, made: {"cpu": made.item(_fields(SnpFields, attempt, changed))},
        chip=chip, **(references or {}),
    )  # fmt: skip


def _snp_bytes(name: str, reason: str, change: Bytes) -> Case:
    """A valid report, changed after it was signed."""
    return _snp(
        name, reason, lambda attempt, made: {"cpu": made.shown(change(made.sign(bytes(SnpFields(report_data=data_of(attempt))))))}
    )


def _snp_leaf(name: str, reason: str, certificate: str = "leaf", **changes: Any) -> Case:
    """A valid report under a chain with one changed certificate."""
    return _snp(name, reason, _snp_valid, chip=lambda now: make_amd(now, certificate, **changes))


def _snp_raw(name: str, reason: str, old: str, new: str, *, chip: Callable[[int], FakeAmd] = genuine_amd) -> Case:
    """The leaf with some of its bytes replaced where they first are."""

    def show(attempt: Attempt, made: FakeAmd) -> dict[str, Json]:
        leaf = made.chain[0].replace(bytes.fromhex(old), bytes.fromhex(new), 1)
        return _snp_valid(attempt, replace(made, chain=(leaf, *made.chain[1:])))

    return _snp(name, reason, show, chip=chip)


def _retagged(made: FakeAmd) -> FakeAmd:
    """The leaf's extensions in the place of a unique identifier."""
    leaf = made.chain[0]
    *_, wrapped = der.sequence(leaf)[0].children()
    return replace(made, chain=(leaf.replace(wrapped.whole, b"\xa1" + wrapped.whole[1:]), *made.chain[1:]))


def _snp_chain(name: str, reason: str, change: Callable[[tuple[bytes, ...]], list[Json]]) -> Case:
    def show(attempt: Attempt, made: FakeAmd) -> dict[str, Json]:
        item: Any = _snp_valid(attempt, made)["cpu"]
        return {"cpu": {**item, "endorsements": change(made.chain)}}

    return _snp(name, reason, show)


def _over(at: int, content: bytes) -> tuple[tuple[int, bytes], ...]:
    return ((at, content),)


def _put(at: int, content: bytes) -> Bytes:
    return lambda data: data[:at] + content + data[at + len(content) :]


_ONE = 1 << snp.ALWAYS_ONE
_TURIN = extensions(product="Turin-B0", levels=TURIN_LEVELS)
_CASES_SNP = (
    _snp("required-but-absent", "hardware-absent", lambda *_: None),
    _snp_bytes("cut", "snp-format", lambda data: data[:-1]),
    _snp_bytes("trailing-byte", "snp-format", lambda data: data + b"\0"),
    _snp_fields("version-too-old", "snp-format", version=1),
    _snp_fields("version-unknown", "snp-format", version=6),
    _snp_fields("algorithm-another", "snp-format", algorithm=2),
    _snp_fields("policy-bit-that-is-always-one", "snp-format", policy=0),
    _snp_fields("policy-bit-unknown", "snp-format", policy=_ONE | 1 << 26),
    _snp_fields("flag-unknown", "snp-format", flags=1 << 5),
    _snp_fields("reserved-after-the-flags", "snp-format", zero=1),
    _snp_fields("reserved-before-the-chip", "snp-format", over=_over(0x18B, b"\1")),
    _snp_fields("reserved-family-in-version-2", "snp-format", version=2, over=_over(0x188, b"\1")),
    _snp_fields("reserved-between-versions", "snp-format", over=_over(0x1EB, b"\1")),
    _snp_fields("reserved-vectors-in-version-4", "snp-format", version=4, over=_over(0x1F8, b"\1")),
    _snp_fields("reserved-before-the-signature", "snp-format", version=5, over=_over(0x208, b"\1")),
    _snp_fields("reserved-in-the-tcb", "snp-format", over=_over(0x182, b"\1")),
    _snp_bytes("unsigned-byte-after-the-signature", "snp-format", _put(0x49F, b"\1")),
    _snp_bytes("unsigned-byte-in-the-signature", "snp-format", _put(0x2A0 + 71, b"\1")),
    _snp_bytes("signature-bit", "snp-signature", lambda data: _put(0x2A0, bytes((data[0x2A0] ^ 1,)))(data)),
    _snp_bytes("measurement-bit", "snp-signature", lambda data: _put(0x90, bytes((data[0x90] ^ 1,)))(data)),
    _snp_bytes("signature-of-zeros", "snp-signature", _put(0x2A0, bytes(144))),
    # The chain.
    _snp_chain("chain-left-out", "chain-format", lambda _: []),
    _snp_chain("chain-twice", "chain-format", lambda chain: ["".join(map(as_pem, chain))] * 2),
    _snp_chain("chain-without-a-root", "chain-format", lambda chain: ["".join(map(as_pem, chain[:-1]))]),
    _snp_chain("chain-of-something-else", "chain-format", lambda chain: ["".join(map(as_pem, (b"\x30\0", *chain[1:])))]),
    _snp("root-another", "chain-root", _snp_valid, chip=lambda now: make_amd(now, "root", kind="P-384"), pinned=genuine_amd),
    _snp_leaf("issuer-expired", "chain-time", "issuer", valid=(-20, -10)),
    _snp_leaf("issuer-no-authority", "chain-constraints", "issuer", ca=False, path=None),
    _snp_leaf("key-expired", "chain-time", valid=(-20, -10)),
    _snp_leaf("key-an-authority", "chain-constraints", ca=True),
    _snp_leaf("key-with-an-unknown-critical-extension", "chain-constraints", unknown_critical=True),
    _snp_leaf("key-numbered-below-zero", "chain-format", serial=-1),
    _snp_leaf("key-of-another-curve", "chain-key", kind="P-256"),
    _snp_raw("key-certificate-changed", "chain-issuer", fake_snp.CHIP.hex(), fake_snp.CHIP[::-1].hex()),
    _snp_raw("certificate-of-another-version", "chain-format", "a003020102", "a003020106"),
    _snp_raw("certificate-with-unused-bits-in-its-signature", "chain-format", "0382010100", "0382010101"),
    _snp("certificate-with-something-else-than-extensions", "chain-format", lambda a, made: _snp_valid(a, _retagged(made))),
    _snp_raw(
        "certificate-that-spells-false", "chain-format", "0101ff", "010100",
        chip=lambda now: make_amd(now, "leaf", unknown_critical=True),
    ),
    _snp_raw("certificate-of-two-algorithms", "chain-format", "06092a864886f70d01010a", "06092a864886f70d01010b"),
    _snp_raw("certificate-with-a-time-of-no-form", "chain-format", "170d", "130d"),
    _snp_raw("certificate-with-an-extension-that-is-no-octet-string", "chain-format", "0403020100", "0303020100"),
    _snp("issuer-signs-another-way", "chain-issuer", _snp_valid, chip=lambda now: make_amd(now, "issuer", kind="P-384")),
    _snp("issuer-of-another-name", "chain-issuer", lambda a, made: _snp_valid(a, replace(
        made, chain=(make_amd(a.testbed.now, "issuer", name="another").chain[0], *made.chain[1:])
    ))),
    _snp_leaf("key-that-is-neither", "chain-format", extensions=extensions(chip=None)),
    _snp_leaf("key-that-is-both", "chain-format", extensions=extensions(provider="a cloud")),
    _snp_leaf("chip-id-of-another-length", "chain-format", extensions=extensions(chip=b"\4\2ab")),
    # Which key and chip, and how old its firmware is.
    _snp_leaf("vlek-where-vcek-is-demanded", "snp-signer", extensions=extensions(chip=None, provider="a cloud")),
    _snp_fields(
        "vlek-where-vcek-is-demanded-and-the-report-says-so", "snp-signer", flags=1 << 2,
        chip=lambda now: make_amd(now, "leaf", extensions=extensions(chip=None, provider="a cloud")),
    ),
    _snp_fields("vlek-in-the-report-only", "snp-signer", flags=1 << 2),
    _snp_fields("signed-by-no-key", "snp-signer", flags=7 << 2),
    _snp_leaf("vcek-of-another-chip", "snp-chip", extensions=extensions(chip=fake_snp.CHIP[::-1])),
    _snp_fields("chip-masked", "snp-chip", chip_id=bytes(64), flags=2),
    _snp_fields("generation-another", "snp-chip", family=0x1A),
    _snp_leaf("vcek-of-another-tcb", "snp-key-tcb", extensions=extensions(levels={**LEVELS, "snp": 21})),
    _snp_leaf("vcek-that-leaves-a-level-out", "snp-key-tcb", extensions=extensions(levels={"bootloader": 3})),
    _snp_fields("tcb-outdated", "snp-tcb", references={"tcb": {**LEVELS, "microcode": 210}}),
    _snp_fields("tcb-of-a-component-it-does-not-have", "snp-tcb", references={"tcb": {"fmc": 0}}),
    _snp_fields(
        "tcb-outdated-on-turin", "snp-tcb", chip=lambda now: make_amd(now, "leaf", extensions=_TURIN), levels=TURIN_LEVELS,
        turin=True, family=0x1A, references={"tcb": {**TURIN_LEVELS, "fmc": 2}},
    ),
    # What may be done with the guest, and what it is.
    _snp_fields("debug", "snp-debug", policy=_ONE | 1 << snp.DEBUG),
    _snp_fields("migration", "snp-migration", policy=_ONE | 1 << snp.MIGRATION),
    _snp_fields("smt", "snp-smt", policy=_ONE | 1 << snp.SMT),
    _snp_fields("vmpl-of-a-paravisor-s-guest", "snp-vmpl", vmpl=2),
    _snp_fields("report-data-of-zeros", "report-data", report_data=bytes(64)),
    _snp("replayed", "report-data", lambda a, m: {"cpu": m.item(SnpFields(report_data=data_of(a, nonce="00" * 32)))}),
    _snp("for-another-key", "report-data", lambda a, m: {
        "cpu": m.item(SnpFields(report_data=data_of(a, sig=Ed25519PrivateKey.generate())))
    }),
    _snp_fields("measurement-another", "snp-measurement", measurement=bytes(48)),
    _snp_fields("host-data-another", "snp-host-data", host_data=bytes(32)),
    _unpinned("snp-nobody-asked", genuine_amd, _snp_valid),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------- TDX

IntelShow = Callable[[Attempt, FakeIntel], "dict[str, Json]"]


def _tdx(
    name: str, reason: str, show: IntelShow, *, maker: Callable[[int], FakeIntel] = genuine_intel, **references: Any
) -> Case:
    """Evidence under a policy with changed references, or with what another `maker` says of the processor."""

    def play(testbed: TamperTestbed) -> None:
        good, made = genuine_intel(testbed.now), maker(testbed.now)
        play_devices(testbed, name, {
            "control": (good.hardware(), lambda attempt: _tdx_valid(attempt, good)),
            "attack": (made.hardware(**references), lambda attempt: show(attempt, made)),
        })  # fmt: skip

    return _case(f"tdx-{name}", reason, play, "tdx tdx_quote verify")


def _tdx_valid(attempt: Attempt, maker: FakeIntel) -> dict[str, Json]:
    return {"cpu": maker.item(QuoteFields(report_data=data_of(attempt)))}


def _tdx_fields(name: str, reason: str, **changed: Any) -> Case:
    """A quote with changed fields, signed."""
    return _tdx(name, reason, lambda attempt, made: {"cpu": made.item(_fields(QuoteFields, attempt, changed))})


def _tdx_bytes(name: str, reason: str, change: Bytes) -> Case:
    """A valid quote, changed after it was signed."""

    def play(attempt: Attempt, made: FakeIntel) -> dict[str, Json]:
        return {"cpu": shown(change(made.sign(bytes(QuoteFields(report_data=data_of(attempt))))))}

    return _tdx(name, reason, play)


def _tdx_platform(name: str, reason: str, **said: Any) -> Case:
    """A valid quote of a processor of which its maker says something else."""
    references = said.pop("references", {})
    return _tdx(name, reason, _tdx_valid, maker=lambda now: make_intel(now, **said), **references)


def _other_chain(name: str, change: Callable[[tuple[bytes, ...], bytes], tuple[bytes, ...]]) -> Case:
    """A quote with another chain, which is made of its own and another processor's certificate."""
    return _tdx(name, "chain-root", lambda attempt, made: {
        "cpu": shown(made.sign(
            bytes(QuoteFields(report_data=data_of(attempt))), chain=change(made.chain, make_intel(attempt.testbed.now).chain[0]),
        ))
    })  # fmt: skip


def _with_endorsement(attempt: Attempt, made: FakeIntel) -> dict[str, Json]:
    item: Any = _tdx_valid(attempt, made)["cpu"]
    return {"cpu": {**item, "endorsements": ["collateral"]}}


_CERTIFIED = 48 + 584 + 4 + 128
_CASES_TDX = (
    _tdx_bytes("empty", "tdx-format", lambda _: b""),
    _tdx_bytes("too-long", "tdx-format", lambda data: data.ljust(40_000, b"\0")),
    _tdx_bytes("cut-inside-the-body", "tdx-format", lambda data: data[:600]),
    _tdx_bytes("cut-inside-the-signature", "tdx-format", lambda data: data[:-1]),
    _tdx_bytes("bytes-after-it", "tdx-format", lambda data: data + b"\1"),
    _tdx_bytes("certified-by-another-kind", "tdx-format", _put(_CERTIFIED, b"\5")),
    _tdx_bytes("chain-in-another-spelling", "chain-format", lambda data: data.replace(b"-----\nM", b"-----\rM", 1)),
    _tdx_fields("of-an-sgx-enclave", "tdx-sgx", tee=0),
    _tdx_fields("version-another", "tdx-format", version=3),
    _tdx_fields("key-of-another-kind", "tdx-format", key_type=3),
    _tdx_fields("tee-unknown", "tdx-format", tee=0x82),
    _tdx_fields("body-unknown", "tdx-format", version=5, body=(1, 584)),
    _tdx_fields("body-of-another-length", "tdx-format", version=5, body=(2, 648)),
    _tdx_fields("debug", "tdx-debug", attributes=fake_tdx.SEPT_VE_DISABLE | fake_tdx.DEBUG),
    _tdx_fields("migratable", "tdx-migration", attributes=fake_tdx.SEPT_VE_DISABLE | fake_tdx.MIGRATABLE),
    _tdx_fields("pages-of-others", "tdx-quote", attributes=0),
    _tdx("collateral-of-the-guest-s", "tdx-collateral", _with_endorsement),
    _tdx_bytes("body-bit", "tdx-quote", _put(0xB8, b"\xff")),
    _tdx_bytes("signature-bit", "tdx-quote", lambda data: _put(700, bytes((data[700] ^ 1,)))(data)),
    _tdx("root-another", "chain-root", _tdx_valid, roots=("00" * 32,)),
    _other_chain("root-another-in-the-quote", lambda chain, other: (*chain[:-1], other)),
    _other_chain("chain-with-one-more", lambda chain, other: (other, *chain)),
    _tdx_platform("collateral-expired", "tdx-collateral-expired", issued_days=-31),
    _tdx_platform("collateral-of-tomorrow", "tdx-collateral-expired", issued_days=2),
    _tdx_platform("key-revoked", "tdx-revoked", revoked=True),
    _tdx_platform("platform-revoked", "tdx-revoked", status="Revoked"),
    _tdx_platform("tcb-outdated", "tdx-status", status="OutOfDate"),
    _tdx_platform("tcb-not-hardened", "tdx-status", status="ConfigurationAndSWHardeningNeeded"),
    _tdx_platform(
        "advisory-open", "tdx-advisory", status="SWHardeningNeeded", advisories=("INTEL-SA-00001", "INTEL-SA-00002"),
        references={"statuses": ("SWHardeningNeeded",), "advisories": ("INTEL-SA-00001",)},
    ),
    _tdx("replayed", "report-data", lambda a, m: {"cpu": m.item(QuoteFields(report_data=data_of(a, nonce="00" * 32)))}),
    _tdx("for-another-key", "report-data", lambda a, m: {
        "cpu": m.item(QuoteFields(report_data=data_of(a, sig=Ed25519PrivateKey.generate())))
    }),
    *(
        _tdx_fields(f"{name}-another", "tdx-measurement", measured={**fake_tdx.MEASURED, name: bytes(48)})
        for name in fake_tdx.MEASURED
    ),
    _unpinned("tdx-nobody-asked", genuine_intel, _tdx_valid),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------------ one chain


def _machine(name: str, reason: str, change: Callable[[Attempt, dict[str, Json]], dict[str, Json]]) -> Case:
    """A processor and a GPU of one session; the attack changes what they show."""

    def valid(attempt: Attempt) -> dict[str, Json]:
        now = attempt.testbed.now
        cnf = Cnf(hpke=attempt.hpke.public_key(), sig=attempt.sig.public_key())
        gpu = fake_gpu.genuine(now).item(device_nonce(attempt.nonce, cnf))
        return {**_snp_valid(attempt, genuine_amd(now)), "gpu-0": gpu}

    def play(testbed: TamperTestbed) -> None:
        gpu, cpu = fake_gpu.genuine(testbed.now).hardware().gpu, genuine_amd(testbed.now).hardware().snp
        section = Hardware(required=(SEV_SNP, NVIDIA_GPU), snp=cpu, gpu=gpu)
        attack = (section, lambda attempt: change(attempt, valid(attempt)))
        play_devices(testbed, name, {"control": (section, valid), "attack": attack})

    return _case(f"machine-{name}", reason, play)


_CASES_MACHINE = (
    _machine("gpu-alone", "hardware-absent", lambda _, devices: {"gpu-0": devices["gpu-0"]}),
    _machine("processor-alone", "hardware-absent", lambda _, devices: {"cpu": devices["cpu"]}),
    _machine("gpu-of-another-machine", "device-nonce", lambda attempt, devices: {
        **devices, "gpu-0": fake_gpu.genuine(attempt.testbed.now).item(bytes(32))
    }),
    _machine("processor-twice", "device-twice", lambda _, devices: {**devices, "cpu-2": devices["cpu"]}),
    _machine("processor-of-another-machine-too", "device-twice", lambda attempt, devices: {
        **devices, "cpu-2": genuine_amd(attempt.testbed.now).item(
            SnpFields(report_data=data_of(attempt), over=_over(0x140, bytes(32)))
        ),
    }),
    _machine("processor-s-quote-as-the-gpu-s", "spdm-format", lambda _, devices: {
        **devices, "gpu-0": fake_gpu.item(unb64u(str(devices["cpu"]["evidence"]))[:60], "")  # type: ignore[index,call-overload]
    }),
)  # fmt: skip

#: Without the extra `tdx` every quote is refused, and a case would show nothing.
CASES = (*_CASES_SNP, *(_CASES_TDX if find_spec("dcap_qvl") else ()), *_CASES_MACHINE)
