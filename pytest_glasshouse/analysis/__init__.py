"""The figures of a row, computed from what was observed of it."""
