"""Encodes a launch so that its names, values and start command need no quoting.

RunPod's SDK pastes values between quotes, and Vast.ai turns them into flags of a command line. A value that would need quoting
travels as base64 in a variable of its own; the first process decodes it, then executes the start command. Where a provider
limits the length of values, a long one travels in pieces, and the first process joins them.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_glasshouse.errors import LaunchRefusedError
from pytest_glasshouse.providers.base import Launch

#: Letters that need no quoting in a GraphQL string, a flag's value and, but for the quote itself, a shell's word.
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:=+@,%-]*")
_PLAIN_START = re.compile(r"[A-Za-z0-9_./:=+@,%' -]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]*(?:@sha256:[0-9a-f]{64})?")
_WRAPPED = "GLASSHOUSE_B64_"
#: Joins the pieces `GLASSHOUSE_B64_<number>_0`, `..._1` and so on, as many as its second argument says, in `gh_v`.
_JOIN = (
    "gh_j(){ gh_v=;gh_i=0;while [ $gh_i -lt $2 ];do "
    f'eval "gh_v=\\$gh_v\\${_WRAPPED}$1_$gh_i;unset {_WRAPPED}$1_$gh_i";gh_i=$((gh_i+1));done;}};'
)


@dataclass(frozen=True, kw_only=True)
class VariableLimits:
    """The most characters of `name=value` that a provider takes: of one variable, and of all together."""

    one: int
    all: int


@dataclass(frozen=True, kw_only=True)
class EncodedLaunch:
    """A launch that needs no quoting."""

    name: str
    image: str
    env: Mapping[str, str] = field(repr=False)
    start: tuple[str, ...] = field(repr=False)


def environment(launch: Launch) -> dict[str, str]:
    """The launch's variables, and the run's public key in the one that images read."""
    keys = {"PUBLIC_KEY": launch.public_key} if launch.public_key else {}
    return {**keys, **launch.env}


def check_launch(launch: Launch) -> Launch:
    """The launch, if its name, image and variables' names are valid. Raises `LaunchRefusedError`: nothing was sent."""
    if not _NAME.fullmatch(launch.name):
        raise LaunchRefusedError("an allocation's name has 1 to 60 letters, digits, dots and dashes; nothing was sent")
    if not _IMAGE.fullmatch(launch.image):
        raise LaunchRefusedError(
            "expected an image reference such as registry/name@sha256:..., saw none or another; nothing was sent"
        )
    for name, value in launch.env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise LaunchRefusedError(
                "a variable of the launch cannot be one (letters, digits and _ in its name); nothing was sent"
            )
    return launch


def encode_launch(launch: Launch, *, limits: VariableLimits | None = None) -> EncodedLaunch:
    """`launch`, encoded. Raises `LaunchRefusedError` for what cannot be."""
    check_launch(launch)
    env: dict[str, str] = {}
    prelude = ""
    for number, (name, value) in enumerate(environment(launch).items()):
        plain = _PLAIN_VALUE.fullmatch(value) is not None
        text = value if plain else base64.b64encode(value.encode()).decode()
        carrier = name if plain else _WRAPPED + name
        if limits is not None and len(carrier) + 1 + len(text) > limits.one:
            pieces = _cut(text, name=f"{_WRAPPED}{number}", most=limits.one)
            env |= pieces
            prelude += f"{'' if _JOIN in prelude else _JOIN}gh_j {number} {len(pieces)};"
            encoded = "gh_v"
        else:
            env[carrier] = text
            if plain:
                continue
            encoded = carrier
        if plain:
            prelude += f'export {name}="$gh_v";'
        else:
            # The x keeps newlines at the end, which a command substitution would remove.
            prelude += f'{name}=$(echo "${encoded}"|base64 -d;echo x);export {name}="${{{name}%x}}";unset {encoded};'
    start = launch.start
    if prelude and not start:
        raise LaunchRefusedError(
            "a variable of the launch needs decoding and there is no start command to do it; nothing was sent"
        )
    if limits is not None and (whole := sum(len(name) + 1 + len(value) for name, value in env.items())) > limits.all:
        raise LaunchRefusedError(
            f"the variables of the launch are {whole} characters long, and the provider takes {limits.all}; nothing was sent"
        )
    if prelude or not _PLAIN_START.fullmatch(shlex.join(start)):
        script = f"unset IFS;set +f;{prelude}exec {shlex.join(start)}"
        # No double quote may appear: without separators and patterns, an unquoted substitution stays one word.
        start = ("/bin/sh", "-c", f"IFS=;set -f;eval $(echo {base64.b64encode(script.encode()).decode()}|base64 -d)")
    return EncodedLaunch(name=launch.name, image=launch.image, env=env, start=start)


def _cut(text: str, *, name: str, most: int) -> dict[str, str]:
    """`text` in variables `<name>_0`, `<name>_1` and so on, each of at most `most` characters with its name."""
    step = most - len(name) - len("_999=")
    return {f"{name}_{place}": text[begin : begin + step] for place, begin in enumerate(range(0, len(text), step))}
