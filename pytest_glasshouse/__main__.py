"""`python -m pytest_glasshouse` is `glasshouse`."""

from __future__ import annotations

from pytest_glasshouse.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
