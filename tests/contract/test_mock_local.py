"""The contract for places that are this machine."""

import pytest

from pytest_glasshouse.guest import machine
from tests.contract.every_place import EveryPlace


class TestMock(EveryPlace):
    kind = "mock"


@pytest.mark.skipif(not machine.gpus(), reason="`local` stands only where there is a GPU")
class TestLocal(EveryPlace):
    kind = "local"
