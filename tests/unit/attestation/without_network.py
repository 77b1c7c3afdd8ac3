"""Appraises every kind of device in a process that the kernel kills when it asks for a socket; prints the tiers.

With the argument `ask`, asks for one at the end. Whatever language asks, the kernel sees it.
"""

from __future__ import annotations

import ctypes
import platform
import socket
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation.device_evidence import DeviceEvidence
from pytest_glasshouse.attestation.hardware import APPRAISERS
from pytest_glasshouse.owner.policy import Policy, Recorded
from pytest_glasshouse.tamper.fake_gpu import genuine
from pytest_glasshouse.tamper.fake_snp import SnpFields, genuine_amd
from pytest_glasshouse.tamper.fake_tdx import QuoteFields, genuine_intel
from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import device_nonce, report_data

NOW, NONCE = 1_800_000_000, "ab" * 32
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_SOCKET = {"x86_64": 41, "aarch64": 198}
_LOAD_NUMBER, _IF_EQUAL, _RETURN, _KILL, _ALLOW = 0x20, 0x15, 0x06, 0x80000000, 0x7FFF0000


class _Step(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.POINTER(_Step)))


def forbid_sockets() -> None:
    """Have the kernel kill this process when it makes a socket (seccomp, with a filter of four steps)."""
    steps = (_Step * 4)(
        _Step(_LOAD_NUMBER, 0, 0, 0),
        _Step(_IF_EQUAL, 0, 1, _SOCKET[platform.machine()]),
        _Step(_RETURN, 0, 0, _KILL),
        _Step(_RETURN, 0, 0, _ALLOW),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(4, steps)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def main() -> None:
    """Appraise, and print each kind with its tier."""
    cnf = Cnf(hpke=X25519PrivateKey.generate().public_key(), sig=Ed25519PrivateKey.generate().public_key())
    nonce32 = device_nonce(NONCE, cnf)
    gpu, amd, intel = genuine(NOW), genuine_amd(NOW), genuine_intel(NOW)
    shown = [
        (gpu.item(nonce32), gpu.hardware()),
        (amd.item(SnpFields(report_data=report_data(nonce32))), amd.hardware()),
        (intel.item(QuoteFields(report_data=report_data(nonce32))), intel.hardware()),
    ]
    forbid_sockets()
    for item, hardware in shown:
        listed = item["endorsements"]
        evidence = DeviceEvidence(
            type=str(item["type"]), evidence=str(item["evidence"]), endorsements=tuple(map(str, listed)) if isinstance(listed, list) else ()
        )  # fmt: skip
        policy = Policy(name="n", version=1, components={"a": Recorded()}, container="c", hardware=hardware)
        print(item["type"], APPRAISERS[evidence.type](NOW).appraise(evidence, NONCE, cnf, policy)[0], flush=True)  # noqa: T201
    if "ask" in sys.argv:
        socket.socket()


if __name__ == "__main__":
    main()
