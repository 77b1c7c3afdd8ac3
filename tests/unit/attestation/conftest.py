"""What the tests of attestation share."""

from tests.unit.attestation.recorded import vectors

__all__ = ["vectors"]
