"""A policy file for a run asks beside what the host asks by itself, and is refused early where no leg could satisfy it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.legs.allocation_policy import base_policy, policy_for, read_policy_file
from pytest_glasshouse.owner.policy import Policy, Recorded, Required
from pytest_glasshouse.owner.references import Hardware
from pytest_glasshouse.run.options import Options
from pytest_glasshouse.tamper.fake_gpu import genuine
from pytest_glasshouse.wire.canonical import sha256_hex

ARCHIVE = sha256_hex(guest_archive())
OTHER = sha256_hex(b"another")
BASE = base_policy(name="lab", archive_sha256=ARCHIVE, container="image", completion_s=60)


def written(tmp_path: Path, policy: Policy, **changes: Any) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({**policy.to_json(), **changes}))
    return path


def of(owner_policy: Policy | None) -> Policy:
    return policy_for(archive_sha256=ARCHIVE, allocation="box-1", completion_s=90, owner_policy=owner_policy)


def test_every_demand_of_the_file_is_made_on_each_allocation(tmp_path: Path) -> None:
    """A field that is dropped on the way is not required, unnoticed."""
    asked = dataclasses.replace(
        BASE, version=7, hardware=Hardware(required=("nvidia-gpu",)), locked=True, freshness_s=30, release_limit=2,
        components={**BASE.components, "torch": Required(sha256=OTHER)},
    )  # fmt: skip
    made = of(read_policy_file(written(tmp_path, asked)))
    assert made == dataclasses.replace(asked, name="lab/box-1/90", container="box-1", completion_s=90)


def test_without_a_file_the_host_asks_for_its_own_archive_and_nothing_foreign() -> None:
    made = of(None)
    assert (made.name, made.container, made.components["archive"]) == ("box-1/90", "box-1", Required(sha256=ARCHIVE))
    assert {name for name, item in made.components.items() if isinstance(item, Required)} == {"archive", "foreign"}
    assert (made.hardware, made.locked) == (None, False)


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ({"archive": Required(sha256=OTHER)}, "the guest archive"),
        ({"archive": Required(sha256=None)}, "the guest archive"),
        ({"archive": Recorded()}, "the guest archive"),
        ({"foreign": Recorded()}, "nothing foreign may be loaded"),
        ({"moon": Recorded()}, "moon differ"),
    ],
)
def test_a_policy_that_is_unsatisfiable_or_laxer_than_the_default_is_refused(
    tmp_path: Path, components: dict[str, Any], message: str
) -> None:
    changed = dataclasses.replace(BASE, components={**BASE.components, **components})
    with pytest.raises(ConfigurationError, match=message):
        read_policy_file(written(tmp_path, changed))


def test_a_component_left_out_is_refused(tmp_path: Path) -> None:
    components = {name: item for name, item in BASE.components.items() if name != "torch"}
    with pytest.raises(ConfigurationError, match="torch differ"):
        read_policy_file(written(tmp_path, dataclasses.replace(BASE, components=components)))


@pytest.mark.parametrize("changes", [{"locked": False}, {"locked": 1}, {"locked": None}, {"format": "x"}], ids=str)
def test_a_file_that_is_no_policy_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    """`locked: false` would read as a demand that is not made."""
    with pytest.raises(ConfigurationError, match="expected a policy"):
        Options(policy=written(tmp_path, BASE, **changes)).owner_policy  # noqa: B018


def test_a_missing_policy_file_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"--glasshouse-policy nowhere\.json: cannot be read"):
        read_policy_file(Path("nowhere.json"))


@pytest.mark.parametrize(("gpu", "models"), [("h100", ("GH100",)), ("anygpu", ("GB100",))])
def test_a_row_that_names_a_gpu_is_held_to_its_chip(gpu: str, models: tuple[str, ...]) -> None:
    """Whatever the policy names: a card of another kind is not what the row says it measured."""
    section = genuine(1_800_000_000).hardware()
    assert section.gpu is not None
    hardware = dataclasses.replace(section, gpu=dataclasses.replace(section.gpu, models=("GB100",)))
    captured = base_policy(name="n", archive_sha256=ARCHIVE, container="c", completion_s=1)
    policy = policy_for(
        archive_sha256=ARCHIVE, allocation="box-1", completion_s=90, gpu=gpu,
        owner_policy=dataclasses.replace(captured, hardware=hardware),
    )  # fmt: skip
    assert policy.hardware is not None
    assert policy.hardware.gpu is not None
    assert policy.hardware.gpu.models == models
