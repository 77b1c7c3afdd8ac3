"""Attacks by real processes on a real guest, and the dishonest guest that plays the mock provider's faults."""
