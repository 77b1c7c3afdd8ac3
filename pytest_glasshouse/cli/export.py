"""`glasshouse export`: a row's protected legs as an in-toto Statement."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.cli.out_file import check_out, declare_out, to_standard_output, write_out
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.printable import json_text

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands

_EXPORT = """\
Export one row of a BUNDLE for in-toto tools: a Statement with the digest of every protected
adapter as subject and digests of journal, evidence, result and receipt as predicate, in a DSSE envelope that the report
key signed when the report was published. Verify it with that key, which you got another way:

  securesystemslib: Envelope.from_dict(json.load(file)).verify([SSlibKey(...)], threshold=1)
"""


def declare(commands: Commands) -> None:
    """Add the command."""
    export = commands.add_parser(
        "export",
        help="a row's protected runs as an in-toto Statement in a DSSE envelope",
        description=_EXPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    export.add_argument("bundle", type=Path, metavar="BUNDLE", help="the .glasshouse.zip of a run")
    export.add_argument("--row", required=True, metavar="ROW", help="id or name of the row")
    declare_out(export)
    export.set_defaults(run=_export, report_error_code=EXIT_USAGE)


def _export(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.check import read_document
    from pytest_glasshouse.report.bundle import members_of
    from pytest_glasshouse.report.intoto import exported

    check_out(options.out)
    data, document = read_document(options.bundle, derivation=derivation_of(options))
    envelope = exported(document, members_of(data), options.row)
    # On standard output it is for people, in a file it is the bytes that were signed.
    shown = json_text(json.loads(envelope)) + "\n" if to_standard_output(options.out) else envelope.decode()
    write_out(options.out, shown, what="envelope")
    return EXIT_OK
