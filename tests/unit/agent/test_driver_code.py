"""Libraries that no package brought are measured by name and content, wherever the loader found them."""

from __future__ import annotations

import ctypes

from pytest_glasshouse.agent.installed_code import Baseline
from pytest_glasshouse.guest.loaded_code import executable_maps
from tests.fake_nvml.driver import LIBRARY, Driver


def test_driver_that_a_guest_found_by_its_search_path_is_measured(driver: Driver) -> None:
    """The folder is the starter's choice; what was loaded from it is in the evidence, and a policy can require its digest."""
    content, measured = (driver.folder / LIBRARY).read_bytes(), []
    for folder, added in (("one", b""), ("other", b"\0")):
        path = driver.folder / folder / LIBRARY
        path.parent.mkdir()
        path.write_bytes(content + added)
        ctypes.CDLL(str(path))
        maps = [[str(path), executable_maps()[str(path)]]]
        measured.append(Baseline([]).measure_loaded({"maps": maps, "modules": [], "hooks": []}, archive="/none"))
        assert [*measured[-1].system] == [str(path)]
        assert measured[-1].foreign == ()
    assert measured[0].components["system"] != measured[1].components["system"]
