"""No untrusted file hangs, floods or crashes a command that reads it: one line, in bounded memory, and the right exit code.

Every command runs in a process of its own, under a limit on its memory that any amplification reaches at once.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.report.bundle import report_bytes
from tests.limits import HANG_S
from tests.unit.report import example
from tests.unit.report.archives import archive

#: What a command may take beyond what it takes to be there.
MEMORY = 640 << 20
#: Where the number of values is what is hostile, a fifth of them, under a fifth of the product's limit on their number and of the
#: memory; the whole of each in `make soak`.
SCALE = 1 if os.environ.get("SOAK") else 5
COUNTED = {
    "small objects", "as many rows as pass the count", "an alternative with many faults", "forbidden values without end", "many keys",
}  # fmt: skip
GOOD = report_bytes(example.document())
REAL = (Path(__file__).parents[2] / "data/reports/report-1.0-mock.json").read_bytes()
#: Names that our own numeric library would otherwise make threads for, each with an arena of address space.
QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def deflated(data: Iterator[bytes]) -> tuple[bytes, int, int]:
    """Deflated bytes, their CRC and their length, made piece by piece."""
    packer, crc, size, out = zlib.compressobj(9, zlib.DEFLATED, -15), 0, 0, []
    for piece in data:
        crc, size = zlib.crc32(piece, crc), size + len(piece)
        out.append(packer.compress(piece))
    return b"".join([*out, packer.flush()]), crc, size


def zip_of(
    packed: bytes, crc: int, size: int, *, name: bytes = b"report.json", flags: int = 0, method: int = 8, copies: int = 1
) -> bytes:
    """An archive whose directory has the given sizes, `copies` times of the same bytes under other names."""
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, flags, method, 0, 0x21, crc, len(packed), size & 0xFFFFFFFF, len(name), 0)
    body, entries = local + name + packed, b""
    for number in range(copies):
        named = name if number == 0 else name[:-3] + b"%03d" % number
        entries += (
            struct.pack(
                "<4sHHHHHHIIIHHHHHII",
                b"PK\1\2",
                20,
                20,
                flags,
                method,
                0,
                0x21,
                crc,
                len(packed),
                size & 0xFFFFFFFF,
                len(named),
                0,
                0,
                0,
                0,
                0,
                0,
            )
            + named
        )
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, copies, copies, len(entries), len(body), 0)
    return body + entries + end


def many(piece: bytes, count: int, *, around: tuple[bytes, bytes]) -> Iterator[bytes]:
    yield around[0]
    block = piece * 10_000
    for _ in range(count // 10_000):
        yield block
    yield around[1]


def bomb(megabytes: int, *, stated: int) -> bytes:
    """An archive whose one member is a thousand times as long as it is. One deflated block is used again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return zip_of(block * megabytes + packer.flush(), 0, stated)


def rows_bomb() -> bytes:
    """236 bytes, of which the schema once made 5.7 GB of faults: tens of thousands of rows without any of their fields."""
    packed, crc, size = deflated(many(b"{},", 40_000, around=(b'{"schemaVersion":"1.0","rows":[', b"{}]}")))
    return zip_of(packed, crc, size)


def utf_8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def like_a_report(name: str, value: bytes) -> bytes:
    """The good report with one field's value as JSON text."""
    document = {**example.document(), name: "HERE"}
    return json.dumps(document).encode().replace(b'"HERE"', value)


def _row_with_order(order: list[Any]) -> dict[str, Any]:
    row = dict(example.document()["rows"][0])
    return {**row, "roundFigures": [{**row["roundFigures"][0], "order": order}]}


def _zip_with(members: int) -> bytes:
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 0x21, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    entries = b"".join(entry + b"%07d" % each for each in range(members))
    return b"PK\3\4" + b"\0" * 60 + entries + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65_535, 65_535, len(entries), 64, 0)


def _zip64() -> bytes:
    """A member whose 64-bit field states 2^62 bytes."""
    packed, crc, _ = deflated(iter([b"{}"]))
    data = bytearray(zip_of(packed, crc, 0xFFFFFFFF))
    at = data.index(b"PK\1\2")
    extra = struct.pack("<HHQ", 1, 8, 1 << 62)
    struct.pack_into("<H", data, at + 30, len(extra))
    data[at + 46 + len(b"report.json") : at + 46 + len(b"report.json")] = extra
    return bytes(data)


