"""Benchmark rows as tests: prove that training on somebody else's GPU stayed protected, and what it cost."""
