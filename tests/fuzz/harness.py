"""`python -m tests.fuzz.harness [TARGET] [libFuzzer options]`: atheris on one target, or on all of them in turn.

    nice python -m tests.fuzz.harness all -max_total_time=600

A crash leaves its input in a file `crash-...`; run the same command with that file's name to see it again.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pytest_glasshouse", "rfc8785"]):
    from tests.fuzz.targets import TARGETS


def each_in_turn(data: bytes) -> None:
    """The first byte selects the target."""
    names = sorted(TARGETS)
    TARGETS[names[(data or b"\0")[0] % len(names)]](data[1:])


def main() -> None:
    """Fuzz until interrupted."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "all"
    if name != "all" and name not in TARGETS:
        sys.exit(f"expected all or one of {', '.join(sorted(TARGETS))}; saw {name}")
    atheris.Setup(sys.argv, each_in_turn if name == "all" else TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
