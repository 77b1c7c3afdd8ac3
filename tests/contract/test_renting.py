"""Creating on a provider that rents: what arrives, what is asked how often, and what each failure is called.

After every failure the account is inspected: it must match the error.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    CredentialsError,
    FundsError,
    GlasshouseError,
    LaunchRefusedError,
    NoCapacityError,
    ProviderError,
    RateLimitedError,
    TerminateError,
)
from pytest_glasshouse.providers.base import SshAccess
from pytest_glasshouse.providers.listing import doubt_in
from pytest_glasshouse.rows.spec import GPU_MODELS
from tests.contract.conftest import Subject, row
from tests.limits import until
from tests.loopback.manual_clock import ManualClock

#: Values that break a request they are pasted into: quotes, a line end, a closing brace, a substitution, letters beyond ASCII.
HOSTILE = 'a"b\'c\\d\ne $(id) `id` } ) { x: "y", ü \t%s\n\n'
SECRET = "s3cr3t-" + "value-of-the-run" * 2

#: Everything that can go wrong with one create: the fault, what it is called, and whether something exists afterwards.
FAILURES: list[tuple[str, dict[str, Any], type[GlasshouseError], int]] = [
    ("lost-answer", {}, AmbiguousCreateError, 1),
    ("500-after", {}, AmbiguousCreateError, 1),
    ("html-after", {}, AmbiguousCreateError, 1),
    ("null-pod", {}, AmbiguousCreateError, 1),
    ("late-create", {"after_s": 5.0}, AmbiguousCreateError, 1),
    ("hang-up", {}, AmbiguousCreateError, 0),
    ("500", {}, AmbiguousCreateError, 0),
    ("503", {}, AmbiguousCreateError, 0),
    ("html-502", {}, AmbiguousCreateError, 0),
    ("429", {}, RateLimitedError, 0),
    ("429", {"retry_after_s": 7}, RateLimitedError, 0),
    ("401", {}, CredentialsError, 0),
    ("no-capacity", {}, NoCapacityError, 0),
    ("no-funds", {}, FundsError, 0),
    ("bad-request", {}, LaunchRefusedError, 0),
]


@pytest.mark.parametrize(("kind", "fields", "expected", "exists"), FAILURES)
def test_a_failed_create_raises_the_error_that_matches_whether_something_exists(
    rented: Subject, kind: str, fields: dict[str, Any], expected: type[GlasshouseError], exists: int
) -> None:
    clock = ManualClock()
    rented.cloud.run_on(clock)
    offer = rented.offer()
    rented.fault(kind, **fields)
    launch = rented.launch()
    before = len(rented.cloud.asked)
    with pytest.raises(expected) as caught:
        rented.provider.create(offer, launch=launch)
    assert type(caught.value) is expected
    assert rented.cloud.faults.left() == ()
    # Asked once, whatever came back: a create that is sent again is a second bill.
    assert rented.cloud.asked[before:].count("create") == 1
    if expected is AmbiguousCreateError:
        assert caught.value.allocation_id == launch.name
        assert launch.name in str(caught.value)
    if exists:
        clock.advance(fields.get("after_s", 0.0))
        (found,) = rented.provider.list()
        assert found.name == launch.name
        rented.provider.terminate(found.instance_id)
    assert len(rented.cloud.rented) == exists


def test_a_providers_retry_after_is_passed_on(rented: Subject) -> None:
    rented.fault("429", on="list", retry_after_s=7)
    with pytest.raises(RateLimitedError) as caught:
        rented.provider.list()
    assert caught.value.retry_after_s == 7.0


def test_a_key_that_is_not_accepted_is_a_credentials_error(rented: Subject) -> None:
    accepted, rented.cloud.account_key = rented.cloud.account_key, "another"
    for ask in (rented.provider.list, rented.provider.account, lambda: rented.provider.offers(row())):
        with pytest.raises(CredentialsError, match="not accepted"):
            ask()
    rented.cloud.account_key = accepted
    assert rented.provider.list() == ()


@pytest.mark.parametrize("kind", ["500", "503", "html-502", "hang-up", "429", "401"])
@pytest.mark.parametrize("operation", ["get", "list"])
def test_a_failed_read_is_an_error_and_never_an_empty_answer(rented: Subject, operation: Any, kind: str) -> None:
    """A listing that fails and reads as empty proves an end that never was."""
    made = rented.create()
    rented.fault(kind, on=operation)
    read: Callable[[], Any] = rented.provider.list if operation == "list" else lambda: rented.provider.get(made.instance_id)
    with pytest.raises((ProviderError, CredentialsError)):
        read()
    assert rented.cloud.faults.left() == ()
    assert read()


@pytest.mark.parametrize("kind", ["500", "503", "html-502", "hang-up", "429", "401", "refused"])
def test_an_end_that_is_refused_says_that_it_may_still_bill(rented: Subject, kind: str) -> None:
    made = rented.create()
    rented.fault(kind, on="terminate", times=2)
    for _ in range(2):
        with pytest.raises(TerminateError, match="may still be billing") as caught:
            rented.provider.terminate(made.instance_id)
        assert caught.value.allocation_id == made.instance_id
        assert len(rented.cloud.billing()) == 1
    rented.provider.terminate(made.instance_id)
    assert rented.cloud.billing() == ()


@pytest.mark.parametrize("kind", ["lost-answer", "500-after", "html-after"])
def test_an_end_whose_answer_is_lost_may_be_asked_for_again(rented: Subject, kind: str) -> None:
    made = rented.create()
    rented.fault(kind, on="terminate")
    with pytest.raises(TerminateError):
        rented.provider.terminate(made.instance_id)
    rented.provider.terminate(made.instance_id)
    assert rented.provider.get(made.instance_id) is None


@pytest.mark.parametrize(("kind", "state"), [("stuck", "pending"), ("error-state", "failed"), ("unknown-state", "unknown")])
def test_provider_states_are_translated_and_unrecognised_ones_are_unknown(rented: Subject, kind: str, state: str) -> None:
    rented.fault(kind)
    made = rented.create()
    shown = rented.provider.get(made.instance_id)
    assert shown is not None
    assert shown.state == state
    assert shown.access is None
    assert [one.state for one in rented.provider.list()] == [state]
    assert len(rented.cloud.billing()) == 1


def test_a_container_that_ended_is_stopped_and_bills_on(rented: Subject) -> None:
    made = rented.create()
    rented.cloud.kill(made.instance_id)
    shown = rented.provider.get(made.instance_id)
    assert shown is not None
    assert shown.state == "stopped"
    assert len(rented.cloud.billing()) == 1


def test_another_gpu_than_was_ordered_is_shown_by_its_own_name(rented: Subject) -> None:
    rented.fault("wrong-gpu")
    offer = rented.offer()
    made = rented.create()
    shown = rented.provider.get(made.instance_id)
    assert shown is not None
    assert shown.gpu_model not in {None, offer.gpu_model}


def test_the_gpu_that_was_ordered_is_recognised(rented: Subject) -> None:
    offers = {offer.gpu_model: offer for offer in rented.provider.offers(row())}
    assert set(offers) == set(GPU_MODELS.values())
    for model, offer in offers.items():
        made = rented.provider.create(offer, launch=rented.launch())
        shown = rented.provider.get(made.instance_id)
        assert shown is not None
        assert shown.gpu_model == model
        assert shown.price_usd_per_hour == offer.price_usd_per_hour


def test_an_instance_that_vanishes_is_gone(rented: Subject) -> None:
    made = rented.create()
    rented.cloud.vanish(made.instance_id)
    assert rented.provider.get(made.instance_id) is None
    assert rented.provider.list() == ()


def test_an_instance_that_restarts_keeps_its_id_and_changes_its_port(rented: Subject) -> None:
    made = rented.create()
    first = rented.provider.get(made.instance_id)
    rented.cloud.restart(made.instance_id)
    second = rented.provider.get(made.instance_id)
    assert first is not None
    assert second is not None
    assert isinstance(first.access, SshAccess)
    assert isinstance(second.access, SshAccess)
    assert first.access.port != second.access.port


def test_an_instance_that_reappears_after_its_end_is_listed_again(rented: Subject) -> None:
    clock = ManualClock()
    rented.cloud.run_on(clock)
    made = rented.create()
    rented.fault("comes-back", on="terminate", after_s=5.0)
    rented.provider.terminate(made.instance_id)
    assert rented.provider.list() == ()
    clock.advance(5.0)
    assert [one.instance_id for one in rented.provider.list()] == [made.instance_id]
    rented.provider.terminate(made.instance_id)


def test_an_end_that_was_accepted_and_not_carried_out_can_be_seen(rented: Subject) -> None:
    made = rented.create()
    rented.fault("silent", on="terminate")
    rented.provider.terminate(made.instance_id)
    assert [one.instance_id for one in rented.provider.list()] == [made.instance_id]
    assert rented.provider.get(made.instance_id) is not None


def test_an_instance_that_has_ended_may_be_listed_a_moment_longer(rented: Subject) -> None:
    clock = ManualClock()
    rented.cloud.run_on(clock)
    made = rented.create()
    rented.fault("lag", on="terminate", after_s=5.0)
    rented.provider.terminate(made.instance_id)
    assert rented.cloud.billing() == ()
    assert len(rented.provider.list()) == 1
    clock.advance(5.0)
    assert rented.provider.list() == ()


def test_the_listing_is_whole_or_says_that_it_may_not_be(rented: Subject) -> None:
    for _ in range(3):
        rented.create()
    if rented.kind == "runpod-rest":
        # A next page that does not know what it is asked for, and begins at the beginning.
        rented.fault("second-page", on="list")
        shown = rented.provider.list()
        assert (len(shown), "shown twice" in doubt_in(shown)) == (3, True)
    if rented.kind == "vastai":
        rented.fault("second-page", on="list", times=3)
        shown = rented.provider.list()
        assert (len(shown), doubt_in(shown)) == (3, "")
        rented.fault("short-list", on="list")
        shown = rented.provider.list()
        assert (len(shown), "shows 2 of 3" in doubt_in(shown)) == (2, True)
    shown = rented.provider.list()
    assert (len(shown), doubt_in(shown)) == (3, "")


def test_allocations_of_others_are_left_out_and_left_alone(rented: Subject) -> None:
    """An account is shared: what this project did not name is none of its business."""
    others = rented.cloud.create(_order("somebody-elses"), None)
    rented.create()
    assert [one.name.startswith("glasshouse-") for one in rented.provider.list()] == [True]
    rented.cloud.vanish(others.instance_id)


def test_offers_above_the_price_are_left_out_and_the_cheapest_is_named(opened: Callable[..., Subject]) -> None:
    for kind in ("runpod-rest", "runpod-sdk", "vastai"):
        capped = opened(kind, max_price=0.5)
        assert {offer.price_usd_per_hour for offer in capped.provider.offers(row())} == {0.25, 0.46}
        with pytest.raises(NoCapacityError, match=r"above 0\.5 USD per hour; the cheapest seen is 2\.69"):
            capped.provider.offers(row("h100"))


def test_no_stock_is_no_capacity(rented: Subject) -> None:
    rented.fault("no-capacity", on="offers", times=5)
    with pytest.raises(NoCapacityError, match="Nothing was created"):
        rented.provider.offers(row())
    while rented.cloud.faults.take("offers"):
        pass


def test_environment_values_arrive_unchanged_whatever_they_hold(running: Subject) -> None:
    """RunPod's SDK pastes values between quotes: a quote in one of them would rewrite the request."""
    script = (
        "import json,os,sys;print(json.dumps([os.environ['HOSTILE'],os.environ['PLAIN'],sys.argv[1:],os.environ['PUBLIC_KEY']]))"
    )
    made = running.create(
        "python3", "-c", script + ";import time;time.sleep(60)", HOSTILE, "two words",
        env={"HOSTILE": HOSTILE, "PLAIN": "1", "PYTHONUNBUFFERED": "1"}, public_key="ssh-ed25519 AAAA/+= run",
    )  # fmt: skip
    pod = running.cloud.rented[made.instance_id].pod
    until(lambda: pod.logs().endswith("\n"), "what the pod prints")
    assert json.loads(pod.logs()) == [HOSTILE, "1", [HOSTILE, "two words"], "ssh-ed25519 AAAA/+= run"]
    assert not [name for name in pod.environment if "B64" in name] or running.kind != "runpod-rest"


