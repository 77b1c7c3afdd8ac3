"""A real Slurm on loopback, and what runs on it."""
