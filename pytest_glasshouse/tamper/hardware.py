"""Hardware evidence, tampered with: everything around it is right, and so is its own signature unless that is the point.

Each case first shows that the same evidence without the change is released. The device is one that does not exist.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.fake_gpu import FWID, FakeGpu, Report, genuine, item, make_device, spliced
from pytest_glasshouse.tamper.testbed import SUB, Attempt, TamperTestbed
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import ITEMS_LIMIT, NVIDIA_GPU, RUNTIME, device_nonce


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An attempt whose policy asks for a GPU, and the GPU that would satisfy it."""

    attempt: Attempt
    device: FakeGpu

    @property
    def cnf(self) -> Cnf:
        """The session's ephemeral keys."""
        return Cnf(hpke=self.attempt.hpke.public_key(), sig=self.attempt.sig.public_key())

    @property
    def nonce(self) -> bytes:
        """What the device must be asked with in this session."""
        return device_nonce(self.attempt.nonce, self.cnf)

    @property
    def report(self) -> Report:
        """What the device says when nothing is wrong."""
        return Report(nonce=self.nonce)


Submods = Callable[[Scene], Json]
Section = Callable[[int, FakeGpu], Hardware | None]


def _right(scene: Scene) -> dict[str, Json]:
    return {"gpu-0": scene.device.item(scene.nonce)}


def _asked(_now: int, device: FakeGpu) -> Hardware:
    return device.hardware()


def _case(name: str, reason: str, caught_by: str, submods: Submods, section: Section = _asked) -> Case:
    def play(stage: TamperTestbed) -> None:
        device = genuine(stage.now)
        policies = {"control": device.hardware(), "attack": section(stage.now, device)}
        before = stage.sealed
        try:
            for part, hardware in policies.items():
                policy = dataclasses.replace(stage.make_policy(name=f"{name} {part}"), hardware=hardware)
                stage.sealed = stage.seal()
                stage.register(stage.sealed, policy)
                sub = f"{SUB}/{part}"
                stage.enrol(sub, grant=stage.grant(sub, policy=policy.sha256))
                attempt = stage.attempt(sub)
                said = (_right if part == "control" else submods)(Scene(attempt=attempt, device=device))
                if said is not None:
                    attempt.claims["submods"] = said
                stage.count_from_here()
                attempt.release()
        finally:
            stage.sealed = before

    return Case(name=f"hardware-{name}", play=play, expected_reason=reason, caught_by=caught_by, nonce="spent")


def _claim(name: str, reason: str, submods: Submods, section: Section = _asked) -> Case:
    return _case(name, reason, "appraise_hardware", submods, section)


def _item(name: str, reason: str, **changed: Json) -> Case:
    """One field of the item changed, or one more."""
    return _claim(name, reason, lambda scene: {"gpu-0": {**scene.device.item(scene.nonce), **changed}})


def _named(name: str, title: str) -> Case:
    return _claim(name, "claims-type", lambda scene: {title: scene.device.item(scene.nonce)})


def _nonce(name: str, nonce: Callable[[Scene], bytes]) -> Case:
    return _claim(name, "device-nonce", lambda scene: {"gpu-0": scene.device.item(nonce(scene))})


def _report(name: str, reason: str, change: Callable[[Report], Report]) -> Case:
    """A report that says something else, signed by the device all the same."""

    def submods(scene: Scene) -> Json:
        return {"gpu-0": item(scene.device.sign(bytes(change(scene.report))), scene.device.pem())}

    return _case(name, reason, "spdm", submods)


def _says(name: str, reason: str, **changed: object) -> Case:
    return _report(name, reason, lambda report: dataclasses.replace(report, **changed))  # type: ignore[arg-type]


def _block(name: str, **changed: int) -> Case:
    """The first block's head changed."""
    fields = ("index", "specification", "size", "kind", "inner")

    def change(report: Report) -> Report:
        *head, value = report.blocks[0]
        told = {**dict(zip(fields, head, strict=True)), **changed}
        first = (told["index"], told["specification"], told["size"], told["kind"], told["inner"], value)
        return dataclasses.replace(report, blocks=(first, *report.blocks[1:]))

    return _report(name, "spdm-format", change)


def _opaque(name: str, reason: str, kind: int, data: bytes | None) -> Case:
    """An opaque field changed, or left out."""

    def change(report: Report) -> Report:
        kept = tuple(field for field in report.opaque if field[0] != kind)
        return dataclasses.replace(report, opaque=kept if data is None else (*kept, (kind, data)))

    return _report(name, reason, change)


def _measured(name: str, value: bytes | None) -> Case:
    """Measurement 2 changed, or left out."""

    def change(report: Report) -> Report:
        kept = tuple(block for block in report.blocks if block[0] != 2)  # noqa: PLR2004
        more = () if value is None else ((2, spdm.DMTF, 51, 1, 48, value),)
        return dataclasses.replace(report, blocks=(*kept, *more))

    return _report(name, "gpu-measurement", change)


