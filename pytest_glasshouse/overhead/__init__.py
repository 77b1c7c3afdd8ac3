"""The arithmetic of overheads: intervals, verdicts, pooling. Pure functions of numbers."""
