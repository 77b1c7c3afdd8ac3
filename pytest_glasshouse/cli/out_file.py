"""`--out` of every command that writes one document: a file, whose path is then printed, or `-`, standard output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.output import write_document, write_lines
from pytest_glasshouse.wire.whole_file import put, refuse_unwritable

if TYPE_CHECKING:
    import argparse

_STANDARD_OUTPUT = Path("-")


def declare_out(parser: argparse.ArgumentParser, *, default: str = "standard output") -> None:
    """Let a command take `--out`."""
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"where to write; - is standard output (default: {default})")


def to_standard_output(out: Path | None) -> bool:
    """Whether it is written there."""
    return out is None or out == _STANDARD_OUTPUT


def check_out(out: Path | None, *, source: Path | None = None) -> None:
    """Raise `ConfigurationError` where nothing can be written, or where it would replace `source`."""
    if to_standard_output(out):
        return
    assert out is not None  # noqa: S101  (for the type checker)
    refuse_unwritable(out, what="--out")
    if source is not None and out.exists() and source.exists() and out.samefile(source):
        raise ConfigurationError(f"--out {out}: expected another file, saw the report itself")


def write_out(out: Path | None, text: str, *, what: str) -> None:
    """Write a document; `what` it is stands before the path of its file."""
    if out is None or to_standard_output(out):
        write_document(text)
        return
    put(out, text.encode())
    write_lines([f"{what}  {out}"])
