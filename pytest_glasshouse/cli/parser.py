"""The argument parser of every command: one line and exit code 4 for a usage error; numbers as people write them."""

from __future__ import annotations

import argparse
import re
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_glasshouse.run.exit_codes import EXIT_USAGE
from pytest_glasshouse.wire.output import write_errors
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  (argparse names it nowhere else)

#: A public key (32 bytes, base64url) that begins with a dash, as one in 64 does.
_DASHED_KEY = re.compile(r"-[A-Za-z0-9_-]{42}")
_OPTION = re.compile(r"--[a-z][a-z-]*")


class Parser(argparse.ArgumentParser):
    """One line and exit code 4 for a usage error, as in pytest, with the command whose help shows more."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.register("type", float, _number)
        self.register("type", int, _whole)

    def parse_known_args(  # type: ignore[override]  # the signature has overloads that nothing here needs
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does, but a command itself refuses unknown arguments; argparse leaves that to `glasshouse`."""
        known, unknown = super().parse_known_args(_with_keys(sys.argv[1:] if args is None else args), namespace)
        if unknown:
            options = [name for name in self._option_string_actions if name.startswith("--")]
            close = get_close_matches(unknown[0].partition("=")[0], options, n=1, cutoff=0.7)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {close[0]}?' if close else ''}")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, but a word near a choice gets it suggested, where argparse lists all choices and no more."""
        if action.choices is not None and value not in action.choices:
            choices = [str(each) for each in action.choices]
            close = get_close_matches(str(value), choices, n=1, cutoff=0.6)
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"  # noqa: SLF001
            hint = f"; did you mean {close[0]}?" if close else f": expected one of {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"there is no {what} {printable(repr(value))}{hint}")

    def error(self, message: str) -> NoReturn:
        write_errors(f"{self.prog}: {message} (see {self.prog} --help)")
        sys.exit(EXIT_USAGE)


def _with_keys(arguments: Sequence[str]) -> list[str]:
    """The arguments, each public key that begins with a dash behind its option's `=`: argparse would take it for an option."""
    given: list[str] = []
    for text in arguments:
        if _DASHED_KEY.fullmatch(text) and given and _OPTION.fullmatch(given[-1]):
            given[-1] += f"={text}"
        else:
            given.append(text)
    return given


def _number(text: str) -> float:
    try:
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number, saw {printable(repr(text))}")


def _whole(text: str) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,15}", text):
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number, saw {printable(repr(text))}")
