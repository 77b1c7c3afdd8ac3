"""A check counts only where the product reaches it: from a row, a server, a guest or a command. See `reached`."""

from __future__ import annotations

import pytest

from tests.tamper import reached
from tests.tamper.removal import checks_in
from tests.tamper.server_checks import CHECKS

#: Rooms that refuse untrusted input. (`plugin/` refuses user input, and is tested by using it.)
_REFUSING = (
    "wire", "attestation", "owner", "agent", "guest", "invariants", "observation", "analysis", "report", "publish", "check", "legs", "channel",
)  # fmt: skip


def test_every_check_is_reached_from_a_row_a_server_a_guest_or_a_command() -> None:
    """A check that only the tamper suite calls makes its cases refuse what the product takes."""
    checks = [
        each
        for name, path in reached.product()
        if name.split(".")[1:2] and name.split(".")[1] in _REFUSING
        for each in checks_in(name, path.read_text("utf-8"))
    ]
    assert len(checks) > 600
    assert [str(each) for each in checks if not reached.is_reached(each.module, each.function)] == []


def test_every_check_of_the_server_is_reached() -> None:
    found = {(each.module.__name__, each.function) for each in CHECKS}
    everything = reached.reached()
    assert [
        each for each in found if not any(name.startswith(each[0]) and name.endswith(f".{each[1]}") for name in everything)
    ] == []


@pytest.mark.parametrize(
    "name",
    [
        "wire.journal.check_steps",
        "wire.journal.check_head",
        "attestation.verifier.appraise",
        "attestation.server.AttestationServer._release",
        "guest.opener.open_package",
        "check.check.check_bytes",
        "invariants.lifecycle.journal_countersigned",
    ],
)
def test_essential_functions_are_reached(name: str) -> None:
    """The graph finds what is there."""
    assert f"pytest_glasshouse.{name}" in reached.reached()


def test_function_that_the_product_does_not_call_is_not_reached() -> None:
    """Some functions are not reached: the tamper suite's own functions, and what starts in a guest where only a check is an entrance."""
    everything = reached.reached()
    suite = {name for name in everything if name.startswith("pytest_glasshouse.tamper.")}
    assert {name for name in suite if not name.startswith("pytest_glasshouse.tamper.result.")} == set()
    assert "pytest_glasshouse.agent.main.main" in everything
    from_check = reached.reached(("cli.check.declare",))
    assert "pytest_glasshouse.check.check.check_bytes" in from_check
    assert "pytest_glasshouse.agent.main.main" not in from_check
