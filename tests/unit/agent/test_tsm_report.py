"""The kernel is asked for a report over exactly this data, and anything else that it gives is no evidence."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.agent.hardware_evidence import TeeSource
from pytest_glasshouse.agent.tsm_report import CHAIN, ENTRY, certificates, tsm_report
from pytest_glasshouse.attestation.certificates import pem_blocks
from pytest_glasshouse.errors import EvidenceUnavailableError
from pytest_glasshouse.wire.canonical import b64u
from pytest_glasshouse.wire.hardware import SEV_SNP, TDX, report_data

DATA = bytes(range(64))


class Kernel:
    """configfs-tsm: an entry is a directory whose files appear with it, and each write counts one generation."""

    def __init__(
        self, provider: str, *, table: bytes | None = None, disturbed: bool = False, report: bytes | None = None
    ) -> None:
        self.provider, self.table, self.disturbed, self.report = provider, table, disturbed, report
        self.entries = 0
        self.written: dict[str, bytes] = {}

    def __truediv__(self, name: str) -> Any:
        return _File(self, name)

    @property
    def generation(self) -> int:
        return len(self.written) + self.disturbed * len(self.written)


class _File:
    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel, self.name = kernel, name

    def __truediv__(self, name: str) -> Any:
        return _File(self.kernel, name)

    def mkdir(self) -> None:
        self.kernel.entries += 1

    def rmdir(self) -> None:
        self.kernel.entries -= 1

    def exists(self) -> bool:
        return self.name != "auxblob" or self.kernel.table is not None

    def read_text(self, _encoding: str) -> str:
        return {"provider": f"{self.kernel.provider}\n", "generation": f"{self.kernel.generation}\n"}[self.name]

    def write_text(self, text: str) -> None:
        self.kernel.written[self.name] = text.encode()

    def write_bytes(self, data: bytes) -> None:
        self.kernel.written[self.name] = data

    def read_bytes(self) -> bytes:
        if self.name == "auxblob":
            return self.kernel.table or b""
        return b"report over " + self.kernel.written["inblob"] if self.kernel.report is None else self.kernel.report


def ask(kind: str, kernel: Kernel) -> Any:
    try:
        return tsm_report(kind, DATA, root=kernel)  # type: ignore[arg-type]
    finally:
        assert kernel.entries == 0


def table(*contents: tuple[str, bytes]) -> bytes:
    start = ENTRY.size * (len(contents) + 1)
    heads, body = b"", b""
    for name, content in contents:
        heads += struct.pack("<16sII", uuid.UUID(name).bytes, start + len(body), len(content))
        body += content
    return heads + bytes(ENTRY.size) + body


def test_a_tdx_quote_is_asked_for_this_data() -> None:
    assert ask(TDX, Kernel("tdx_guest")).report == b"report over " + DATA


def test_an_snp_report_is_asked_for_at_vmpl_0_and_comes_with_the_host_s_certificates() -> None:
    listed = [(CHAIN[0][1], b"vlek"), (CHAIN[1][0], b"asvk"), (CHAIN[2][0], b"ark"), (str(uuid.uuid4()), b"?")]
    kernel = Kernel("sev_guest", table=table(*listed))
    answer = ask(SEV_SNP, kernel)
    assert kernel.written == {"privlevel": b"0", "inblob": DATA}
    assert [pem_blocks(pem) for pem in answer.certificates] == [[b"vlek", b"asvk", b"ark"]]


@pytest.mark.parametrize("given", [None, b"", table((CHAIN[0][0], b"vcek"))])
def test_a_host_that_gives_no_whole_chain_gives_none(given: bytes | None) -> None:
    assert ask(SEV_SNP, Kernel("sev_guest", table=given)).certificates == ()


def test_a_table_of_nonsense_is_no_chain() -> None:
    assert certificates(b"\xff" * 100) == ()


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        (Kernel("arm_cca_guest"), "this machine's TEE is 'arm_cca_guest'"),
        (Kernel("tdx_guest", disturbed=True), "changed while it was read"),
        (Kernel("tdx_guest", report=b""), "changed while it was read, or is too large"),
        (Kernel("tdx_guest", report=bytes(40_000)), "too large"),
    ],
)
def test_what_is_not_the_asked_report_is_no_evidence(kernel: Kernel, text: str) -> None:
    with pytest.raises(EvidenceUnavailableError, match=text):
        ask(TDX, kernel)


def test_a_machine_without_configfs_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EvidenceUnavailableError, match=r"expected .*/none \(Linux 6.7, configfs mounted and writable\)"):
        tsm_report(TDX, DATA, root=tmp_path / "none")
    with pytest.raises(EvidenceUnavailableError, match="the kernel gave no report"):
        tsm_report(TDX, DATA, root=tmp_path)


def test_report_data_of_another_length_is_never_sent() -> None:
    with pytest.raises(EvidenceUnavailableError, match="expected 64 bytes"):
        tsm_report(TDX, b"short")


def test_the_processor_is_asked_with_data_of_the_session() -> None:
    item = TeeSource(TDX, root=Kernel("tdx_guest")).collect(bytes(32))  # type: ignore[arg-type]
    expected = b"report over " + report_data(bytes(32))
    assert item == {"type": "tdx", "evidence": b64u(expected), "endorsements": []}