def _bytes(name: str, reason: str, change: Callable[[bytes], bytes]) -> Case:
    """Right evidence, changed after it was signed."""

    def submods(scene: Scene) -> Json:
        return {"gpu-0": item(change(scene.device.sign(bytes(scene.report))), scene.device.pem())}

    return _case(name, reason, "spdm", submods)


def _chain(name: str, reason: str, change: Callable[[int, FakeGpu], FakeGpu], *, pinned: bool = True) -> Case:
    """Right evidence under another chain, whose root is pinned too unless that is the point."""
    made: list[FakeGpu] = []

    def section(now: int, device: FakeGpu) -> Hardware:
        made.append(change(now, device))
        return (made[-1] if pinned else device).hardware()

    return _case(name, reason, "read_chain", lambda scene: {"gpu-0": made[-1].item(scene.nonce)}, section)


def _pem(name: str, change: Callable[[str], list[Json]]) -> Case:
    return _claim(
        name,
        "chain-format",
        lambda scene: {"gpu-0": {**scene.device.item(scene.nonce), "endorsements": change(scene.device.pem())}},
    )


def _built(name: str, reason: str, certificate: str, **changes: object) -> Case:
    """A chain in which one certificate is built otherwise."""
    return _chain(name, reason, lambda now, _: make_device(now, certificate, **changes))


def _another_session(scene: Scene) -> bytes:
    keys = scene.attempt
    return device_nonce("00" * 32, Cnf(hpke=keys.hpke.public_key(), sig=keys.sig.public_key()))