CONTENTS: dict[str, Callable[[], bytes]] = {
    "deep lists": lambda: b"[" * 5_000_000,
    "deep objects": lambda: b'{"a":' * 1_000_000,
    "deep in a report": lambda: like_a_report("extra", b'{"a/b":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "small items": lambda: b"[" + b"[]," * 5_000_000 + b"[]]",
    "small objects": lambda: b"[" + b'{"a":1},' * (2_000_000 // SCALE) + b"1]",
    "small items in a report": lambda: like_a_report("rows", b"[" + b"{}," * 4_000_000 + b"{}]"),
    "as many rows as pass the count": lambda: like_a_report("rows", b"[" + b"{}," * (500_000 // SCALE) + b"{}]"),
    "an alternative with many faults": lambda: json.dumps(
        {**example.document(), "rows": [{**example.document()["rows"][0], "overheadCi95Pct": ["x"] * (700_000 // SCALE)}]}
    ).encode(),
    "a long list that must not repeat": lambda: json.dumps(
        {**example.document(), "rows": [_row_with_order([{"a": each} for each in range(50_000)])]}
    ).encode(),
    "forbidden values without end": lambda: like_a_report("extra", b'{"a/b":[' + b'"~/",' * (700_000 // SCALE) + b"1]}"),
    "many keys": lambda: b"{" + b",".join(b'"%d":1' % each for each in range(1_000_000 // SCALE)) + b"}",
    "one long text": lambda: b'{"schemaVersion":"' + b"a" * (40 << 20) + b'"}',
    "one wide text": lambda: b'{"schemaVersion":"' + b"a" * (40 << 20) + utf_8("\U0001f600") + b'"}',
    "unended text of escapes": lambda: b'["' + b'\\"' * 8_000_000,
    "commas in a text": lambda: b'{"a":"' + b"," * 8_000_000 + b'"}',
    "giant integer": lambda: b'{"schemaVersion":' + b"9" * 5_000 + b"}",
    "many giant integers": lambda: b"[" + b",".join([b"9" * 4_000] * 4_000) + b"]",
    "giant exponent": lambda: b'{"schemaVersion":1e400}',
    "NaN": lambda: b'{"schemaVersion":NaN}',
    "byte order mark": lambda: b"\xef\xbb\xbf" + GOOD,
    "UTF-16": lambda: GOOD.decode().encode("utf-16"),
    "lone surrogate": lambda: b'{"schemaVersion":"\\ud800"}',
    "Latin-1": lambda: b'{"schemaVersion":"caf\xe9"}',
    "key twice": lambda: GOOD.replace(b'"runId"', b'"runId":"a","runId"', 1),
    "torn": lambda: GOOD[:-200],
    "two documents": lambda: GOOD + GOOD,
    "empty": lambda: b"",
    "NUL bytes": lambda: b"\0" * 1_000_000,
    "too large": lambda: b" " * ((48 << 20) + 1),
    "zip: rows without fields": rows_bomb,
    "zip: bomb": lambda: bomb(4_000, stated=4_000 << 20),
    "zip: bomb that says it is small": lambda: bomb(1_000, stated=100),
    "zip: bomb that says it is as large as may be": lambda: bomb(1_000, stated=100_000_000),
    "zip: says it is larger": lambda: zip_of(*deflated(iter([b"{}"]))[:2], 100_000_000),
    "zip: encrypted": lambda: zip_of(*deflated(iter([GOOD])), flags=1),
    "zip: another compression": lambda: zip_of(*deflated(iter([GOOD])), method=12),
    "zip: overlapping members": lambda: zip_of(*deflated(many(b" ", 40_000_000, around=(b"", b""))), copies=900),
    "zip: thousands of members": lambda: _zip_with(200_000),
    "zip: absolute name": lambda: archive(("report.json", GOOD), ("/etc/passwd", b"")),
    "zip: name that leaves": lambda: archive(("report.json", GOOD), ("a/../../b", b"")),
    "zip: backslash": lambda: archive(("report.json", GOOD), ("a\\b", b"")),
    "zip: name of another alphabet": lambda: archive(("report.json", GOOD), ("\u202egnp.exe", b"")),
    "zip: nested": lambda: archive(("report.json", archive(("report.json", archive(("report.json", GOOD)))))),
    "zip: no report": lambda: archive(("other.json", GOOD)),
    "zip: torn": lambda: archive(("report.json", GOOD))[:-30],
    "zip: directory that is not where it says": lambda: archive(("report.json", GOOD))[:-6] + b"\xff\xff\xff\x7f\0\0",
    "zip: 64-bit sizes": _zip64,
    "zip: nothing but its first letters": lambda: b"PK",
    "gzip": lambda: b"\x1f\x8b\x08\0" + b"\0" * 100,
}


def special(folder: Path) -> dict[str, Path]:
    """Files that are none, and names of them."""
    os.mkfifo(folder / "fifo.json")
    (folder / "folder.json").mkdir()
    (folder / "device.json").symlink_to("/dev/zero")
    (folder / "loop.json").symlink_to("loop.json")
    return {
        "FIFO": folder / "fifo.json",
        "directory": folder / "folder.json",
        "device": folder / "device.json",
        "loop": folder / "loop.json",
        "name that is too long": folder / ("a" * 300),
    }


#: Commands that read a report, and what each may answer. `check` calls what reads and is wrong a fault.
REPORT_COMMANDS: dict[str, tuple[tuple[str, ...], set[int]]] = {
    "check": (("check", "{}"), {1, 4}),
    "check --published": (("check", "--published", "{}"), {1, 4}),
    "gate": (("gate", "--no-policy", "{}"), {1, 4}),
    "compare": (("compare", "{}", "{}"), {4}),
    "render": (("render", "--markdown", "{}"), {4}),
    "export": (("export", "{}", "--row", "a"), {4}),
    "pool": (("pool", "{}"), {1, 4}),
}
#: Commands that read something else, with a good report beside it.
OTHER_COMMANDS: dict[str, tuple[tuple[str, ...], set[int]]] = {
    "check --trust": (("check", "good.json", "--trust", "{}"), {4}),
    "gate --policy": (("gate", "good.json", "--policy", "{}"), {4}),
    "inspect": (("inspect", "{}"), {1, 4}),
    "inspect --owner": (("inspect", "good.json", "--owner", "{}"), {1, 4}),
    "policy show": (("policy", "show", "{}"), {4}),
    "policy diff": (("policy", "diff", "{}", "{}"), {4}),
    "policy capture --wheel": (("policy", "capture", "--container", "a@sha256:" + "0" * 64, "--wheel", "{}"), {4}),
    "policy capture --hardware": (("policy", "capture", "--container", "a@sha256:" + "0" * 64, "--hardware", "{}"), {4}),
    "redact": (("redact", "RUN"), {4, 12, 13}),
    "watch": (("watch", "RUN", "--once"), {0}),
}

#: What large files are given to: everything else reads as one of these does. `check --published` reads as `check` does and `pool`
#: as `check` and `gate` do: they get the small files here, and all of them in `make soak`.
LARGE = (
    "check", "gate", "check --trust", "policy show", "redact", "watch", *(("check --published", "pool") if os.environ.get("SOAK") else ()),
)  # fmt: skip
#: What is small, and large once it is unpacked.
UNPACKED = {"zip: bomb that says it is as large as may be"}

RUNNER = """
import contextlib, io, json, os, pathlib, resource, sys
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.publish import objections
from pytest_glasshouse.wire import canonical
memory, scale = map(int, sys.argv[1:])
canonical.VALUE_LIMIT //= scale
objections.VALUE_LIMIT //= scale
taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + memory // scale,) * 2)
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(json.loads(line))
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = f"{type(error).__name__}: {str(error)[:300]}"
    errors = err.getvalue()
    print(json.dumps([code, out.getvalue()[-2000:], len(out.getvalue()), errors[:2000], errors.count(chr(10))]), file=sys.__stdout__, flush=True)
"""


def outcomes(folder: Path, commands: list[list[str]], *, scale: int = 1) -> list[Any]:
    """What each command answered, one after the other in one process under the limits, divided by `scale`."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(MEMORY), str(scale)],
        input="".join(json.dumps(each) + "\n" for each in commands),
        capture_output=True, text=True, cwd=folder, timeout=HANG_S, check=False, env={**os.environ, **QUIET},
    )  # fmt: skip
    assert done.returncode == 0, (commands, done.stdout[-500:], done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def judge(commands: list[list[str]], allowed: list[set[int]], found: list[Any]) -> None:
    assert len(found) == len(commands)
    wrong = [
        (command, code, length, err[:300])
        for command, codes, (code, out, length, err, lines) in zip(commands, allowed, found, strict=True)
        if code not in codes or lines > 1 or length > 100_000 or "Traceback" in err + out or "memory than" in err
    ]
    assert wrong == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    (made / "good.json").write_bytes(GOOD)
    return made


def in_run(run: Path, path: Path) -> Path:
    """A run's directory in which every file that is read leads to `path`."""
    for name in (
        "plan.json",
        "progress.json",
        "rows.jsonl",
        "ledger.jsonl",
        "attempts.jsonl",
        "quarantine/report.json",
        "quarantine/why.json",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).symlink_to(path)
    return run


GROUPS = [sorted(COUNTED), *([name for name in CONTENTS if name not in COUNTED][start::5] for start in range(5))]


@pytest.mark.soak
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_hostile_content_is_an_error_of_one_line_in_bounded_memory_for_every_command(folder: Path, names: list[str]) -> None:
    commands, allowed = [], []
    for number, name in enumerate(names):
        path = folder / f"{GROUPS.index(names)}-{number}.json"
        path.write_bytes(CONTENTS[name]())
        run = in_run(folder / f"{GROUPS.index(names)}-{number}.run", path)
        table = {**REPORT_COMMANDS, **OTHER_COMMANDS}
        large = name in UNPACKED | COUNTED or path.stat().st_size > 1 << 20
        for which in LARGE if large else table:
            command, codes = table[which]
            commands.append([each.replace("{}", path.name).replace("RUN", run.name) for each in command])
            allowed.append(codes)

    judge(commands, allowed, outcomes(folder, commands, scale=SCALE if COUNTED & set(names) else 1))


def test_no_command_blocks_on_a_file_that_is_not_regular(folder: Path) -> None:
    (folder / "special").mkdir()
    table = {**REPORT_COMMANDS, **OTHER_COMMANDS}
    commands, allowed = [], []
    for path in special(folder / "special").values():
        for command, codes in table.values():
            if "{}" in command:
                commands.append([each.replace("{}", str(path)) for each in command])
                # What was named as an owner's key may be the key itself; a run that is none is a usage error.
                allowed.append(codes - ({1} if command[0] in {"check", "gate", "pool"} else set()))

    judge(commands, allowed, outcomes(folder, commands))


@pytest.mark.parametrize("kind", ["FIFO", "device", "directory"])
def test_run_directory_of_odd_files_is_read_without_waiting(folder: Path, kind: str) -> None:
    (folder / kind).mkdir()
    run = in_run(folder / f"{kind}.run", special(folder / kind)[kind]).name
    commands = [["watch", run, "--once"], ["redact", run]]

    judge(commands, [{0}, {4}], outcomes(folder, commands))


def test_history_leaves_out_what_it_cannot_read_and_names_it(folder: Path) -> None:
    made = folder / "history"
    made.mkdir()
    special(made)
    (made / "bomb.glasshouse.zip").write_bytes(bomb(1_000, stated=100))
    (made / "deep.json").write_bytes(b"[" * 1_000_000)
    (made / "bare.json").write_bytes(b'{"rows": []}')

    ((code, out, _, err, _),) = outcomes(folder, [["history", "history"]])

    assert (code, err) == (5, "")
    for name in ("fifo.json", "device.json", "folder.json", "loop.json", "bomb.glasshouse.zip", "deep.json", "bare.json"):
        assert f"left out: {name}: " in out


def test_plain_archive_of_the_same_files_is_still_a_bundle(folder: Path) -> None:
    """Nothing above refuses what an honest reader has: a bundle, zipped again by other means."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        out.writestr("report.json", REAL)
    (folder / "stored.zip").write_bytes(buffer.getvalue())

    ((code, out, _, _, _),) = outcomes(folder, [["render", "stored.zip", "--markdown"]])
    assert code == 0


@pytest.mark.parametrize("number", [1e308, 1.0, -1.0])
def test_float_where_a_count_is_expected_is_a_fault_and_no_crash(number: float) -> None:
    """JSON Schema calls 1e308 an integer; what counts with it does not."""
    document = example.document()
    row = document["rows"][0]
    row |= {"rounds": number, "lifecycle": {**row["lifecycle"], "attempted": number}}
    faults = [str(each) for each in check_bytes(json.dumps(document).encode(), derivation=example.EXAMPLE).faults]
    assert any(each.startswith("$.rows[0].rounds: expected integer") for each in faults)
    assert any(each.startswith("$.rows[0].lifecycle.attempted: expected integer") for each in faults)
