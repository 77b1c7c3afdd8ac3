"""A launch in a form that survives being pasted: names, values and a start command of harmless letters only.

RunPod's SDK pastes values between quotes and Vast.ai turns them into flags of a command line. A value that could be read as
anything else travels as base64 in a variable of its own, and the first process decodes it before it becomes the start command.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_glasshouse.errors import LaunchRefusedError
from pytest_glasshouse.providers.base import Launch

#: Letters that mean themselves in a GraphQL string, in a flag's value and, the quote but for its own end, in a shell's word.
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:=+@,%-]*")
_PLAIN_START = re.compile(r"[A-Za-z0-9_./:=+@,%' -]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]*(?:@sha256:[0-9a-f]{64})?")
_WRAPPED = "GLASSHOUSE_B64_"


@dataclass(frozen=True, kw_only=True)
class Pasteable:
    """What is safe to paste."""

    name: str
    image: str
    env: Mapping[str, str] = field(repr=False)
    start: tuple[str, ...] = field(repr=False)


def environment(launch: Launch) -> dict[str, str]:
    """The launch's variables, with the run's public key where images look for one."""
    keys = {"PUBLIC_KEY": launch.public_key} if launch.public_key else {}
    return {**keys, **launch.env}


def checked(launch: Launch) -> Launch:
    """The launch, if name, image and variables' names can be. Raises `LaunchRefusedError`: nothing was sent."""
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


def pasteable(launch: Launch) -> Pasteable:
    """`launch` in harmless letters. Raises `LaunchRefusedError` for what cannot be put so."""
    checked(launch)
    env, prelude = {}, ""
    for name, value in environment(launch).items():
        if _PLAIN_VALUE.fullmatch(value):
            env[name] = value
            continue
        env[_WRAPPED + name] = base64.b64encode(value.encode()).decode()
        # The letter x keeps the line ends that a substitution would cut off.
        prelude += f'{name}=$(echo "${_WRAPPED}{name}"|base64 -d;echo x);export {name}="${{{name}%x}}";unset {_WRAPPED}{name};'
    start = launch.start
    if prelude and not start:
        raise LaunchRefusedError(
            "a variable of the launch needs decoding and there is no start command to do it; nothing was sent"
        )
    if prelude or not _PLAIN_START.fullmatch(shlex.join(start)):
        script = f"unset IFS;set +f;{prelude}exec {shlex.join(start)}"
        # No double quote may appear: with no separators and no patterns, an unquoted substitution stays one word.
        start = ("/bin/sh", "-c", f"IFS=;set -f;eval $(echo {base64.b64encode(script.encode()).decode()}|base64 -d)")
    return Pasteable(name=launch.name, image=launch.image, env=env, start=start)
