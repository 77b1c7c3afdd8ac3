"""Which machines of the user's own a command looks at: by its options, else by the variables of the plugin's options."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from pytest_glasshouse.providers.place_settings import OwnMachines

if TYPE_CHECKING:
    import argparse


def declare_machines(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--host", action="append", metavar="NAME",
        help="a machine of your own, as `ssh NAME` takes it (provider ssh); repeatable (default: GLASSHOUSE_HOST)",
    )  # fmt: skip
    parser.add_argument(
        "--remote-python", metavar="PATH", help="the Python of these machines (default: GLASSHOUSE_REMOTE_PYTHON, or python3)"
    )


def machines_of(options: argparse.Namespace) -> OwnMachines:
    """What the options say."""
    machines = OwnMachines.from_environment(os.environ)
    return dataclasses.replace(
        machines,
        hosts=tuple(options.host) if options.host else machines.hosts,
        remote_python=options.remote_python or machines.remote_python,
    )
