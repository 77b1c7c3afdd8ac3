"""Foreign text made fit for one line of a terminal, a CI log, or a Markdown table.

Foreign is every word this process did not write itself: of a provider, a guest, a report, a file's name. Shown as it
comes, it can move a cursor, colour a verdict, begin a line of its own, or give a CI runner a command. What secrets and
addresses look like is not known here (`providers.http_api`).
"""

from __future__ import annotations

import json
import re
import unicodedata

#: How much of a foreign text one line shows by default, in characters.
SHOWN = 240
_CUT = "…"
#: And how much a whole line may be: a summary of a row with its reason and decision.
WHOLE_LINE = 16_384
#: What GitHub Actions reads as a command: `::name::` at the beginning of a line, `##[name]` anywhere in it (actions/runner,
#: ActionCommand.cs). Other CI systems read `##vso[` and `##teamcity[` the same way.
_COMMAND = re.compile(r":(?=:)|#(?=#\w*\[)")
_BEGUN = re.compile(r"^(\s*):(?=:)")
_BRACKETED = re.compile(r"#(?=#\w*\[)")
#: Categories of characters that are no text: controls, formats (bidirectional overrides, zero width), surrogates, private
#: and unassigned ones, and separators of lines and paragraphs. Unicode 15, chapter 4.5.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: A letter with more marks than any language stacks on it paints over its neighbour lines.
_MARKS = 4


def printable(text: object, *, limit: int = SHOWN) -> str:
    """`text` as one line of at most `limit` characters and a mark where it was cut.

    Whatever is not visible is spelled as an escape, backslash and hex digits, and so is what a CI runner would obey.
    Spaces of any kind are plain ones; a run of them is one.
    """
    whole = str(text)
    line = _COMMAND.sub(lambda found: _escape(found[0]), "".join(_shown(whole[: limit + 1])).strip())
    return line if len(whole) <= limit and len(line) <= limit else line[:limit] + _CUT


def printable_lines(text: object, *, lines: int = 40, limit: int = SHOWN) -> list[str]:
    """The first `lines` lines of `text`, each `printable`, and a last one with the number that was left out."""
    every = str(text)[: lines * limit * 4].splitlines()
    kept = [printable(line, limit=limit) for line in every[:lines]]
    return kept if len(every) <= lines else [*kept, f"… {len(every) - lines} more lines"]


def visible(line: object, *, limit: int = WHOLE_LINE, data: bool = False) -> str:
    """A whole line of output, our words and foreign ones: what `printable` does, but blanks stay, so that columns do.

    Where lines leave this process every one goes through here, also those whose foreign parts were made printable before.
    As the `data` of a command to a CI runner a line begins where the runner does not look for another command.
    """
    text = str(line)
    head = text[:limit].replace("\t", " ")
    plain = head.isascii() and head.isprintable()
    shown = head if plain else "".join(_escape(each) if _is_invisible(each) else each for each in head)
    if not data:
        shown = _BEGUN.sub(lambda found: found[1] + _escape(":"), shown)
    return _BRACKETED.sub(lambda found: _escape("#") + found[0][1:], shown) + (_CUT if len(text) > limit else "")


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the singular for one: `1 row`, `5 rounds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def json_text(value: object, *, indent: int | None = 2, sort_keys: bool = False) -> str:
    """JSON for a terminal or a log: ASCII, and no text in it means anything to either."""
    return json.dumps(value, indent=indent, sort_keys=sort_keys).replace("\x7f", "\\u007f").replace("##", "\\u0023#")


def markdown_cell(text: object, *, limit: int = SHOWN) -> str:
    """`printable` where text of ours stands around it, in a table or after a bullet: what counts inside a line is escaped."""
    shown = re.sub(r"([\\`*_\[|~$@])", r"\\\1", printable(text, limit=limit))
    return shown.replace("&", "&amp;").replace("<", "&lt;")


def _shown(text: str) -> list[str]:
    shown: list[str] = []
    marks = 0
    for letter in text:
        category = unicodedata.category(letter)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if category == "Zs" or letter in "\t\n\r":
            if shown and shown[-1] != " ":
                shown.append(" ")
        elif category in _INVISIBLE or marks > _MARKS:
            shown.append(_escape(letter))
        else:
            shown.append(letter)
    return shown


def _is_invisible(letter: str) -> bool:
    return not (" " <= letter <= "~") and unicodedata.category(letter) in _INVISIBLE


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004
