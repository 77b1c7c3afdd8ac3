"""The contract for places that rent: RunPod by either API, and Vast.ai. What is theirs alone: `test_renting.py`."""

from tests.contract.every_place import EveryPlace


class TestRunPodRest(EveryPlace):
    kind = "runpod-rest"


class TestRunPodSdk(EveryPlace):
    kind = "runpod-sdk"


class TestVastAi(EveryPlace):
    kind = "vastai"