def test_long_values_arrive_whole_where_the_provider_takes_short_ones_only(running: Subject) -> None:
    """Vast.ai's description of its API limits each variable to 256 characters; the first process's code has thousands."""
    values = {"LONG": "a/b+c=" * 1000, "ODD": HOSTILE * 20, "EDGE": "e" * 251, "OVER": "o" * 252}
    script = f"import json,os;print(json.dumps([os.environ[n] for n in {list(values)}]));import time;time.sleep(60)"
    made = running.create("python3", "-u", "-c", script, env=values)
    pod = running.cloud.rented[made.instance_id].pod
    until(lambda: pod.logs().endswith("\n"), "what the pod prints")
    assert json.loads(pod.logs()) == list(values.values())


def test_logs_are_what_the_guest_printed_without_keys_and_addresses(running: Subject) -> None:
    key = running.cloud.account_key
    made = running.create("sh", "-c", f"echo booted {key} at 203.0.113.9:2222; sleep 60")
    pod = running.cloud.rented[made.instance_id].pod
    until(lambda: pod.logs().endswith("\n"), "what the pod prints")
    text = running.provider.logs(made.instance_id)
    if running.kind == "runpod-sdk":
        assert "shows no logs" in text
    else:
        assert text.strip() == "booted *** at <address>"


