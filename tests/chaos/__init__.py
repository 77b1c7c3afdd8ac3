"""Runs that are interrupted at random: faults of the provider and kills of every process there is, from one seed each."""
