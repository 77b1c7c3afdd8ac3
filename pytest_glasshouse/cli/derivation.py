"""What the commands derive reports with: the project's own functions, and the appraisal of device evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from pytest_glasshouse.check.recompute import Derivation


def is_own(options: argparse.Namespace) -> bool:
    """Whether reports are derived with the project's functions: only such verdicts are kept for the next time."""
    return options.derivation is None


def derivation_of(options: argparse.Namespace) -> Derivation:
    """What `main` was given, else the project's. The check alone does not know the left wing's appraisers."""
    from pytest_glasshouse.attestation.reappraisal import device_faults
    from pytest_glasshouse.check.recompute import Derivation

    given: Derivation | None = options.derivation
    return Derivation(devices=device_faults) if given is None else given
