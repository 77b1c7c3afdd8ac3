"""Tampered hardware evidence: everything around it is valid, and so is its own signature unless the case is about it.

Each case first shows that the unchanged evidence is released. The device is simulated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.attestation.certificates import CHAIN_LIMIT, as_pem, pem_blocks
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.fake_gpu import (
    FWID,
    FakeGpu,
    SpdmReport,
    composite,
    device_name,
    genuine,
    item,
    make_device,
    spliced,
    tcb_info,
)
from pytest_glasshouse.tamper.testbed import SUB, Attempt, TamperTestbed
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import ITEMS_LIMIT, NVIDIA_GPU, RUNTIME, device_nonce, item_sha256, named


@dataclass(frozen=True, kw_only=True)
class HardwareAttempt:
    """An attempt whose policy requires a GPU, and the GPU that satisfies it."""

    attempt: Attempt
    device: FakeGpu

    @property
    def cnf(self) -> Cnf:
        """The session's ephemeral keys."""
        return Cnf(hpke=self.attempt.hpke.public_key(), sig=self.attempt.sig.public_key())

    @property
    def nonce(self) -> bytes:
        """The nonce that the device's evidence must carry in this session."""
        return device_nonce(self.attempt.nonce, self.cnf)

    @property
    def report(self) -> SpdmReport:
        """The device's valid evidence."""
        return SpdmReport(nonce=self.nonce)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a token claims of devices, and the evidence beside it. Without a `claim` it is the one that fits."""

    devices: dict[str, Json]
    claim: Json = None

    def put_into(self, attempt: Attempt) -> None:
        """Have the attempt show it."""
        attempt.devices = self.devices
        attempt.claims["submods"] = named(self.devices) if self.claim is None else self.claim


#: The evidence of devices by name, None for none at all; or also what the token says of it.
Submods = Callable[[HardwareAttempt], "dict[str, Json] | Shown | None"]
Show = Callable[[Attempt], "dict[str, Json] | Shown | None"]
PolicySection = Callable[[int, FakeGpu], Hardware | None]


def _valid(setup: HardwareAttempt) -> dict[str, Json]:
    return {"gpu-0": setup.device.item(setup.nonce)}


def _unnamed(setup: HardwareAttempt) -> Shown:
    """One device more than the token names."""
    devices = _valid(setup)
    return Shown(devices={**devices, "gpu-1": setup.device.item(setup.nonce)}, claim=named(devices))


def _gpu_required(_now: int, device: FakeGpu) -> Hardware:
    return device.hardware()


def play_devices(testbed: TamperTestbed, name: str, parts: Mapping[str, tuple[Hardware | None, Show]]) -> None:
    """For each part: a session under a policy with that section, which shows those devices."""
    before = testbed.sealed
    try:
        for part, (hardware, show) in parts.items():
            policy = dataclasses.replace(testbed.make_policy(name=f"{name} {part}"), hardware=hardware)
            testbed.sealed = testbed.seal()
            testbed.register(testbed.sealed, policy)
            sub = f"{SUB}/{part}"
            testbed.enrol(sub, grant=testbed.grant(sub, policy=policy.sha256))
            attempt = testbed.attempt(sub)
            devices = show(attempt)
            if devices is not None:
                (devices if isinstance(devices, Shown) else Shown(devices=devices)).put_into(attempt)
            testbed.reset_release_count()
            attempt.release()
    finally:
        testbed.sealed = before


def _case(name: str, reason: str, caught_by: str, submods: Submods, section: PolicySection = _gpu_required) -> Case:
    def play(testbed: TamperTestbed) -> None:
        device = genuine(testbed.now)
        attack = section(testbed.now, device)
        play_devices(testbed, name, {
            "control": (device.hardware(), lambda attempt: _valid(HardwareAttempt(attempt=attempt, device=device))),
            "attack": (attack, lambda attempt: submods(HardwareAttempt(attempt=attempt, device=device))),
        })  # fmt: skip

    return Case(name=f"hardware-{name}", play=play, expected_reason=reason, caught_by=caught_by, nonce="spent")


def _claim(name: str, reason: str, submods: Submods, section: PolicySection = _gpu_required) -> Case:
    return _case(name, reason, "appraise_hardware", submods, section)


def _item(name: str, reason: str, **changed: Json) -> Case:
    """One field of the item changed, or one more."""
    return _claim(name, reason, lambda setup: {"gpu-0": {**setup.device.item(setup.nonce), **changed}})


def _claimed(setup: HardwareAttempt, **changed: Json) -> Shown:
    """One field of what the token says changed, or one more."""
    devices = _valid(setup)
    return Shown(devices=devices, claim={"gpu-0": {"type": NVIDIA_GPU, "sha256": item_sha256(devices["gpu-0"]), **changed}})


def _item_named(name: str, title: str) -> Case:
    return _claim(name, "claims-type", lambda setup: {title: setup.device.item(setup.nonce)})


def _nonce(name: str, nonce: Callable[[HardwareAttempt], bytes]) -> Case:
    return _claim(name, "device-nonce", lambda setup: {"gpu-0": setup.device.item(nonce(setup))})


def _report(name: str, reason: str, change: Callable[[SpdmReport], SpdmReport]) -> Case:
    """A changed report, signed by the device."""

    def submods(setup: HardwareAttempt) -> dict[str, Json]:
        return {"gpu-0": item(setup.device.sign(bytes(change(setup.report))), setup.device.pem())}

    return _case(name, reason, "spdm", submods)


def _report_field(name: str, reason: str, **changed: object) -> Case:
    return _report(name, reason, lambda report: dataclasses.replace(report, **changed))  # type: ignore[arg-type]


def _block(name: str, **changed: int) -> Case:
    """The first block's head changed."""
    fields = ("index", "specification", "size", "kind", "inner")

    def change(report: SpdmReport) -> SpdmReport:
        *head, value = report.blocks[0]
        values = {**dict(zip(fields, head, strict=True)), **changed}
        first = (values["index"], values["specification"], values["size"], values["kind"], values["inner"], value)
        return dataclasses.replace(report, blocks=(first, *report.blocks[1:]))

    return _report(name, "spdm-format", change)


