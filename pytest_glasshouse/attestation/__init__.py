"""The attestation server: it verifies evidence, and releases a key once."""
