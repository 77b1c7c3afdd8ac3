"""The text that lora rows train on by default: in the public domain, and part of the package."""

from __future__ import annotations

from importlib import resources

CORPUS_NAME = "us-constitution.txt"
"""The Constitution of the United States (1787) with the Bill of Rights (1791): a work in the public domain."""


def read_corpus() -> str:
    """The text, read from a directory or a zip archive."""
    return resources.files(__name__).joinpath(CORPUS_NAME).read_text(encoding="utf-8")
