"""Attacks that real processes carry out on a real guest, and the guest that cheats for the mock provider's faults."""
