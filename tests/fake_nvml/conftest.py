"""Guests of these tests use the byte code that others compiled."""

from tests.rounds.conftest import kept_bytecode

__all__ = ["kept_bytecode"]
