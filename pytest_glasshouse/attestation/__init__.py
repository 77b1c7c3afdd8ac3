"""The attestation server: verifies evidence and releases each data key once."""
