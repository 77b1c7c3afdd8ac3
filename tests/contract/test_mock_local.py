"""The contract for places that are this machine."""

import pytest

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.providers.guest_python import device_here, guest_folders
from tests.contract.every_place import EveryPlace


class TestMock(EveryPlace):
    kind = "mock"


class TestLocal(EveryPlace):
    kind = "local"

    @pytest.fixture(autouse=True)
    def only_with_a_gpu(self) -> None:
        if device_here(guest_archive(), guest_folders()).name != "cuda":
            pytest.skip("`local` stands only where there is a GPU")
