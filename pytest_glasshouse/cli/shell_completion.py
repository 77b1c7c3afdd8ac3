"""`glasshouse completion`: a script that lets a shell complete commands and options, made from the parser itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_document

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands

_COMPLETION = """\
Write a completion script for a shell:

  bash   eval "$(glasshouse completion bash)"                    in ~/.bashrc
  zsh    eval "$(glasshouse completion zsh)"                     in ~/.zshrc, after compinit
  fish   glasshouse completion fish | source                     in ~/.config/fish/config.fish

pytest's own options, those of this plugin among them, are completed by argcomplete: pip install argcomplete, then
eval "$(register-python-argcomplete pytest)".
"""
_BASH = """\
_glasshouse() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" words=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    case "$current" in
        -*) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
        *) if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "$words" -- "$current")); fi ;;
    esac
}}
complete -o default -o bashdefault -F _glasshouse glasshouse
"""
#: zsh runs the script for bash, once this part of it is loaded.
_ZSH = """\
if ! whence compdef > /dev/null; then
    autoload -Uz compinit && compinit
fi
autoload -Uz bashcompinit && bashcompinit
"""


def declare(commands: Commands) -> None:
    """Add the subcommand. What it completes is read when it runs, when every command has been declared."""
    completion = commands.add_parser(
        "completion", help="a completion script for your shell", description=_COMPLETION,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    completion.set_defaults(run=lambda options: _completion(options.shell, commands), report_error_code=EXIT_USAGE)


def _completion(shell: str, commands: Commands) -> int:
    options = {name: _options(parser) for name, parser in commands.choices.items()}
    helps = {each.dest: each.help or "" for each in commands._choices_actions}  # noqa: SLF001  (argparse has it nowhere else)
    write_document({"bash": _bash, "zsh": _zsh}[shell](options) if shell != "fish" else _fish(options, helps))
    return EXIT_OK


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """Every long option of a command, and of the commands below it."""
    found: list[str] = []
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            found += [*action.choices, *(each for below in action.choices.values() for each in _options(below))]
        found += [option for option in action.option_strings if option.startswith("--")]
    return list(dict.fromkeys(found))


def _bash(options: dict[str, list[str]]) -> str:
    cases = "\n".join(f'            {name}) words="{" ".join(each)}" ;;' for name, each in options.items())
    return _BASH.format(commands=" ".join(options), cases=cases)


def _zsh(options: dict[str, list[str]]) -> str:
    return _ZSH + _bash(options)


def _fish(options: dict[str, list[str]], helps: dict[str, str]) -> str:
    lines = []
    for name, flags in options.items():
        words = helps.get(name, "").replace("'", "")
        lines.append(f"complete -c glasshouse -n __fish_use_subcommand -a {name} -d '{words}'")
        seen = f"'__fish_seen_subcommand_from {name}'"
        lines += [f"complete -c glasshouse -n {seen} -l {each[2:]}" for each in flags if each.startswith("--")]
    return "\n".join(lines) + "\n"
