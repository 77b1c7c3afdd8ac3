"""Shared by every test."""

from __future__ import annotations

pytest_plugins = ["pytester", "tests.loopback.fixtures", "tests.slurm.fixtures"]
