"""Benchmark rows, and measurements of this project itself; see README.md."""
