"""`glasshouse policy capture | show | diff`: reference values, taken once, read by a person, and pinned by their digest.

This module knows policy files. It refuses to take a reference value from a guest: capture reads this installation, or a wheel.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.cli.hardware_capture import add_options, hardware_of
from pytest_glasshouse.cli.out_file import check_out, declare_out, write_out
from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.run.exit_codes import EXIT_NO, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_errors, write_lines
from pytest_glasshouse.wire.printable import json_text, printable

if TYPE_CHECKING:
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.owner.policy import Policy, Required
    from pytest_glasshouse.wire.canonical import Json

_CAPTURE = """\
Write the policy that a guest running exactly this installation's code satisfies: the digest of the guest archive is
required, every other component is recorded. Read it, then pin it by the digest that is printed. Never capture from the
machine that will be judged: what runs there would become the reference.

You decide what the machine must be: --require pins a component (its digest stands in the evidence of a run on a machine
you trust), --require-locked asks for more. Evidence of hardware is asked for with --rim (a GPU), --evidence (a TDX or SEV-SNP
guest) or --hardware (the section as you wrote it). Rows are held to it with `pytest --glasshouse-policy FILE`, where
container and deadline are each allocation's and row's own.

With --wheel the archive's digest is that of the code in a wheel of pytest-glasshouse, which need not be installed.
"""

#: Our own wheel has two hundred files and less than two megabytes.
_WHEEL_LIMIT, _WHEEL_MEMBERS = 64 << 20, 10_000


def declare(commands: Commands) -> None:
    """Add the commands."""
    policy = commands.add_parser(
        "policy", help="capture, show or compare policies", description="What evidence must show before a key is released."
    )
    acts = policy.add_subparsers(dest="act", metavar="ACT", required=True, parser_class=type(policy))

    capture = acts.add_parser(
        "capture", help="write a policy from this installation", description=_CAPTURE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    capture.add_argument("--container", required=True, metavar="ID", help="the container or allocation the evidence must name")
    capture.add_argument("--name", default=None, metavar="NAME", help="the policy's name (default: the container's)")
    capture.add_argument(
        "--version", type=int, default=1, metavar="N", help="grows with every change under one name (default: 1)"
    )
    capture.add_argument(
        "--completion-seconds", type=int, default=3600, metavar="S", help="until exit evidence is due (default: 3600)"
    )
    capture.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="COMPONENT=SHA256",
        help="require this digest of a component; repeatable",
    )
    capture.add_argument(
        "--require-locked", action="store_true", help="require memory that is never swapped out for the opened package"
    )
    add_options(capture)
    capture.add_argument("--wheel", type=Path, metavar="FILE", help="take the code from this wheel")
    declare_out(capture)
    capture.set_defaults(run=_capture, report_error_code=EXIT_USAGE)

    show = acts.add_parser("show", help="a policy and its digest", description="Print a policy, one line for each requirement.")
    show.add_argument("file", type=Path, metavar="POLICY")
    show.set_defaults(run=_show, report_error_code=EXIT_USAGE)

    diff = acts.add_parser(
        "diff", help="what two policies require differently", description="Exit 0 when they are the same, 1 when not."
    )
    diff.add_argument("first", type=Path, metavar="POLICY")
    diff.add_argument("second", type=Path, metavar="POLICY")
    diff.set_defaults(run=_diff, report_error_code=EXIT_USAGE)


def _capture(options: argparse.Namespace) -> int:
    from pytest_glasshouse.channel.archive import guest_archive, reference_source
    from pytest_glasshouse.legs.allocation_policy import base_policy
    from pytest_glasshouse.wire.canonical import sha256_hex

    if options.version < 1 or options.completion_seconds < 1:
        raise ConfigurationError(
            f"--version, --completion-seconds: expected at least 1, saw {options.version} and {options.completion_seconds}"
        )
    check_out(options.out)
    if options.wheel is None:
        archive, source = guest_archive(), f"this installation ({reference_source()})"
    else:
        archive, source = _archive_of_wheel(options.wheel), f"wheel {options.wheel.name}"
    captured = base_policy(
        name=options.name or options.container,
        archive_sha256=sha256_hex(archive),
        container=options.container,
        completion_s=options.completion_seconds,
    )
    policy = dataclasses.replace(
        captured,
        version=options.version,
        components={**captured.components, **_required(options.require, captured)},
        hardware=hardware_of(options),
        locked=options.require_locked,
    )
    text = json_text(policy.to_json(), sort_keys=True) + "\n"
    write_out(options.out, text, what="policy")
    write_errors(f"policy {policy.sha256}, reference values from {source}")
    return EXIT_OK


def _required(given: list[str], captured: Policy) -> dict[str, Required]:
    from pytest_glasshouse.owner.policy import Required
    from pytest_glasshouse.wire.canonical import is_sha256

    found = {}
    for text in given:
        name, _, digest = text.partition("=")
        if name not in captured.components or name in ("archive", "foreign") or not is_sha256(digest):
            raise ConfigurationError(
                f"--require {text}: expected COMPONENT=SHA256 of a component that is only recorded without it"
            )
        found[name] = Required(sha256=digest)
    return found


def _archive_of_wheel(path: Path) -> bytes:
    import io
    import zipfile

    from pytest_glasshouse.channel.archive import archive_from
    from pytest_glasshouse.wire.bounded_file import read_named
    from pytest_glasshouse.wire.bounded_zip import read_zip

    content, plain = read_named(path, what=f"--wheel {path}", limit=_WHEEL_LIMIT), io.BytesIO()
    try:
        files = read_zip(content, limit=_WHEEL_LIMIT, members=_WHEEL_MEMBERS)
        with zipfile.ZipFile(plain, "w") as wheel:
            for name, data in files.items():
                wheel.writestr(name, data)
            return archive_from(zipfile.Path(wheel, "pytest_glasshouse/"))
    except (OSError, IntegrityError, KeyError):
        raise ConfigurationError(f"--wheel {path}: expected a wheel of pytest-glasshouse, saw none") from None


def _show(options: argparse.Namespace) -> int:
    policy = read_policy(options.file)
    write_lines([f"policy {policy.sha256}", *(f"  {name}: {value}" for name, value in _requirements(policy).items())])
    return EXIT_OK


def _diff(options: argparse.Namespace) -> int:
    first, second = _requirements(read_policy(options.first)), _requirements(read_policy(options.second))
    lines = list(_differences(first, second))
    write_lines(lines or ["the same policy"])
    return EXIT_NO if lines else EXIT_OK


def _differences(first: dict[str, str], second: dict[str, str]) -> Iterator[str]:
    for name in sorted(first.keys() | second.keys()):
        before, after = first.get(name, "(absent)"), second.get(name, "(absent)")
        if before != after:
            yield f"{name}: {before} -> {after}"


def _requirements(policy: Policy) -> dict[str, str]:
    """Everything a policy requires, by name."""
    from pytest_glasshouse.owner.policy import Required

    found = {name: _text(value) for name, value in policy.to_json().items() if name not in {"components", "hardware"}}
    if policy.hardware is not None:
        found |= dict(_hardware_lines("hardware", policy.hardware.to_json()))
    for name, item in policy.components.items():
        required = f"must be {item.sha256 or 'a value that was not given: always refused'}" if isinstance(item, Required) else ""
        found[f"component {printable(name)}"] = required or "recorded"
    return found


def _hardware_lines(name: str, value: Json) -> Iterator[tuple[str, str]]:
    """Each requirement on hardware by its path. Roots have names; collateral is shown by its digest."""
    from pytest_glasshouse.owner.references import KNOWN_ROOTS
    from pytest_glasshouse.wire.canonical import canonical, sha256_hex

    if name.endswith(" collateral"):
        yield name, f"sha256 {sha256_hex(canonical(value))}"
    elif isinstance(value, dict):
        for below, each in value.items():
            yield from _hardware_lines(f"{name} {printable(below)}", each)
    elif isinstance(value, list):
        shown = [f"{text} ({KNOWN_ROOTS[text]})" if text in KNOWN_ROOTS else text for text in map(str, value)]
        yield name, ", ".join(shown) or "none"
    else:
        yield name, _text(value)


def _text(value: Json) -> str:
    return printable(value) if isinstance(value, str) else json_text(value, indent=None, sort_keys=True)


def read_policy(path: Path) -> Policy:
    """The policy in a file. Raises `ConfigurationError`."""
    from pytest_glasshouse.owner.policy import Policy
    from pytest_glasshouse.wire.bounded_file import read_named
    from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, parse_object

    content = read_named(path, what=str(path), limit=MESSAGE_LIMIT)
    try:
        return Policy.from_json(parse_object(content))
    except IntegrityError as error:
        raise ConfigurationError(f"{path}: expected a policy, saw something else ({error.detail or error.reason})") from None
