"""No text of a report, a provider, a file's name or a directory controls the terminal, the CI runner or the page it is shown on.

A new place that shows one cannot forget it: what leaves the command and the plugin goes through two modules, and the first test
here finds whatever does not.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pytest_glasshouse
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.plugin.github_actions import junit_properties, workflow_commands
from pytest_glasshouse.plugin.summary import summary
from pytest_glasshouse.plugin.terminal import made_visible, write_line
from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.render.page_table import SCRIPT
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.schema import schema_faults
from pytest_glasshouse.run.live_line import Live, progress_line
from pytest_glasshouse.wire.output import write_lines
from tests.unit.report import example

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "\x1b[2J\x1b]0;x\x07\r\n::stop-commands::x\n##[error]y ##vso[task.complete] \u202e\u2066|<script>alert(1)</script>`x`\x9b31m\x7f\u2028"
PACKAGE = Path(pytest_glasshouse.__file__).parent
#: Who writes to the outside: the two sinks, the reaper's own log, JSON to the process that asked, and what runs on a guest.
SINKS = {
    "wire/output.py",
    "plugin/terminal.py",
    "broker/reaper_process.py",
    "workloads/lora_rehearsal.py",
    "workloads/model_hub.py",
    "cli/replay_leg.py",
}


def test_all_output_is_written_by_one_of_two_modules() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _writes(ast.unparse(node.func)):
                found.add(name)
    assert {
        name
        for name in found
        if not name.startswith(
            ("agent/", "guest/", "channel/pod_", "channel/job_", "channel/host_keeper", "channel/host_service")
        )
    } <= SINKS


def test_markup_of_the_page_is_made_in_one_module() -> None:
    importing = {path.name for path in (PACKAGE / "render").glob("*.py") if "from html import" in path.read_text("utf-8")}
    assert importing == {"html.py", "badge.py"}


def _writes(called: str) -> bool:
    return called == "print" or called.endswith((".write_line", "stdout.write", "stderr.write", "tw.write", "tw.line"))


def hostile(value: Any, key: str = "") -> Any:
    """The value with every text that the schema leaves free replaced."""
    if isinstance(value, dict):
        return {name: hostile(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [hostile(each, key) for each in value]
    return HOSTILE if isinstance(value, str) and key in FREE else value


FREE = {
    "name", "gpuModel", "gpuUuid", "provider", "providerInstanceId", "allocationName", "modelId", "namedGpuModel", "reason", "decision",
    "expected", "seen", "todo", "interpretation", "verdictReason", "method", "version", "python", "implementation", "system", "release",
    "machine", "claimed", "notClaimed", "notShown", "unpublishableBecause", "invariant", "expectedReason", "seenReason", "caughtBy",
    "formula", "totals", "interval", "bootId", "sub",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrusted reports, one free of faults and one not, in files of names no better."""
    folder = tmp_path_factory.mktemp("strange")
    document = hostile(example.document(example.measured(rounds=2), example.slower_raw(), example.excluded(), example.lost()))
    assert list(schema_faults(document)) == []
    for number in range(2):
        again = resealed({**document, "runId": f"run-{number}"}, key=example.KEYS.report)
        (folder / f"{number}{HOSTILE.replace('/', '')[:60]}.json").write_bytes(report_bytes(again))
    (folder / f"torn{HOSTILE.replace('/', '')[:60]}.json").write_bytes(b'{"runId":')
    (folder / "\x1b[2Jpolicy.json").write_text(json.dumps({"name": HOSTILE}), "utf-8")
    return folder


def reports(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir() if path.name.startswith(("0", "1")))


def assert_harmless(text: str) -> None:
    for line in text.split("\n"):
        categories = {unicodedata.category(letter) for letter in line}
        assert categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} == set(), repr(line)
        assert not line.lstrip().startswith("::"), line
        assert not re.search(r"##\w*\[", line), line


COMMANDS = (
    ("check",), ("gate",), ("gate", "--json"), ("gate", "--max-overhead", "3", "--row", "x"), ("pool",), ("compare",), ("history",),
    ("render", "--markdown"), ("render", "--html"), ("render", "--badge"), ("render", "--excerpt"), ("export", "--row", HOSTILE),
    ("policy", "show"), ("policy", "diff"), ("inspect",), ("watch", "--once"), ("redact",), ("nonsense",), ("check", f"--{HOSTILE}"),
)  # fmt: skip


@pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda command: " ".join(command)[:20].encode("ascii", "ignore").decode().strip()
)
def test_command_shows_untrusted_text_without_control_characters(
    folder: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    first, second = reports(folder)
    policy = str(folder / "\x1b[2Jpolicy.json")
    files = {
        "check": [first, second], "pool": [first, second], "compare": [first, second, "--allow-unlike"], "history": [str(folder)],
        "policy": [policy, policy] if command[-1] == "diff" else [policy], "watch": [str(folder)], "redact": [str(folder)],
    }  # fmt: skip
    with contextlib.suppress(SystemExit):
        main([*command, *files.get(command[0], [first])], derivation=example.EXAMPLE)
    shown = capsys.readouterr()
    assert shown.out + shown.err
    assert_harmless(shown.out + shown.err)
    foreign = shown.out.replace(f"<script>{SCRIPT}</script>", "")
    assert "<script>" not in foreign or command[0] != "render" or command[1] == "--excerpt"


def test_markdown_of_an_untrusted_report_escapes_its_markup(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["render", reports(folder)[0], "--markdown"], derivation=example.EXAMPLE)
    text = capsys.readouterr().out
    assert not re.search(r"(?<!\\)`x", text)
    widths = {
        len(re.findall(r"(?<!\\)\|", line))
        for line in text[text.index("## Rows") :].split("\n\n")[1].splitlines()
        if line.startswith("|")
    }
    assert len(widths) == 1


def test_annotations_of_github_cannot_be_written_by_a_row() -> None:
    record: Any = {
        "list": "excludedResults",
        "record": {"name": HOSTILE, "outcome": "lost", "reason": HOSTILE, "decision": HOSTILE, "dryRun": True},
    }
    lines = list(workflow_commands([record], cleanup=HOSTILE, problems=[HOSTILE]))

    assert len(lines) == 3
    for line in lines:
        assert line.startswith("::error title=")
        assert_harmless(line[2:])
        assert "\n" not in line
        properties_of = line[2:].partition("::")[0].partition(" ")[2]
        assert not set(properties_of.removeprefix("title=")) & set(",:\r\n")


def test_terminal_summary_and_live_line_are_visible() -> None:
    records: Any = [{"list": each, "record": hostile(record)} for each, record in _records()]
    for line in summary(records, []):
        assert_harmless(line)
    event = dict.fromkeys(("row_id", "leg", "phase", "round"), HOSTILE)
    assert_harmless(progress_line(event, worker="gw0"))
    written: list[str] = []

    class Terminal:
        def write_line(self, line: str, **_: bool) -> None:
            written.append(line)

    write_line(Terminal(), HOSTILE)  # type: ignore[arg-type]
    assert_harmless("".join(written))


def _records() -> Iterator[tuple[str, dict[str, Any]]]:
    for record in (example.measured(), example.lost(), example.excluded()):
        yield record["list"], record["record"]


def test_boot_message_of_a_provider_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file:
        live = Live(file.fileno(), terminal=False)
        live._at_line_start = True
        live.show_boot(HOSTILE, HOSTILE)
        live._fd = -1
    assert_harmless(path.read_text("utf-8"))


def _refuse() -> None:
    raise ValueError(HOSTILE)


def test_failure_that_pytest_prints_is_visible() -> None:
    with pytest.raises(ValueError, match="script") as caught:
        _refuse()
    shown = caught.getrepr(style="long", showlocals=True)
    shown.addsection("more", HOSTILE)
    assert_harmless(str(made_visible(shown)))
    assert_harmless(made_visible(HOSTILE))


def test_properties_for_junit_are_one_visible_line() -> None:
    record: Any = {"list": "rows", "record": {**hostile(example.measured()["record"])}}
    assert_harmless("".join(value for _, value in junit_properties(record)))


def test_characters_a_terminal_cannot_encode_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    write_lines(["Ünïcødé 日本"])
    assert raw.getvalue() == rb"\xdcn\xefc\xf8d\xe9 \u65e5\u672c" + b"\n"
