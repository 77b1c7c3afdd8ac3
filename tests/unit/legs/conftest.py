"""One embedded attestation server for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_glasshouse.legs.attestation import HostAttestation


@pytest.fixture(scope="module")
def host_attestation() -> Iterator[HostAttestation]:
    made = HostAttestation()
    yield made
    made.close()
