"""The rate limit of requests to providers, and what their answers show."""

from __future__ import annotations

import pytest

from pytest_glasshouse.providers.base import Launch
from pytest_glasshouse.providers.credentials import VAST_URL
from pytest_glasshouse.providers.http_api import Throttle, redact_line, redact_log
from pytest_glasshouse.providers.vastai import POLL_S, VastProvider
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.secret import Secret
from tests.loopback.providers import vastai


class Clock:
    """Time that passes only by waiting for it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_calls_are_an_interval_apart_and_the_first_is_at_once() -> None:
    clock = Clock()
    throttle = Throttle(10.0, monotonic=clock.monotonic, sleep=clock.sleep)
    throttle.wait()
    clock.now += 4.0
    throttle.wait()
    throttle.wait()
    clock.now += 25.0
    throttle.wait()
    assert clock.slept == [6.0, 10.0]


def test_each_kind_of_read_waits_ten_seconds_for_its_turn_and_an_end_never_waits() -> None:
    clock = Clock()
    with vastai(pods="none") as server:
        provider = VastProvider(
            key=Secret(server.cloud.account_key.encode()), base_url=server.url, poll_s=POLL_S, monotonic=clock.monotonic,
            sleep=clock.sleep,
        )  # fmt: skip
        row = RowSpec(name="r", workload="mlp", gpu="a4000", order="raw-first", target_s=1.0)
        made = provider.create(provider.offers(row)[0], launch=Launch(name="glasshouse-a-1-1", image="i", start=("true",)))
        provider.get(made.instance_id)
        provider.list()
        assert clock.slept == []
        provider.get(made.instance_id)
        assert clock.slept == [10.0]
        # By the time the one had waited, the other's ten seconds were over too.
        provider.list()
        assert clock.slept == [10.0]
        provider.list()
        assert clock.slept == [10.0, 10.0]
        provider.terminate(made.instance_id)
        provider.terminate(made.instance_id)
        assert clock.slept == [10.0, 10.0]


def test_vasts_own_api_is_asked_every_ten_seconds_and_each_page_counts() -> None:
    provider = VastProvider(key=Secret(b"key"), base_url=VAST_URL)
    assert provider.poll_s == 10.0
    clock = Clock()
    with vastai(pods="none") as server:
        from tests.loopback.orders import order

        for _ in range(30):
            server.cloud.create(order(), None)
        paged = VastProvider(
            key=Secret(server.cloud.account_key.encode()), base_url=server.url, poll_s=POLL_S, monotonic=clock.monotonic,
            sleep=clock.sleep,
        )  # fmt: skip
        assert len(paged.list()) == 30
        assert clock.slept == [10.0]
        for one in server.cloud.billing():
            server.cloud.vanish(one.instance_id)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the key topsecret-1 is bad", "the key *** is bad"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("see https://abc-8000.proxy.runpod.net/x?y=1 now", "see <url> now"),
        ("connect to 203.0.113.9:41234", "connect to <address>"),
        ("ssh root@203.0.113.9 -p 41234", "ssh root@<address> -p ***"),
        ("at abc123-22.proxy.runpod.net or ssh4.vast.ai:10022", "at <host> or <host>"),
        ("key ssh-ed25519 AAAAC3Nza run", "key <public key> run"),
        # Invisible characters are removed first: they would split a secret in two.
        ("a\x1b[31mred\x00", "a[31mred"),
        ("the key top\u200bsecret\x00-1 is bad", "the key *** is bad"),
        ("two\nlines  here", "two lines here"),
    ],
)
def test_a_message_is_one_line_without_secrets(text: str, shown: str) -> None:
    assert redact_line(text, secrets=["topsecret-1"]) == shown


def test_a_long_answer_is_cut() -> None:
    assert len(redact_line("x" * 5000)) == 241


def test_a_private_key_in_a_log_is_not_shown() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\ndef\n-----END OPENSSH PRIVATE KEY-----"
    assert redact_log(f"before\n{key}\nafter") == "before\n<key>\nafter"