def _opaque(name: str, reason: str, kind: int, data: bytes | None) -> Case:
    """An opaque field changed, or left out."""

    def change(report: SpdmReport) -> SpdmReport:
        rest = tuple(field for field in report.opaque if field[0] != kind)
        return dataclasses.replace(report, opaque=rest if data is None else (*rest, (kind, data)))

    return _report(name, reason, change)


def _measured(name: str, value: bytes | None) -> Case:
    """Measurement 2 changed, or left out."""

    def change(report: SpdmReport) -> SpdmReport:
        rest = tuple(block for block in report.blocks if block[0] != 2)  # noqa: PLR2004
        more = () if value is None else ((2, spdm.DMTF, 51, 1, 48, value),)
        return dataclasses.replace(report, blocks=(*rest, *more))

    return _report(name, "gpu-measurement", change)


def _bytes(name: str, reason: str, change: Callable[[bytes], bytes]) -> Case:
    """Valid evidence, changed after it was signed."""

    def submods(setup: HardwareAttempt) -> dict[str, Json]:
        return {"gpu-0": item(change(setup.device.sign(bytes(setup.report))), setup.device.pem())}

    return _case(name, reason, "spdm", submods)


def _chain(name: str, reason: str, change: Callable[[int, FakeGpu], FakeGpu], *, pinned: bool = True) -> Case:
    """Valid evidence under another chain, whose root is pinned unless `pinned` is false."""
    made: list[FakeGpu] = []

    def section(now: int, device: FakeGpu) -> Hardware:
        made.append(change(now, device))
        return (made[-1] if pinned else device).hardware()

    return _case(name, reason, "read_chain", lambda setup: {"gpu-0": made[-1].item(setup.nonce)}, section)


def _others(now: int) -> Iterator[bytes]:
    """Certificates of other devices, more than a chain may have."""
    for _ in range(CHAIN_LIMIT):
        yield make_device(now).chain[0]


def _pem(name: str, change: Callable[[str], list[Json]], reason: str = "chain-format") -> Case:
    return _claim(
        name,
        reason,
        lambda setup: {"gpu-0": {**setup.device.item(setup.nonce), "endorsements": change(setup.device.pem())}},
    )


def _leaf_bytes(name: str, old: str, new: str, reason: str = "chain-format") -> Case:
    """The leaf with some of its bytes replaced where they first are: what a library may refuse in its own way."""

    def change(pem: str) -> list[Json]:
        leaf, *rest = pem_blocks(pem)
        return ["".join(map(as_pem, (leaf.replace(bytes.fromhex(old), bytes.fromhex(new), 1), *rest)))]

    return _pem(name, change, reason)


