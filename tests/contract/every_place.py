"""What every place promises. A suite for one place is a subclass with its name in `kind`, in a file `test_<place>.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.places import PLACES, manual_stop
from pytest_glasshouse.wire.canonical import sha256_hex
from tests.contract.conftest import Subject, row


class EveryPlace:
    """The contract. `opened(kind)` opens the provider, over a stand-in of the real place."""

    kind = ""

    @pytest.fixture
    def subject(self, opened: Callable[..., Subject]) -> Iterator[Subject]:
        """The provider under test; all that it made is ended."""
        one = opened(self.kind)
        yield one
        one.end()

    def test_offers_name_gpu_and_price_cheapest_first(self, subject: Subject) -> None:
        offers = subject.provider.offers(row())
        assert offers
        assert all(offer.gpu_model and offer.provider == subject.provider.name for offer in offers)
        prices = [offer.price_usd_per_hour for offer in offers]
        assert prices == sorted(prices)
        assert all(price > 0 for price in prices) == subject.provider.rents

    def test_an_allocation_is_shown_under_its_name_until_it_is_ended(self, subject: Subject) -> None:
        made = subject.create()
        shown = subject.provider.get(made.instance_id)
        assert shown is not None
        assert (shown.instance_id, shown.name) == (made.instance_id, made.name)
        assert [one.instance_id for one in subject.provider.list() if one.name == made.name] == [made.instance_id]
        subject.provider.terminate(made.instance_id)
        subject.until_gone(made)
        assert made.name not in {one.name for one in subject.provider.list() if one.state != "ended"}

    def test_a_running_allocation_has_an_address(self, subject: Subject) -> None:
        made = subject.create()
        subject.until_running(made)
        shown = subject.provider.get(made.instance_id)
        assert shown is not None
        assert (shown.state, type(shown.access)) == ("running", subject.access)

    def test_two_allocations_have_ids_of_their_own(self, subject: Subject) -> None:
        first, second = subject.create(), subject.create()
        assert first.instance_id != second.instance_id
        subject.provider.terminate(first.instance_id)
        subject.until_gone(first)
        assert subject.provider.get(second.instance_id) is not None

    def test_terminating_an_allocation_that_is_gone_is_no_error(self, subject: Subject) -> None:
        """Cleanup runs more than once: after a signal, at the end, in the reaper."""
        made = subject.create()
        for _ in range(3):
            subject.provider.terminate(made.instance_id)
        subject.until_gone(made)

    def test_an_unknown_id_is_none_and_can_be_terminated(self, subject: Subject) -> None:
        assert subject.provider.get("404404") is None
        subject.provider.terminate("404404")

    def test_logs_are_text(self, subject: Subject) -> None:
        made = subject.create()
        assert isinstance(subject.provider.logs(made.instance_id), str)

    def test_the_guest_archive_is_this_installations(self, subject: Subject) -> None:
        assert subject.provider.archive_sha256 == sha256_hex(guest_archive())

    def test_an_account_can_be_read_before_anything_is_rented(self, subject: Subject) -> None:
        account = subject.provider.account()
        assert account.balance_usd == subject.balance_usd

    def test_what_stands_in_for_a_real_place_is_marked_as_simulated(self, subject: Subject) -> None:
        assert subject.provider.simulated == (not subject.provider.this_machine)
        assert not (subject.provider.this_machine and subject.provider.rents)

    def test_its_line_in_the_table_says_what_it_is(self, subject: Subject) -> None:
        """Other rooms decide by the table, before the provider is opened."""
        place = PLACES[subject.provider.name]
        assert (place.rents, place.on_this_machine) == (subject.provider.rents, subject.provider.this_machine)
        assert manual_stop(place.name, "id-1")

    def test_faults_are_played_by_the_mock_alone(self, subject: Subject) -> None:
        if subject.provider.name == "mock":
            return
        with pytest.raises(ConfigurationError, match="plays no faults"):
            subject.provider.inject_fault("404404", "kill")
