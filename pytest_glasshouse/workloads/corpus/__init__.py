"""The text that lora rows train on unless they name their own: public domain, in the tree, the same for everybody."""

from __future__ import annotations

from importlib import resources

CORPUS_NAME = "us-constitution.txt"
"""The Constitution of the United States (1787) with the Bill of Rights (1791): a work in the public domain."""


def read_corpus() -> str:
    """The text, read so that it is found in a zip archive too."""
    return resources.files(__name__).joinpath(CORPUS_NAME).read_text(encoding="utf-8")