def _another_process(scene: Scene) -> bytes:
    """A GPU asked by somebody with keys of their own, for this very challenge."""
    return device_nonce(
        scene.attempt.nonce, Cnf(hpke=scene.attempt.hpke.public_key(), sig=Ed25519PrivateKey.generate().public_key())
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
    # What was asked for, and the claim's shape.
    _claim("required-but-absent", "hardware-absent", lambda _: None),
    _claim("required-another-present", "hardware-unknown", lambda scene: {"gpu-0": item(bytes(scene.report), "", "toaster")}),
    _claim("unknown-beside-a-good-one", "hardware-unknown", lambda scene: {**_right(scene), "x": item(b"", "", "toaster")}),
    _claim("cpu-tee-nobody-can-judge", "hardware-unknown", lambda scene: {**_right(scene), "cpu": item(b"quote", "", "tdx")}),
    _claim("good-one-beside-a-bad-one", "device-nonce", lambda s: {**_right(s), "gpu-1": s.device.item(bytes(32))}),
    _claim(
        "cpu-tee-required",
        "hardware-absent",
        _right,
        lambda _, device: device.hardware(required=(NVIDIA_GPU, "tdx")),
    ),
    _claim("nobody-asked", "hardware-unpinned", _right, lambda _now, _device: None),
    _claim("no-reference", "hardware-unpinned", _right, lambda _now, _device: Hardware(required=(NVIDIA_GPU,))),
    _claim("claim-empty", "claims-type", lambda _: {}),
    _claim("claim-a-list", "claims-type", lambda scene: [scene.device.item(scene.nonce)]),
    _claim("claim-of-too-many", "claims-type", lambda _: {f"gpu-{n}": item(b"", "") for n in range(ITEMS_LIMIT + 1)}),
    _claim("item-a-word", "claims-type", lambda _: {"gpu-0": "good"}),
    _item("item-field-nobody-asked-for", "claims-type", verified=True),
    _item("item-evidence-a-number", "claims-type", evidence=1),
    _item("item-endorsements-of-numbers", "claims-type", endorsements=[1]),
    _item("item-evidence-no-base64url", "malformed", evidence="=="),
    _item("item-evidence-empty", "spdm-format", evidence=""),
    _item("item-without-endorsement", "chain-format", endorsements=[]),
    _named("item-named-as-the-software", RUNTIME),
    _named("item-named-in-capitals", "GPU-0"),
    # Which session it is about.
    _nonce("nonce-of-another-session", _another_session),
    _nonce("nonce-for-keys-of-another-process", _another_process),
    _nonce("nonce-the-server-s-own", lambda scene: bytes.fromhex(scene.attempt.nonce)),
    # What the device signed.
    _bytes("measurement-bit", "spdm-signature", _flip(_RECORD + spdm.BLOCK.size)),
    _bytes("nonce-bit", "spdm-signature", _flip(4)),
    _bytes("signature-bit", "spdm-signature", _flip(-1)),
    _bytes("signature-of-another-key", "spdm-signature", lambda data: data[: -spdm.SIGNATURE_BYTES] + _OF_ANOTHER_KEY),
    _bytes("signature-of-zeros", "spdm-signature", lambda d: d[: -spdm.SIGNATURE_BYTES] + bytes(spdm.SIGNATURE_BYTES)),
    _bytes("signature-cut", "spdm-format", lambda data: data[:-1]),
    _bytes("trailing-byte", "spdm-format", lambda data: data + b"\0"),
    _bytes("cut-inside-the-record", "spdm-format", lambda data: data[: _RECORD + 110]),
    _bytes("request-left-out", "spdm-codes", lambda data: data[spdm.REQUEST.size :]),
    # Its form.
    _says("request-of-another-version", "spdm-codes", request=(0x12, 0xE0, 1, 0xFF)),
    _says("request-of-another-kind", "spdm-codes", request=(0x11, 0xE1, 1, 0xFF)),
    _says("request-without-a-signature", "spdm-codes", request=(0x11, 0xE0, 0, 0xFF)),
    _says("request-for-one-measurement", "spdm-codes", request=(0x11, 0xE0, 1, 1)),
    _says("response-of-another-version", "spdm-codes", response=(0x10, 0x60, 0, 0)),
    _says("response-an-error", "spdm-codes", response=(0x11, 0x7F, 0, 0)),
    _says("response-of-another-slot", "spdm-codes", response=(0x11, 0x60, 0, 1)),
    _says("no-measurement", "spdm-format", blocks=()),
    _says("block-more-than-counted", "spdm-format", count=2),
    _says("block-less-than-counted", "spdm-format", count=4),
    _block("block-of-another-specification", specification=2),
    _block("block-of-another-size", size=52),
    _block("block-of-another-digest", inner=32),
    _block("block-raw", kind=0x81),
    _block("block-twice", index=2),
    _says("opaque-cut", "spdm-format", opaque_tail=b"\x03\x00\xff"),
    _says("opaque-longer-than-it-is", "spdm-format", opaque_tail=b"\x63\x00\x04\x00\x00"),
    _says("opaque-field-twice", "spdm-format", opaque_tail=spdm.FIELD.pack(spdm.DRIVER, 4) + b"1.2\0"),
    # What it says.
    _opaque("firmware-other", "fwid", spdm.FWID, FWID[::-1]),
    _opaque("firmware-unnamed", "fwid", spdm.FWID, None),
    _opaque("driver-other", "gpu-driver", spdm.DRIVER, b"580.95.06\0"),
    _opaque("driver-unnamed", "gpu-driver", spdm.DRIVER, None),
    _opaque("vbios-other", "gpu-vbios", spdm.VBIOS, bytes.fromhex("007400961b000000")),
    _opaque("vbios-unnamed", "gpu-vbios", spdm.VBIOS, b""),
    _measured("debug-mode", bytes(spdm.DIGEST_BYTES)),
    _measured("measurement-left-out", None),
    # Whose it is.
    _chain("root-another", "chain-root", lambda now, _: make_device(now), pinned=False),
    _chain("root-left-out", "chain-root", lambda _, device: dataclasses.replace(device, chain=device.chain[:-1]), pinned=False),
    _chain("chain-reversed", "chain-root", lambda _, device: dataclasses.replace(device, chain=device.chain[::-1]), pinned=False),
    _chain("issuer-another-of-the-same-name", "chain-issuer", lambda now, device: spliced(device, 1, make_device(now))),
    _chain("issuer-left-out", "chain-issuer", lambda _, d: dataclasses.replace(d, chain=(d.chain[0], *d.chain[2:]))),
    _chain("leaf-alone", "chain-format", lambda _, device: dataclasses.replace(device, chain=device.chain[:1])),
    _chain("chain-too-long", "chain-format", lambda _, d: dataclasses.replace(d, chain=d.chain + d.chain[-1:] * 5)),
    _pem("chain-no-pem", lambda _: ["certificate"]),
    _pem("chain-twice", lambda pem: [pem, pem]),
    _pem("chain-not-ascii", lambda pem: [pem + "\u00e9"]),
    _built("leaf-expired", "chain-time", "leaf", valid=(-20, -10)),
    _built("leaf-not-yet-valid", "chain-time", "leaf", valid=(10, 20)),
    _built("issuer-expired", "chain-time", "issuer", valid=(-20, -10)),
    _built("root-expired", "chain-time", "root", valid=(-20, -10)),
    _built("leaf-an-authority", "chain-constraints", "leaf", ca=True),
    _built("path-too-long", "chain-constraints", "authority", path=0),
    _built("issuer-no-authority", "chain-constraints", "issuer", ca=False),
    _built("issuer-that-does-not-say", "chain-constraints", "issuer", ca=None),
    _built("issuer-for-other-uses", "chain-constraints", "issuer", signs=False),
    _built("critical-extension-unknown", "chain-constraints", "leaf", stranger=True),
    _built("firmware-not-in-the-certificate", "fwid", "leaf", firmware=None),
    _built("leaf-key-of-another-curve", "chain-key", "leaf", curve=ec.SECP256R1()),
)