def _certificate(name: str, reason: str, certificate: str, **changes: object) -> Case:
    """A chain with one changed certificate."""
    return _chain(name, reason, lambda now, _: make_device(now, certificate, **changes))


def _another_session(setup: HardwareAttempt) -> bytes:
    keys = setup.attempt
    return device_nonce("00" * 32, Cnf(hpke=keys.hpke.public_key(), sig=keys.sig.public_key()))


def _another_process(setup: HardwareAttempt) -> bytes:
    """Evidence for this challenge, bound to another process's keys."""
    return device_nonce(
        setup.attempt.nonce, Cnf(hpke=setup.attempt.hpke.public_key(), sig=Ed25519PrivateKey.generate().public_key())
    )


def _flip(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    return change


_RECORD = spdm.REQUEST.size + spdm.RESPONSE.size
_OF_ANOTHER_KEY = b"\x01" * spdm.SIGNATURE_BYTES

CASES = (
    # What the policy requires, and the claim's form.
    _claim("required-but-absent", "hardware-absent", lambda _: None),
    _claim("required-another-present", "hardware-unknown", lambda setup: {"gpu-0": item(bytes(setup.report), "", "toaster")}),
    _claim("unknown-beside-a-good-one", "hardware-unknown", lambda setup: {**_valid(setup), "x": item(b"", "", "toaster")}),
    _claim("cpu-tee-nobody-can-judge", "hardware-unknown", lambda setup: {**_valid(setup), "cpu": item(b"quote", "", "sgx")}),
    _claim("good-one-beside-a-bad-one", "device-nonce", lambda s: {**_valid(s), "gpu-1": s.device.item(bytes(32))}),
    _claim(
        "cpu-tee-required",
        "hardware-absent",
        _valid,
        lambda _, device: device.hardware(required=(NVIDIA_GPU, "tdx")),
    ),
    _claim("nobody-asked", "hardware-unpinned", _valid, lambda _now, _device: None),
    _claim("no-reference", "hardware-unpinned", _valid, lambda _now, _device: Hardware(required=(NVIDIA_GPU,))),
    _claim("claim-empty", "claims-type", lambda _: Shown(devices={}, claim={})),
    _claim("claim-a-list", "claims-type", lambda setup: Shown(devices=_valid(setup), claim=["gpu-0"])),
    _claim("claim-of-too-many", "claims-type", lambda _: {f"gpu-{n}": item(b"", "") for n in range(ITEMS_LIMIT + 1)}),
    _claim("claim-a-word", "claims-type", lambda setup: Shown(devices=_valid(setup), claim={"gpu-0": "good"})),
    _claim("claim-of-more", "claims-type", lambda setup: _claimed(setup, verified=True)),
    _claim("claim-of-another-digest", "hardware-digest", lambda setup: _claimed(setup, sha256="00" * 32)),
    _claim("claim-of-another-kind", "hardware-digest", lambda setup: _claimed(setup, type="tdx")),
    _claim("evidence-not-there", "claims-type", lambda setup: Shown(devices={}, claim=named(_valid(setup)))),
    _claim("evidence-that-no-token-names", "hardware-digest", _unnamed),
    _claim(
        "evidence-exchanged",
        "hardware-digest",
        lambda s: Shown(devices={"gpu-0": s.device.item(s.nonce)}, claim=named({"gpu-0": s.device.item(bytes(32))})),
    ),
    _claim("item-a-word", "claims-type", lambda setup: Shown(devices={"gpu-0": "good"}, claim=named(_valid(setup)))),
    _item("item-field-nobody-asked-for", "claims-type", verified=True),
    _item("item-evidence-a-number", "claims-type", evidence=1),
    _item("item-endorsements-of-numbers", "claims-type", endorsements=[1]),
    _item("item-evidence-no-base64url", "malformed", evidence="=="),
    _item("item-evidence-empty", "spdm-format", evidence=""),
    _item("item-without-endorsement", "chain-format", endorsements=[]),
    _item_named("item-named-as-the-software", RUNTIME),
    _item_named("item-named-in-capitals", "GPU-0"),
    # The session it is bound to.
    _nonce("nonce-of-another-session", _another_session),
    _nonce("nonce-for-keys-of-another-process", _another_process),
    _nonce("nonce-the-server-s-own", lambda setup: bytes.fromhex(setup.attempt.nonce)),
    # The signed bytes.
    _bytes("measurement-bit", "spdm-signature", _flip(_RECORD + spdm.BLOCK.size)),
    _bytes("nonce-bit", "spdm-signature", _flip(4)),
    _bytes("signature-bit", "spdm-signature", _flip(-1)),
    _bytes("signature-of-another-key", "spdm-signature", lambda data: data[: -spdm.SIGNATURE_BYTES] + _OF_ANOTHER_KEY),
    _bytes("signature-of-zeros", "spdm-signature", lambda d: d[: -spdm.SIGNATURE_BYTES] + bytes(spdm.SIGNATURE_BYTES)),
    _bytes("signature-cut", "spdm-format", lambda data: data[:-1]),
    _bytes("trailing-byte", "spdm-format", lambda data: data + b"\0"),
    _bytes("cut-inside-the-record", "spdm-format", lambda data: data[: _RECORD + 110]),
    _bytes("request-left-out", "spdm-codes", lambda data: data[spdm.REQUEST.size :]),
    # The form.
    _report_field("request-of-another-version", "spdm-codes", request=(0x12, 0xE0, 1, 0xFF)),
    _report_field("request-of-another-kind", "spdm-codes", request=(0x11, 0xE1, 1, 0xFF)),
    _report_field("request-without-a-signature", "spdm-codes", request=(0x11, 0xE0, 0, 0xFF)),
    _report_field("request-for-one-measurement", "spdm-codes", request=(0x11, 0xE0, 1, 1)),
    _report_field("response-of-another-version", "spdm-codes", response=(0x10, 0x60, 0, 0)),
    _report_field("response-an-error", "spdm-codes", response=(0x11, 0x7F, 0, 0)),
    _report_field("response-of-another-slot", "spdm-codes", response=(0x11, 0x60, 0, 1)),
    _report_field("no-measurement", "spdm-format", blocks=()),
    _report_field("block-more-than-counted", "spdm-format", count=2),
    _report_field("block-less-than-counted", "spdm-format", count=4),
    _block("block-of-another-specification", specification=2),
    _block("block-of-another-size", size=52),
    _block("block-of-another-digest", inner=32),
    _block("block-raw", kind=0x81),
    _block("block-twice", index=2),
    _report_field("opaque-cut", "spdm-format", opaque_tail=b"\x03\x00\xff"),
    _report_field("opaque-longer-than-it-is", "spdm-format", opaque_tail=b"\x63\x00\x04\x00\x00"),
    _report_field("opaque-field-twice", "spdm-format", opaque_tail=spdm.FIELD.pack(spdm.DRIVER, 4) + b"1.2\0"),
    _report_field("longer-than-any-device-s", "spdm-format", opaque_tail=spdm.FIELD.pack(99, 40_000) + bytes(40_000)),
    # The reported values.
    _opaque("firmware-other", "fwid", spdm.FWID, FWID[::-1]),
    _opaque("firmware-unnamed", "fwid", spdm.FWID, None),
    _opaque("driver-other", "gpu-driver", spdm.DRIVER, b"580.95.06\0"),
    _opaque("driver-unnamed", "gpu-driver", spdm.DRIVER, None),
    _opaque("vbios-other", "gpu-vbios", spdm.VBIOS, bytes.fromhex("007400961b000000")),
    _opaque("vbios-unnamed", "gpu-vbios", spdm.VBIOS, b""),
    _measured("debug-mode", bytes(spdm.DIGEST_BYTES)),
    _measured("measurement-left-out", None),
    # The certificate chain.
    _chain("root-another", "chain-root", lambda now, _: make_device(now), pinned=False),
    _chain("root-left-out", "chain-root", lambda _, device: dataclasses.replace(device, chain=device.chain[:-1]), pinned=False),
    _chain("chain-reversed", "chain-root", lambda _, device: dataclasses.replace(device, chain=device.chain[::-1]), pinned=False),
    _chain("issuer-another-of-the-same-name", "chain-issuer", lambda now, device: spliced(device, 1, make_device(now))),
    _chain("authority-another-of-the-same-name", "chain-issuer", lambda now, device: spliced(device, 2, make_device(now))),
    _chain("issuer-left-out", "chain-issuer", lambda _, d: dataclasses.replace(d, chain=(d.chain[0], *d.chain[2:]))),
    _chain("leaf-alone", "chain-root", lambda _, device: dataclasses.replace(device, chain=device.chain[:1])),
    _chain("chain-too-long", "chain-format", lambda now, d: dataclasses.replace(d, chain=(*_others(now), *d.chain))),
    _chain("root-a-second-time", "chain-format", lambda _, d: dataclasses.replace(d, chain=d.chain + d.chain[-1:])),
    _pem("chain-no-pem", lambda _: ["certificate"]),
    _pem("chain-twice", lambda pem: [pem, pem]),
    _pem("chain-not-ascii", lambda pem: [pem + "\u00e9"]),
    _certificate("leaf-expired", "chain-time", "leaf", valid=(-20, -10)),
    _certificate("leaf-not-yet-valid", "chain-time", "leaf", valid=(10, 20)),
    _certificate("issuer-expired", "chain-time", "issuer", valid=(-20, -10)),
    _certificate("root-expired", "chain-time", "root", valid=(-20, -10)),
    _certificate("leaf-an-authority", "chain-constraints", "leaf", ca=True),
    _certificate("path-too-long", "chain-constraints", "authority", path=0),
    _certificate("issuer-no-authority", "chain-constraints", "issuer", ca=False),
    _certificate("issuer-that-does-not-say", "chain-constraints", "issuer", ca=None),
    _certificate("issuer-for-other-uses", "chain-constraints", "issuer", signs=False),
    _certificate("critical-extension-unknown", "chain-constraints", "leaf", unknown_critical=True),
    _certificate("firmware-not-in-the-certificate", "fwid", "leaf", extensions=(device_name(),)),
    _certificate("leaf-key-of-another-curve", "chain-key", "leaf", kind="P-256"),
    _certificate("leaf-numbered-zero", "chain-format", "leaf", serial=0),
    _leaf_bytes("certificate-of-another-version", "a003020102", "a003020106"),
    _leaf_bytes("certificate-of-an-unknown-algorithm", "06082a8648ce3d040303", "06082a8648ce3d04037f", "chain-issuer"),
    _leaf_bytes("certificate-with-a-key-of-an-unknown-kind", "06072a8648ce3d0201", "06072a8648ce3d027f", "chain-issuer"),
    _leaf_bytes("certificate-on-an-unknown-curve", "06052b81040022", "06052b8104007f", "chain-issuer"),
    _leaf_bytes("certificate-whose-length-is-wrong", "3082", "3084"),
    _pem("chain-of-something-else", lambda _: [as_pem(b"\x30\x03\x02\x01\x01")]),
    _pem("chain-in-another-spelling", lambda pem: [pem.replace("\n", "\r\n")]),
    _pem("chain-with-a-comment", lambda pem: ["comment\n" + pem]),
    _pem("chain-of-a-megabyte", lambda pem: [pem + "\n" * 40_000]),
    # Which device it is, and how it is passed to the machine.
    _certificate("firmware-in-the-other-place-is-another", "fwid", "leaf", extensions=(tcb_info(FWID[::-1]), device_name())),
    _certificate("firmware-id-of-another-length", "chain-format", "leaf", extensions=(composite(FWID[:32]), device_name())),
    _certificate("chip-another", "gpu-model", "leaf", extensions=(composite(), device_name("NVIDIA:GB100:1"))),
    _certificate("chip-unnamed", "gpu-model", "leaf", extensions=(composite(),)),
    _certificate("device-name-of-another-maker", "chain-format", "leaf", extensions=(composite(), device_name("ACME:GH100:1"))),
    _opaque("mode-protected-pcie", "gpu-mode", spdm.FEATURES, b"\x02\0"),
    _opaque("mode-unknown", "gpu-mode", spdm.FEATURES, b"\x07\0"),
    _opaque("mode-of-another-length", "gpu-mode", spdm.FEATURES, b"\x00"),
    _opaque("protected-pcie-on", "gpu-mode", spdm.PROTECTED_PCIE, spdm.ON),
    _opaque("protected-pcie-neither", "gpu-mode", spdm.PROTECTED_PCIE, b"\x01"),
    _claim("one-device-under-two-names", "device-twice", lambda s: {**_valid(s), "gpu-1": s.device.item(s.nonce)}),
    _claim("a-device-too-few", "gpu-count", _valid, lambda _, device: device.hardware(count=2)),
)