def test_a_malformed_launch_is_refused_before_anything_is_sent(rented: Subject) -> None:
    offer = rented.offer()
    before = len(rented.cloud.asked)
    for fields in ({"env": {'A" }': "1"}}, {"env": {"A": "\0"}}):
        with pytest.raises(LaunchRefusedError, match="nothing was sent"):
            rented.provider.create(offer, launch=rented.launch(**fields))
    assert rented.cloud.asked[before:] == []


def test_an_unreachable_api_means_that_nothing_was_created(opened: Callable[..., Subject]) -> None:
    for kind in ("runpod-rest", "runpod-sdk", "vastai"):
        one = opened(kind)
        offer, launch = one.offer(), one.launch()
        assert one.server is not None
        one.server.close()
        with pytest.raises(ProviderError, match="nothing was asked") as caught:
            one.provider.create(offer, launch=launch)
        assert not isinstance(caught.value, AmbiguousCreateError)


@pytest.mark.parametrize(
    "kind", ["lost-answer", "500-after", "html-after", "429", "401", "no-funds", "bad-request", "no-capacity"]
)
def test_no_error_shows_a_key_a_value_or_an_address(rented: Subject, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not in its text, and not in a traceback with every local variable, which is what `--showlocals` prints."""
    caplog.set_level(logging.DEBUG)
    offer = rented.offer()
    launch = rented.launch(env={"TOKEN": SECRET, "ODD": SECRET + '"\n'}, public_key="ssh-ed25519 AAAAC3Nz run")
    rented.fault(kind)
    with pytest.raises(GlasshouseError) as caught:
        rented.provider.create(offer, launch=launch)
    _assert_nothing_shows(rented, caught.value, caplog.text)


@pytest.mark.parametrize("kind", ["hang-up", "html-502", "500", "429", "401"])
@pytest.mark.parametrize("operation", ["offers", "get", "list", "terminate", "account"])
def test_no_error_of_another_request_shows_them_either(
    rented: Subject, operation: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = rented.create(env={"TOKEN": SECRET})
    if operation == "account" and rented.kind == "runpod-rest":
        operation = "list"  # it has no request of its own for that
    ask: dict[str, Callable[[], Any]] = {
        "offers": lambda: rented.provider.offers(row()),
        "get": lambda: rented.provider.get(made.instance_id),
        "list": rented.provider.list,
        "terminate": lambda: rented.provider.terminate(made.instance_id),
        "account": rented.provider.account,
    }
    rented.fault(kind, on=operation)
    with pytest.raises(GlasshouseError) as caught:
        ask[operation]()
    _assert_nothing_shows(rented, caught.value, caplog.text)


def _assert_nothing_shows(rented: Subject, error: BaseException, logged: str) -> None:
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    # The frames of this test hold the account itself; everything else is what a user's terminal would show.
    ours = "\n".join(line for line in text.splitlines() if "rented = " not in line)
    for hidden in (rented.cloud.account_key, SECRET, "Bearer", "podFindAndDeploy"):
        assert hidden not in ours
        assert hidden not in logged
    assert "127.0.0.1" not in str(error)
    assert rented.cloud.account_key not in repr(rented.provider) + repr(vars(rented.provider))


def test_an_instance_hides_its_address(rented: Subject) -> None:
    made = rented.create()
    shown = rented.provider.get(made.instance_id)
    assert shown is not None
    assert isinstance(shown.access, SshAccess)
    assert "127.0.0.1" not in repr(shown)
    assert str(shown.access.port) not in repr(shown)


def _order(name: str) -> Any:
    from tests.loopback.cloud import Order

    return Order(name=name, image="i", gpu="NVIDIA RTX A4000", command=(), env={}, ports=["22/tcp"], disk_gb=1)
