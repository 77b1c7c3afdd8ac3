"""The arithmetic of overheads: intervals, verdicts, pooling. It knows numbers and nothing else."""
