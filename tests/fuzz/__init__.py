"""Fuzzing of the readers of untrusted input."""
