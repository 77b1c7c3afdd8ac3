"""Completion knows every command and option there is, and works in a real shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_glasshouse.cli.main import _parser, main


def completed(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The completions of bash for a command line; its last word is incomplete."""
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    ask = f'COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _glasshouse; printf "%s\\n" "${{COMPREPLY[@]}}"'
    script.write_text(capsys.readouterr().out + ask, "utf-8")
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("glasshouse ga", ["gate"]),
        ("glasshouse gate --max-o", ["--max-overhead"]),
        ("glasshouse render r.json --h", ["--help", "--html"]),
        ("glasshouse policy --wh", ["--wheel"]),
        ("glasshouse gate rep", []),
    ],
)
def test_bash_completes_what_fits_the_words_so_far(
    line: str, offered: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(completed(line, tmp_path, capsys)) == offered


def test_every_command_is_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offered = completed("glasshouse ''", tmp_path, capsys)

    (commands,) = [each.choices for each in _parser()._actions if each.dest == "command"]
    assert commands is not None
    assert offered == list(commands)


def test_fish_script_names_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "fish"])
    output = capsys.readouterr().out

    assert output.count("-a gate ") == 1
    assert "from gate' -l max-overhead" in output
    if shutil.which("fish"):
        subprocess.run(["fish", "--no-execute"], input=output, text=True, check=True)


def test_zsh_script_loads_what_it_needs_and_is_that_of_bash(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    of_bash = capsys.readouterr().out
    main(["completion", "zsh"])
    of_zsh = capsys.readouterr().out

    assert of_zsh.endswith(of_bash)
    assert "autoload -Uz bashcompinit && bashcompinit\n" in of_zsh
    if shutil.which("zsh"):
        done = subprocess.run(["zsh", "-f"], input=of_zsh + "whence -w _glasshouse", text=True, check=True, capture_output=True)
        assert "_glasshouse: function" in done.stdout
