"""`glasshouse gate`: whether a report passes a release policy. Reads files and the clock.

It turns flags and a table into a policy, and the ruling of `check.gate`, which judges, into lines and an exit code.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.derivation import derivation_of
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.run.exit_codes import EXIT_USAGE
from pytest_glasshouse.wire.output import write_ci_command, write_document, write_lines
from pytest_glasshouse.wire.printable import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.check.gate import Gated
    from pytest_glasshouse.check.gate_policy import PolicyTable
    from pytest_glasshouse.cli.parser import Commands

_GATE = """\
Judge whether REPORT (a report or a bundle) passes a release policy. Whatever the policy, it must be free of faults,
every row in it measured on the GPU it names, every tamper case refused, no key outstanding, cleanup proven, the tree
without uncommitted changes and the attestation policy not lenient. The rest is asked for with flags, or in the nearest
pyproject.toml, from this directory upwards, that has the table:

  [tool.glasshouse.gate]
  rows = ["h100-*"]          # patterns; each must match a measured row
  max-overhead = 3.0         # percent; the one-sided 95 % upper bound of every row must be at most this
  max-round-overhead = 10.0  # percent; no single round may exceed it
  max-margin = 1.0           # percent; the widest margin that rows may have been judged with
  min-rounds = 5
  publishable = true
  level = "authentic"        # with trust = ["lab.pub"]
  max-age = 24               # hours
  min-lifecycle = 0.95       # least 95 % lower bound of the share of lifecycles that held

Where neither the table nor a flag asks for anything that must be measured (--row, --max-overhead, --max-round-overhead,
--max-margin, --min-rounds, --publishable, --require, --min-lifecycle), or a table is named almost like this one, nothing is
judged and the exit code is 4, so that a misspelt policy never passes. --no-policy judges without the table, and without
flags what must hold whatever the policy.

exit codes: 0 passed; 1 failed or inconclusive; 4 the report or the policy cannot be used; 5 nothing to judge
"""


def declare(commands: Commands) -> None:
    """Add the command."""
    gate = commands.add_parser(
        "gate", help="judge a report against a release policy", description=_GATE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    gate.add_argument("report", type=Path, metavar="REPORT", help="a report or a bundle")
    gate.add_argument("--row", action="append", dest="rows", metavar="PATTERN", help="a row that must be measured; repeatable")
    gate.add_argument("--max-overhead", type=float, metavar="P", help="percent that every row's upper bound may reach")
    gate.add_argument("--max-round-overhead", type=float, metavar="P", help="percent that no single round may exceed")
    gate.add_argument("--max-margin", type=float, metavar="P", help="the widest margin that rows may have been judged with")
    gate.add_argument("--min-rounds", type=int, metavar="N", help="rounds that every row must have")
    gate.add_argument("--publishable", action="store_true", default=None, help="every row must be publishable")
    gate.add_argument("--require", dest="level", metavar="LEVEL", help="consistent, authentic or witnessed")
    gate.add_argument("--trust", action="append", type=Path, metavar="PUB", help="a public key file; repeatable")
    which = gate.add_mutually_exclusive_group()
    which.add_argument("--subject", type=Path, metavar="FILE", help="the file (a wheel) that the report must be about")
    which.add_argument("--commit", metavar="SHA", help="the commit that the report must be about")
    gate.add_argument("--max-age", type=float, metavar="H", help="hours since the report was made")
    gate.add_argument("--min-lifecycle", type=float, metavar="SHARE", help="least 95 %% lower bound of lifecycles that held")
    gate.add_argument("--allow-dirty", action="store_true", default=None, help="accept a tree with uncommitted changes")
    gate.add_argument(
        "--allow-lenient-policy",
        action="store_true",
        default=None,
        help="accept waived findings, lenient policies and older invariants",
    )
    whose = gate.add_mutually_exclusive_group()
    whose.add_argument(
        "--policy", type=Path, metavar="TOML", help="where [tool.glasshouse.gate] stands (default: pyproject.toml here or above)"
    )
    whose.add_argument("--no-policy", action="store_true", help="read no table; judge by the flags, or by what must hold anyway")
    gate.add_argument("--json", action="store_true", help="the ruling as JSON")
    gate.set_defaults(run=_gate, report_error_code=EXIT_USAGE)


def _gate(options: argparse.Namespace) -> int:
    from pytest_glasshouse.check.authenticity import Trust
    from pytest_glasshouse.check.check import check_bytes, read_document
    from pytest_glasshouse.check.gate import gate
    from pytest_glasshouse.check.gate_policy import FIELDS, policy_of, refuse_empty_policy, trusted_of

    table = _policy_table(options)
    flags = {name: getattr(options, name.replace("-", "_")) for name in FIELDS}
    policy = policy_of(table, flags, subject=options.subject)
    data, document = read_document(options.report, derivation=derivation_of(options))
    if not options.no_policy:
        refuse_empty_policy(table, flags)
    trust = Trust.read([*trusted_of(table), *(options.trust or ())])
    gated = gate(document, check_bytes(data, trust=trust, derivation=derivation_of(options)), policy, now=datetime.now(UTC))
    lines = [table.source, *_lines(options.report, gated)]
    if policy.max_overhead_pct is None and document["methodology"]["maxOverheadPct"] is None:
        lines.insert(-1, "no limit was given: the overhead of no row was judged (--max-overhead)")
    if options.json:
        write_document(_json(gated, table.source) + "\n")
    else:
        write_lines(lines)
    if os.environ.get("GITHUB_ACTIONS") == "true" and gated.ruling.code:
        from pytest_glasshouse.render.github_annotations import annotation

        write_ci_command(annotation("error", "glasshouse gate", gated.sentence))
    return gated.ruling.code


def _policy_table(options: argparse.Namespace) -> PolicyTable:
    from pytest_glasshouse.check.gate_policy import find_table, no_policy, read_table

    if options.no_policy:
        return no_policy("--no-policy was given")
    if options.policy is not None:
        return read_table(options.policy, required=True)
    try:
        return find_table(Path.cwd())
    except FileNotFoundError:
        raise ConfigurationError(
            "expected a directory to look for a policy from, saw that this one is gone; give --policy"
        ) from None


def _lines(path: Path, gated: Gated) -> Iterator[str]:
    yield from gated.notes
    yield from (f"{path}: {each}" for each in gated.objections)
    yield gated.sentence


def _json(gated: Gated, policy: str) -> str:
    ruling = {
        "policy": policy,
        "ruling": gated.ruling.value,
        "exitCode": gated.ruling.code,
        "level": gated.level.value,
        "judged": gated.judged,
        "selected": gated.selected,
        "objections": [{"path": each.path, "text": each.text, "undecided": each.undecided} for each in gated.objections],
        "notes": [*gated.notes],
        "sentence": gated.sentence,
    }
    return json_text(ruling)
